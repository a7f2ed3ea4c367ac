//! Values collected elsewhere, made into the text format.
//!
//! Not here: which values. Invariant: every sample has exactly the labels that its [`Metric`] declares.

use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use protocol::stats::{BUCKET_BOUNDS_US, Histogram};

use super::names::{Kind, Metric};

/// The content type of [`Families::text`].
pub(crate) use prometheus::TEXT_FORMAT;

/// Samples by metric, in the order in which the metrics came.
#[derive(Debug, Default)]
pub(crate) struct Families {
    families: Vec<(Metric, Vec<proto::Metric>)>,
}

impl Families {
    /// Adds one sample of a counter or gauge; `labels` are the metric's, in its order.
    pub(crate) fn add(&mut self, metric: Metric, labels: &[&str], value: f64) {
        let mut sample = labelled(metric, labels);
        match metric.kind {
            Kind::Counter => sample.set_counter({
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                counter
            }),
            Kind::Gauge => sample.set_gauge({
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                gauge
            }),
            Kind::Histogram => unreachable!("{} has buckets", metric.name),
        }
        self.push(metric, sample);
    }

    /// Adds one whole histogram.
    pub(crate) fn add_histogram(&mut self, metric: Metric, labels: &[&str], durations: &Histogram) {
        let mut sample = labelled(metric, labels);
        let mut histogram = proto::Histogram::default();
        let mut sum = 0;
        let bucket = |(count, bound_us): (&u64, &u64)| {
            sum += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_cumulative_count(sum);
            bucket.set_upper_bound(*bound_us as f64 / 1e6);
            bucket
        };
        histogram.set_bucket(durations.counts.iter().zip(&BUCKET_BOUNDS_US).map(bucket).collect());
        histogram.set_sample_count(durations.count());
        histogram.set_sample_sum(durations.sum_us as f64 / 1e6);
        sample.set_histogram(histogram);
        self.push(metric, sample);
    }

    /// The text format, version 0.0.4.
    pub(crate) fn text(self) -> String {
        let families: Vec<MetricFamily> = self.families.into_iter().map(family).collect();
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("families have names and samples, and memory takes them");
        String::from_utf8(text).expect("made of strings")
    }

    fn push(&mut self, metric: Metric, sample: proto::Metric) {
        match self.families.iter_mut().find(|(m, _)| m.name == metric.name) {
            Some((_, samples)) => samples.push(sample),
            None => self.families.push((metric, vec![sample])),
        }
    }
}

fn labelled(metric: Metric, values: &[&str]) -> proto::Metric {
    assert_eq!(metric.labels.len(), values.len(), "{} has labels {:?}", metric.name, metric.labels);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    proto::Metric::from_label(metric.labels.iter().zip(values).map(pair).collect())
}

fn family((metric, samples): (Metric, Vec<proto::Metric>)) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(samples);
    family
}
