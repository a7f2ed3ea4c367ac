//! Where the coordinators are: those that the leader told of, kept on disk, then those of the configuration.
//!
//! Not here: whom to dial when (`dialer`). A file that cannot be read or written costs a warning and nothing else: the
//! configuration's addresses are always known.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::whole_file;

const FILE: &str = "coordinators.json";

/// The coordinators' internal addresses.
#[derive(Debug)]
pub(super) struct Roster {
    dir: PathBuf,
    told: Vec<SocketAddr>,
    configured: Vec<SocketAddr>,
}

impl Roster {
    /// What is known in `dir` and by configuration.
    pub(super) fn open(dir: &Path, configured: Vec<SocketAddr>) -> Self {
        let path = dir.join(FILE);
        let told = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the coordinators' addresses on disk cannot be read");
                Vec::new()
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the coordinators' addresses on disk cannot be read");
                Vec::new()
            }
        };
        Self { dir: dir.to_owned(), told, configured }
    }

    /// Everybody to dial, in order, nobody twice.
    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        joined(&self.told, &self.configured)
    }

    /// Takes over what the leader told, and keeps it; whether anything is new. Nobody, or what is no address, is no news.
    pub(super) fn learn(&mut self, told: &[String]) -> bool {
        let told = parsed(told);
        if told.is_empty() || told == self.told {
            return false;
        }
        self.told = told;
        if let Err(error) = self.save() {
            tracing::warn!(%error, "the coordinators' addresses could not be kept on disk");
        }
        true
    }

    /// Beside, then renamed: a crash leaves the old or the new file. Without a sync, since what is lost is told again.
    fn save(&self) -> std::io::Result<()> {
        let text = serde_json::to_vec(&self.told).map_err(std::io::Error::other)?;
        let path = self.dir.join(FILE);
        let beside = whole_file::beside(&path);
        fs::write(&beside, text)?;
        fs::rename(beside, path)
    }
}

/// Everybody that the leader told of, then those of the configuration, nobody twice.
pub(super) fn merged(told: &[String], configured: &[SocketAddr]) -> Vec<SocketAddr> {
    joined(&parsed(told), configured)
}

fn joined(told: &[SocketAddr], configured: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut addrs = told.to_vec();
    addrs.extend(configured.iter().filter(|addr| !told.contains(addr)));
    addrs
}

/// Nobody where one of them is no address.
fn parsed(told: &[String]) -> Vec<SocketAddr> {
    told.iter().map(|addr| addr.parse()).collect::<Result<_, _>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn what_the_leader_told_is_dialled_first_and_outlives_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut roster = Roster::open(dir.path(), vec![addr(1), addr(2)]);
        assert_eq!(roster.addrs(), [addr(1), addr(2)]);
        assert!(roster.learn(&["127.0.0.1:9".to_owned(), "127.0.0.1:2".to_owned()]));
        assert!(!roster.learn(&["127.0.0.1:9".to_owned(), "127.0.0.1:2".to_owned()]), "no news");
        assert!(!roster.learn(&[]) && !roster.learn(&["nobody".to_owned()]));
        let again = Roster::open(dir.path(), vec![addr(1), addr(2)]);
        assert_eq!(again.addrs(), [addr(9), addr(2), addr(1)]);
    }

    #[test]
    fn a_damaged_file_leaves_the_configuration() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE), b"{").expect("writable");
        assert_eq!(Roster::open(dir.path(), vec![addr(1)]).addrs(), [addr(1)]);
    }
}
