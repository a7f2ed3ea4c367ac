//! Ending the waits of a compute thread from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Ends every pending and later wait of one rank. Cheap to clone; outlives the group without harm.
#[derive(Clone)]
pub struct AbortHandle {
    inner: Arc<Inner>,
}

struct Inner {
    aborted: AtomicBool,
    woken: Notify,
    also: Box<dyn Fn() + Send + Sync>,
}

impl AbortHandle {
    /// `also` wakes whoever sleeps on something else than [`Self::woken`].
    pub(super) fn new(also: impl Fn() + Send + Sync + 'static) -> Self {
        Self { inner: Arc::new(Inner { aborted: AtomicBool::new(false), woken: Notify::new(), also: Box::new(also) }) }
    }

    /// Aborts. There is no way back: a new group is bound instead.
    pub fn abort(&self) {
        self.inner.aborted.store(true, Ordering::Release);
        self.inner.woken.notify_one();
        (self.inner.also)();
    }

    /// Whether it was aborted.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.inner.aborted.load(Ordering::Acquire)
    }

    /// Returns after [`Self::abort`], also when that came first.
    pub(super) async fn woken(&self) {
        self.inner.woken.notified().await;
    }
}

impl std::fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AbortHandle(aborted: {})", self.is_aborted())
    }
}
