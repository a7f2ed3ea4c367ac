//! Tells the journal of one stream what it has taken.

use protocol::RequestId;
use tokio_util::sync::CancellationToken;

use super::Journal;
use crate::runtime;

/// One stream that is kept. Dropped, it is told here no more; its entry stays for whoever goes on with it.
#[derive(Debug)]
pub(crate) struct Recorder {
    journal: Journal,
    id: RequestId,
    version: u64,
    taken_over: CancellationToken,
}

impl Recorder {
    pub(super) fn new(journal: Journal, id: RequestId, version: u64, taken_over: CancellationToken) -> Self {
        Self { journal, id, version, taken_over }
    }

    /// Cancelled when somebody else goes on with the stream.
    pub(crate) fn taken_over(&self) -> &CancellationToken {
        &self.taken_over
    }

    /// A prompt is being answered; so many of its tokens were cached.
    pub(crate) fn opened(&self, prompt: usize, cached: u32) {
        self.journal.desk().opened(self.id, self.version, prompt, cached);
        self.journal.0.news.notify_one();
    }

    /// Ids of a choice that come after `from` others. What is known of them already is not taken twice.
    pub(crate) fn took(&self, choice: usize, from: usize, ids: impl Iterator<Item = u32>) {
        self.journal.desk().took(self.id, self.version, choice, from, ids);
        self.journal.0.news.notify_one();
    }

    /// All of it has been told.
    pub(crate) fn ended(&self) {
        self.journal.desk().ended(self.id, self.version);
        self.journal.0.news.notify_one();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.journal.desk().gone(self.id, self.version, runtime::now());
        self.journal.0.news.notify_one();
    }
}
