//! One run: finds out how the endpoint wants to be asked, warms it up, drives it, adds up.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::calibration::calibrate;
use super::call::Caller;
use super::drive::Drive;
use super::progress::Progress;
use super::report::{ClientCost, Report, Throughput};
use super::server_side::{Counted, ServerSide};
use super::settings::{Mode, Settings};
use super::tally::Tally;
use crate::openai::{CallError, Endpoint};

/// Records on their way to the tally.
const RECORDS_MAX: usize = 1024;
/// How often progress is shown.
const SHOW: Duration = Duration::from_millis(200);
/// Requests at a time while the endpoint is warmed up in an open loop.
const WARM_UP_SIDE_BY_SIDE: u32 = 8;

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The endpoint does not take the first requests.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Stopped before it began.
    #[error("stopped before the first measured request")]
    Stopped,
}

/// Runs it; at `stop` it ends with what there is so far.
///
/// # Errors
/// [`BenchError`]; a request that fails during the run is part of the report.
pub(crate) async fn run(
    settings: Settings,
    endpoint: Endpoint,
    command: Vec<String>,
    stop: CancellationToken,
) -> Result<Report, BenchError> {
    let settings = Arc::new(settings);
    let url = endpoint.url().to_owned();
    let model = match &settings.model {
        Some(model) => model.clone(),
        None => stop.run_until_cancelled(endpoint.first_model()).await.ok_or(BenchError::Stopped)??,
    };
    let mut caller = Caller::new(endpoint.clone(), model.clone(), Arc::clone(&settings), stop.clone());
    calibrate(&mut caller).await?;
    let side_by_side = match settings.mode {
        Mode::Closed { loops } => loops,
        Mode::Agents(trace) => trace.conversations,
        Mode::Open { .. } => WARM_UP_SIDE_BY_SIDE,
    };
    Drive::warm_up(&caller, &settings, side_by_side).await;
    if stop.is_cancelled() {
        return Err(BenchError::Stopped);
    }
    let dialect = caller.dialect();
    let before = Counted::read(&endpoint, &model).await;
    let (date, cpu_before, started) = (now(), cpu_time(), Instant::now());
    let tally = measure(Arc::clone(&settings), caller, stop.clone()).await;
    let elapsed_s = started.elapsed().as_secs_f64();
    let cpu_share = cpu_time().saturating_sub(cpu_before).as_secs_f64() / elapsed_s;
    let (requests, tokens) = (tally.counts(), tally.tokens());
    let server = match before {
        Some(before) => ServerSide::since(&before, &endpoint, &model, requests.done).await,
        None => None,
    };
    let per_s = |n: u64| n as f64 / elapsed_s;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        date,
        command,
        url,
        model,
        system_fingerprint: tally.fingerprint().map(str::to_owned),
        settings: (*settings).clone(),
        dialect,
        elapsed_s,
        interrupted: stop.is_cancelled(),
        requests,
        tokens,
        cached_share: tokens.cached_share(),
        throughput: Throughput {
            requests_per_s: per_s(requests.done),
            output_tokens_per_s: per_s(tokens.output),
            total_tokens_per_s: per_s(tokens.prompt + tokens.output),
        },
        figures: tally.figures(),
        errors: tally.errors(),
        client: ClientCost { cpu_share, late_ms: tally.late().summary() },
        server,
    })
}

async fn measure(settings: Arc<Settings>, caller: Caller, stop: CancellationToken) -> Tally {
    let (sender, mut records) = mpsc::channel(RECORDS_MAX);
    let progress = Progress::new(settings.stop, Instant::now());
    let mut driving = JoinSet::new();
    driving.spawn(Drive::new(settings, caller, sender, stop).run());
    let mut ticks = interval(SHOW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tally = Tally::default();
    loop {
        tokio::select! {
            record = records.recv() => match record {
                Some(record) => tally.add(record),
                None => break,
            },
            _ = ticks.tick() => progress.show(&tally),
        }
    }
    driving.join_all().await;
    tally
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).expect("a year of four digits")
}

/// Processor time of this process, all threads.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
