//! A small file that is replaced as a whole.
//!
//! Not here: what is in it (`state`, `last_orders`). Invariant: after a crash at any point there is the old file or the new one,
//! and the new one once [`replace`] has returned.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub struct FileError {
    /// Which operation.
    what: &'static str,
    /// On what.
    path: PathBuf,
    /// Why.
    source: std::io::Error,
}

impl FileError {
    /// What becomes of an error of `what` on `path`.
    pub(super) fn of(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }
}

/// Where the next content of `path` is written before it takes its place.
pub(super) fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Makes `parts`, one after the other, the content of the file `name` in `dir`: written beside, synced, renamed.
///
/// # Errors
/// [`FileError`].
pub(super) fn replace(dir: &Path, name: &str, parts: &[&[u8]]) -> Result<(), FileError> {
    let path = dir.join(name);
    let beside = beside(&path);
    let mut file = fs::File::create(&beside).map_err(FileError::of("create", &beside))?;
    let written = parts.iter().try_for_each(|part| file.write_all(part)).and_then(|()| file.sync_all());
    written.map_err(FileError::of("write", &beside))?;
    fs::rename(&beside, &path).map_err(FileError::of("rename", &beside))?;
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(FileError::of("sync", dir))
}
