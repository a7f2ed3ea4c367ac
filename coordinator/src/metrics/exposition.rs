//! A strict reader of Prometheus' text format, for tests: what it lets through, a scraper takes.
//!
//! Checked: `HELP` and `TYPE` once and ahead of a family's samples, families in one piece, names and labels of legal
//! characters, no series twice, counters not negative, histograms cumulative with `+Inf` equal to `_count`.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// Type of each family.
    pub(crate) kinds: BTreeMap<String, String>,
    /// Every sample: name, labels, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Exposition {
    /// Reads a whole scrape.
    ///
    /// # Errors
    /// The first line that is not as it should be, and why.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        let mut helped = BTreeSet::new();
        let mut family = String::new();
        if !text.ends_with('\n') {
            return Err("the last line is cut".to_owned());
        }
        for line in text.lines() {
            let wrong = |why: &str| format!("{why}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| wrong("no help"))?;
                if help.is_empty() || !helped.insert(name.to_owned()) {
                    return Err(wrong("help that is empty or there already"));
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("no type"))?;
                let known = ["counter", "gauge", "histogram"].contains(&kind);
                if !known || !helped.contains(name) || out.kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return Err(wrong("a type that is unknown, without help, or there already"));
                }
                family = name.to_owned();
            } else {
                out.samples.push(sample(line, &family).ok_or_else(|| wrong("no sample of this family"))?);
            }
        }
        out.check().map(|()| out)
    }

    /// Sum over the series of this name that have these labels; `None` without any.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has =
            |of: &BTreeMap<String, String>| labels.iter().all(|(k, v)| of.get(*k).is_some_and(|found| found == v));
        self.samples.iter().filter(|(n, of, _)| n == name && has(of)).map(|(_, _, v)| *v).reduce(|a, b| a + b)
    }

    fn check(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (name, labels, value) in &self.samples {
            if !seen.insert((name, labels)) {
                return Err(format!("{name} {labels:?} is there twice"));
            }
            if self.kinds.get(name).is_some_and(|kind| kind == "counter") && *value < 0.0 {
                return Err(format!("{name} is a counter of {value}"));
            }
        }
        let histograms = self.kinds.iter().filter(|(_, kind)| *kind == "histogram");
        histograms.map(|(name, _)| name).try_for_each(|name| self.check_histogram(name))
    }

    fn check_histogram(&self, name: &str) -> Result<(), String> {
        let mut last: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
        for (_, labels, count) in self.samples.iter().filter(|(n, _, _)| *n == format!("{name}_bucket")) {
            let mut labels = labels.clone();
            let bound = labels.remove("le").ok_or_else(|| format!("a bucket of {name} without le"))?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| bound)? };
            let before = last.insert(labels, (bound, *count)).unwrap_or((f64::NEG_INFINITY, 0.0));
            if before.0 >= bound || before.1 > *count {
                return Err(format!("{name}: buckets {before:?} and {:?}", (bound, count)));
            }
        }
        for (labels, (bound, count)) in last {
            let labels: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let whole = self.value(&format!("{name}_count"), &labels);
            if bound != f64::INFINITY || whole != Some(count) || self.value(&format!("{name}_sum"), &labels).is_none() {
                return Err(format!("{name} {labels:?} ends with {count} of {whole:?} at {bound}"));
            }
        }
        Ok(())
    }
}

fn sample(line: &str, family: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let name_len = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_len);
    let suffix = name.strip_prefix(family)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if !["", "_bucket", "_sum", "_count"].contains(&suffix) || !name.chars().all(legal) {
        return None;
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        let mut inside = inside;
        loop {
            let (label, after) = inside.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            if !label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                || labels.insert(label.to_owned(), value).is_some()
            {
                return None;
            }
            match after.strip_prefix(',') {
                Some(more) => inside = more,
                None => {
                    rest = after.strip_prefix('}')?;
                    break;
                }
            }
        }
    }
    Some((name.to_owned(), labels, rest.strip_prefix(' ')?.parse().ok()?))
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}
