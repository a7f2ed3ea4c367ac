//! The directory of one `up`: temporary and removed at the end, or kept and used again by the next `up` of the same
//! layout.
//!
//! ```text
//!  up.json       which cluster and layout this is; written last, so a directory without it is not one
//!  up.lock       held while an `up` runs
//!  cluster.toml  the effective configuration of every process
//!  ca/ coordinator-N/ admin/ join-token (trust), node-N/ (identities from joining)
//!  state/        coordinator-N/, node-N/         logs/  one file a process         models/  the built-in model
//! ```
//! Invariant: a fresh directory whose start failed is removed; one that has served once is never touched by a failure.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use protocol::{ClusterId, CoordinatorId};
use serde::{Deserialize, Serialize};

use crate::cli::Failure;
use crate::config::{Config, RawConfig};
use crate::dir_lock::lock;
use crate::trust;

const MARKER: &str = "up.json";
const LOCK: &str = "up.lock";
const HOLDER: &str = "shardglm up";
/// How the name of a temporary directory begins.
const TEMPORARY: &str = "shardglm-";
/// Version of the directory's layout.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    format: u32,
    cluster_id: ClusterId,
    coordinators: u16,
    nodes: u16,
}

/// The open directory.
pub(super) struct Home {
    dir: PathBuf,
    /// What the previous `up` wrote; `None` in a fresh directory.
    previous: Option<Config>,
    layout: (u16, u16),
    cleanup: Cleanup,
    _lock: File,
}

/// What happens to the directory when the `Home` goes.
enum Cleanup {
    /// Removed whole.
    Temporary(#[expect(dead_code, reason = "removes the directory when dropped")] tempfile::TempDir),
    /// What was written into it is removed; the directory too, where `created`.
    Fresh { created: bool },
    /// Stays.
    Keep,
}

impl Home {
    /// Opens the directory of the user's choice, or a temporary one.
    ///
    /// # Errors
    /// Exit 3 for a directory that is no `up`'s, of another layout, or in use.
    pub(super) fn open(dir: Option<&Path>, coordinators: u16, nodes: u16) -> Result<Self, Failure> {
        let layout = (coordinators, nodes);
        let Some(dir) = dir else {
            remove_orphans(&std::env::temp_dir());
            let temp = tempfile::Builder::new().prefix(TEMPORARY).tempdir();
            let temp = temp.context("cannot create a temporary directory")?;
            let dir = temp.path().to_owned();
            return Ok(Self {
                _lock: lock(&dir, LOCK, HOLDER)?,
                dir,
                previous: None,
                layout,
                cleanup: Cleanup::Temporary(temp),
            });
        };
        let shown = dir.display();
        let created = !dir.exists();
        fs::create_dir_all(dir).with_context(|| format!("cannot create {shown}"))?;
        let entries = fs::read_dir(dir).with_context(|| format!("cannot read {shown}"))?;
        let empty = entries.flatten().all(|e| e.file_name() == LOCK);
        let lock = lock(dir, LOCK, HOLDER)?;
        let dir = dir.to_owned();
        if empty {
            return Ok(Self { dir, previous: None, layout, cleanup: Cleanup::Fresh { created }, _lock: lock });
        }
        let previous = previous(&dir, layout).map_err(Failure::refused)?;
        Ok(Self { dir, previous: Some(previous), layout, cleanup: Cleanup::Keep, _lock: lock })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration of the `up` before this one in the same directory: its addresses are in the replicated state.
    pub(super) fn previous(&self) -> Option<&Config> {
        self.previous.as_ref()
    }

    /// Writes trust (in a fresh directory), the effective configuration, and last the marker.
    ///
    /// # Errors
    /// What cannot be written.
    pub(super) fn establish(&mut self, ids: &[CoordinatorId], config: &Config) -> Result<(), Failure> {
        write(&self.dir.join("cluster.toml"), &config.to_toml())?;
        if self.previous.is_none() {
            let cluster_id = trust::create(&self.dir, ids)?;
            let marker = Marker { format: FORMAT, cluster_id, coordinators: self.layout.0, nodes: self.layout.1 };
            let text = serde_json::to_string(&marker).map_err(anyhow::Error::from)?;
            write(&self.dir.join(MARKER), &text)?;
        }
        Ok(())
    }

    /// It has served: a directory of the user's choice stays from now on.
    pub(super) fn keep(&mut self) {
        if matches!(self.cleanup, Cleanup::Fresh { .. }) {
            self.cleanup = Cleanup::Keep;
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let Cleanup::Fresh { created } = self.cleanup else { return };
        // Best effort on the way out of a failure that is itself reported.
        if created {
            let _ = fs::remove_dir_all(&self.dir);
            return;
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Checks that a directory with something in it is an `up`'s, of this layout and of one cluster.
fn previous(dir: &Path, (coordinators, nodes): (u16, u16)) -> anyhow::Result<Config> {
    let shown = dir.display();
    let text = fs::read_to_string(dir.join(MARKER)).map_err(|_| {
        anyhow::anyhow!("{shown} is not empty and not a state directory of `shardglm up` (no {MARKER})")
    })?;
    let marker: Marker = serde_json::from_str(&text)
        .map_err(|e| anyhow::anyhow!("{shown}/{MARKER} is not one of `shardglm up`: {e}"))?;
    if marker.format != FORMAT {
        anyhow::bail!("{shown} has layout format {}, expected {FORMAT}", marker.format);
    }
    if (marker.coordinators, marker.nodes) != (coordinators, nodes) {
        anyhow::bail!(
            "{shown} is of a cluster with {} coordinators and {} nodes, expected {coordinators} and {nodes}",
            marker.coordinators,
            marker.nodes
        );
    }
    let cluster = transport::ClusterCa::load(&trust::ca_dir(dir))?.cluster();
    if cluster != marker.cluster_id {
        anyhow::bail!("{shown} is of cluster {}, but its CA is of cluster {cluster}", marker.cluster_id);
    }
    for home in identity_dirs(dir, coordinators, nodes).filter(|home| home.exists()) {
        let found = transport::NodeIdentity::load(&home)?.identity().cluster;
        if found != cluster {
            anyhow::bail!("{shown} is of cluster {cluster}, but {} is of cluster {found}", home.display());
        }
    }
    let config = RawConfig::read(&dir.join("cluster.toml")).and_then(|raw| raw.settle(&[]))?;
    if config.coordinators.len() != usize::from(coordinators) {
        anyhow::bail!("{shown}/cluster.toml has {} coordinators, expected {coordinators}", config.coordinators.len());
    }
    Ok(config)
}

/// Every directory of an identity; those of nodes are there once they have joined.
fn identity_dirs(dir: &Path, coordinators: u16, nodes: u16) -> impl Iterator<Item = PathBuf> {
    let of_coordinators = (1..=u64::from(coordinators)).map(|id| trust::coordinator_dir(dir, CoordinatorId(id)));
    let of_nodes = (1..=nodes).map(|node| dir.join(format!("node-{node}")));
    of_coordinators.chain(of_nodes).chain([trust::admin_dir(dir)])
}

/// Removes the temporary directories of `up`s that were killed: nobody holds their lock. The marker is written under
/// the lock, so a directory without one may be about to be locked, and stays.
fn remove_orphans(temp: &Path) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(TEMPORARY) && path.join(MARKER).is_file();
        if ours && let Ok(_held) = lock(&path, LOCK, HOLDER) {
            match fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(dir = %path.display(), "removed what a killed `up` had left"),
                Err(e) => {
                    tracing::warn!(dir = %path.display(), error = %e, "cannot remove what a killed `up` has left")
                }
            }
        }
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(dir: &Path) -> ClusterId {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let cluster_id = trust::create(dir, &[CoordinatorId(1)]).expect("writes");
        let marker = Marker { format: FORMAT, cluster_id, coordinators: 1, nodes: 1 };
        write(&dir.join(MARKER), &serde_json::to_string(&marker).expect("JSON")).expect("writes");
        cluster_id
    }

    #[test]
    fn an_identity_of_another_cluster_is_named_with_both_clusters() {
        let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (here, there) = (trusted(one.path()), trusted(other.path()));
        for (from, to) in [("admin", "admin"), ("coordinator-1", "coordinator-1"), ("admin", "node-1")] {
            let stray = one.path().join(to);
            let kept = one.path().join("kept");
            let replaced = stray.exists();
            if replaced {
                fs::rename(&stray, &kept).expect("renames");
            }
            fs::create_dir(&stray).expect("creates");
            for file in fs::read_dir(other.path().join(from)).expect("exists").flatten() {
                fs::copy(file.path(), stray.join(file.file_name())).expect("copies");
            }
            let error = previous(one.path(), (1, 1)).expect_err("two clusters").to_string();
            for part in [format!("of cluster {here}"), format!("of cluster {there}"), format!("{to} is")] {
                assert!(error.contains(&part), "`{part}` in {error}");
            }
            fs::remove_dir_all(&stray).expect("removes");
            if replaced {
                fs::rename(&kept, &stray).expect("renames");
            }
        }
    }

    #[test]
    fn what_a_killed_up_left_goes_and_what_is_held_or_unmarked_stays() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = |name: &str| temp.path().join(format!("{TEMPORARY}{name}"));
        for name in ["orphan", "held", "unmarked"] {
            fs::create_dir(dir(name)).expect("creates");
        }
        write(&dir("orphan").join(MARKER), "{}").expect("writes");
        write(&dir("held").join(MARKER), "{}").expect("writes");
        let _held = lock(&dir("held"), LOCK, HOLDER).expect("nobody else");
        remove_orphans(temp.path());
        assert_eq!(["orphan", "held", "unmarked"].map(|name| dir(name).exists()), [false, true, true]);
    }
}
