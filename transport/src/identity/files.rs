//! Reading and writing the PEM files of an identity directory. Keys are created with mode 0600 and never rewritten
//! in place: a crash leaves the old file or the new one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest identity file that is read, bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A file of an identity directory that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system said no.
    #[error("cannot {verb} {path}: {source}")]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No identity file is that large.
    #[error("{path} has {found} bytes, expected at most {FILE_BYTES_MAX}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        found: u64,
    },
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Mode 0600.
    Secret,
    /// Mode 0644.
    Public,
}

pub(super) fn read(path: &Path) -> Result<String, FileError> {
    let io = |source| FileError::Io { verb: "read", path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(io)?.len();
    if size > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned(), found: size });
    }
    fs::read_to_string(path).map_err(io)
}

pub(super) fn write(path: &Path, text: &str, secrecy: Secrecy) -> Result<(), FileError> {
    let write = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let mode = if secrecy == Secrecy::Secret { 0o600 } else { 0o644 };
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|source| FileError::Io { verb: "write", path: path.to_owned(), source })
}
