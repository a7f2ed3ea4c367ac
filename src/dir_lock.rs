//! One process a directory: an advisory lock on a file in it, let go when the process ends, however it ends.
//!
//! Not here: what is in the directory.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::Context as _;

use crate::cli::Failure;

/// Takes `dir/file`, creating both where they are missing. The lock is held until the file is dropped.
///
/// # Errors
/// A refusal that names the directory and `holder` where another process holds it; a failure of the file system.
pub(crate) fn lock(dir: &Path, file: &str, holder: &str) -> Result<File, Failure> {
    let path = dir.join(file);
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::refused(anyhow::anyhow!("{} is in use by another `{holder}`", dir.display())))
        }
        Err(TryLockError::Error(e)) => Err(anyhow::anyhow!("cannot lock {}: {e}", path.display()).into()),
    }
}
