//! A new cluster's trust: its CA, an identity for each coordinator and one admin, and a join token, in one directory.
//!
//! ```text
//!  DIR/ca/             ca.pem, ca.key.pem
//!  DIR/coordinator-N/  ca.pem, cert.pem, key.pem, ca.key.pem (any coordinator signs joins)
//!  DIR/admin/          ca.pem, cert.pem, key.pem
//!  DIR/join-token
//! ```
//! Not here: nodes' identities, which they get by joining. Invariant: secrets are created with mode 0600.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use protocol::join::JoinToken;
use protocol::{ClusterId, CoordinatorId, Identity, NodeId, Role};
use transport::ClusterCa;

/// Where the CA of a trust directory is.
pub(crate) fn ca_dir(dir: &Path) -> PathBuf {
    dir.join("ca")
}

/// Where a coordinator's identity is.
pub(crate) fn coordinator_dir(dir: &Path, id: CoordinatorId) -> PathBuf {
    dir.join(format!("coordinator-{id}"))
}

/// Where the admin's identity is.
pub(crate) fn admin_dir(dir: &Path) -> PathBuf {
    dir.join("admin")
}

/// Where the join token is.
pub(crate) fn join_token_file(dir: &Path) -> PathBuf {
    dir.join("join-token")
}

/// Creates all of it for a new cluster.
///
/// # Errors
/// A file that cannot be written, or a failed random generator.
pub(crate) fn create(dir: &Path, coordinators: &[CoordinatorId]) -> anyhow::Result<ClusterId> {
    let cluster = ClusterId::from_bytes(random()?);
    let ca = ClusterCa::create(cluster)?;
    ca.save(&ca_dir(dir))?;
    for id in coordinators {
        issue_coordinator(&ca, dir, *id)?;
    }
    let admin = Identity { cluster, role: Role::Admin, name: NodeId::new("admin")? };
    ca.issue(&admin)?.save(&admin_dir(dir))?;
    let secret = random()?.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let token = JoinToken { ca_sha256: ca.fingerprint(), secret };
    write_secret(&join_token_file(dir), &format!("{}\n", token.expose()))?;
    Ok(cluster)
}

/// Issues the identity of one more coordinator.
///
/// # Errors
/// No CA in `dir`, or a file that cannot be written.
pub(crate) fn add_coordinator(dir: &Path, id: CoordinatorId) -> anyhow::Result<ClusterId> {
    let ca = ClusterCa::load(&ca_dir(dir))?;
    issue_coordinator(&ca, dir, id)?;
    Ok(ca.cluster())
}

fn issue_coordinator(ca: &ClusterCa, dir: &Path, id: CoordinatorId) -> anyhow::Result<()> {
    let name = NodeId::new(format!("coordinator-{id}"))?;
    let home = coordinator_dir(dir, id);
    ca.issue(&Identity { cluster: ca.cluster(), role: Role::Coordinator, name })?.save(&home)?;
    ca.save(&home)?;
    Ok(())
}

/// Sixteen bytes that nobody can guess.
fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.secure_random.fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system's random generator failed"))?;
    Ok(bytes)
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
