//! What the two daemons share: their configuration flags, and when they stop.
//!
//! Stop means drain: SIGTERM, SIGINT, or, under `--supervised`, the end of stdin, so that a killed supervisor leaves
//! nothing behind. A second signal ends the process at once.

use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Exit, Failure};
use crate::config::{Config, Override, RawConfig};

/// Flags that both daemons take.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DaemonArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "cluster.toml")]
    config: PathBuf,
    /// Override a key, such as `--set node.listen_ip=10.0.0.4`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<Override>,
    /// Where state is kept; else paths.state_dir
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Certificate, key and cluster CA; else paths.identity_dir
    #[arg(long, value_name = "DIR")]
    identity_dir: Option<PathBuf>,
    /// Stop when stdin ends
    #[arg(long)]
    supervised: bool,
}

impl DaemonArgs {
    /// The settled configuration; flags override the file.
    ///
    /// # Errors
    /// Exit 2 with every fault.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        let mut overrides = self.overrides.clone();
        for (key, dir) in [("paths.state_dir", &self.state_dir), ("paths.identity_dir", &self.identity_dir)] {
            if let Some(dir) = dir {
                overrides.push(Override::new(key, absolute(dir)?.display().to_string()));
            }
        }
        RawConfig::read(&self.config).and_then(|raw| raw.settle(&overrides)).map_err(Failure::usage)
    }

    /// Starts to listen for what stops a daemon.
    ///
    /// # Errors
    /// Signals that cannot be listened for.
    pub(super) fn stop(&self) -> Result<Stop, Failure> {
        let token = CancellationToken::new();
        let listen = |kind| signal(kind).map_err(|e| anyhow::anyhow!("cannot listen for signals: {e}"));
        let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let on_signal = token.clone();
        let watch = tokio::spawn(async move {
            loop {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                if on_signal.is_cancelled() {
                    tracing::warn!("second signal: ending without draining");
                    std::process::exit(Exit::Failed as i32);
                }
                tracing::info!("signal: draining");
                on_signal.cancel();
            }
        });
        if self.supervised {
            watch_stdin(token.clone())?;
        }
        Ok(Stop { token, _watch: AbortOnDropHandle::new(watch) })
    }
}

/// An absolute path, for what runs in another directory.
///
/// # Errors
/// Exit 2 for an empty path.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::usage(anyhow::anyhow!("`{}`: {e}", path.display())))
}

/// A daemon's stop, while it is listened for.
pub(super) struct Stop {
    /// Cancelled when the daemon should drain and end.
    pub(super) token: CancellationToken,
    _watch: AbortOnDropHandle<()>,
}

/// A thread of its own, since a read of stdin cannot be taken back; it ends with the process.
fn watch_stdin(token: CancellationToken) -> anyhow::Result<()> {
    let watch = move || {
        let mut sink = [0; 64];
        while matches!(std::io::stdin().read(&mut sink), Ok(n) if n > 0) {}
        tracing::info!("the supervisor is gone: draining");
        token.cancel();
    };
    let thread = std::thread::Builder::new().name("stdin-watch".to_owned()).spawn(watch);
    thread.map(drop).map_err(|e| anyhow::anyhow!("cannot watch stdin: {e}"))
}
