//! What ends `up`: Ctrl-C, SIGTERM, or a terminal that goes away.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from the first moment, so that a signal during the start also cleans up.
pub(super) struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Signals {
    /// # Errors
    /// Signals that cannot be listened for.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| anyhow::anyhow!("cannot listen for signals: {e}"));
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    /// The next of them. Cancel safe.
    pub(super) async fn next(&mut self) {
        tokio::select! { _ = self.int.recv() => {}, _ = self.term.recv() => {}, _ = self.hup.recv() => {} }
    }

    /// The next of them, or the end of `other`.
    pub(super) async fn until_stop_or(&mut self, other: impl Future<Output = ()>) {
        tokio::select! { () = self.next() => {}, () = other => {} }
    }
}
