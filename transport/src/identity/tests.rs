//! Identity directories: what is written can be read, and each way to spoil one is named with its file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::{ClusterId, Identity, NodeId, Role};

use super::*;

fn identity(cluster: ClusterId, name: &str) -> Identity {
    Identity { cluster, role: Role::Node, name: NodeId::new(name).expect("a label") }
}

fn id(n: u8) -> ClusterId {
    ClusterId::from_bytes([n; 16])
}

fn ca(n: u8) -> ClusterCa {
    ClusterCa::create(id(n)).expect("keys can be made")
}

fn issue(ca: &ClusterCa, dir: &Path) {
    ca.issue(&identity(ca.cluster(), "n1")).expect("of this cluster").save(dir).expect("a temporary directory");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("written").permissions().mode() & 0o777
}

#[test]
fn a_ca_and_its_members_survive_the_disk() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let made = ca(1);
    made.save(dir.path()).expect("writable");
    let read = ClusterCa::load(dir.path()).expect("just written");
    assert_eq!((read.cluster(), read.fingerprint()), (made.cluster(), made.fingerprint()));
    issue(&read, dir.path());
    let member = NodeIdentity::load(dir.path()).expect("just written");
    assert_eq!(*member.identity(), identity(id(1), "n1"));
    assert_eq!(member.ca_fingerprint(), made.fingerprint());
    assert_eq!(made.fingerprint().len(), 64);
    assert_eq!(mode(&dir.path().join(CA_KEY_FILE)), 0o600);
    assert_eq!(mode(&dir.path().join(KEY_FILE)), 0o600);
    assert!(!format!("{made:?}{member:?}").contains("PRIVATE"));
}

#[test]
fn a_joining_host_gets_the_identity_that_the_ca_decides() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ca = ca(1);
    let key = JoinKey::generate().expect("keys can be made");
    let cert = ca.sign_csr(key.csr_pem(), &identity(id(1), "n7")).expect("a sound request");
    let member = key.install(dir.path(), &cert, ca.cert_pem()).expect("a sound answer");
    assert_eq!(member.identity().name.as_str(), "n7");
    assert_eq!(NodeIdentity::load(dir.path()).expect("written").identity(), member.identity());
}

#[test]
fn an_answer_for_another_key_is_not_installed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ca = ca(1);
    let (key, other) = (JoinKey::generate().expect("made"), JoinKey::generate().expect("made"));
    let cert = ca.sign_csr(other.csr_pem(), &identity(id(1), "n7")).expect("a sound request");
    let e = key.install(dir.path(), &cert, ca.cert_pem()).expect_err("not its key");
    assert!(matches!(e, JoinKeyError::BadAnswer(IdentityError::WrongKey { .. })), "{e}");
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0, "nothing half installed");
}

#[test]
fn bad_requests_are_refused() {
    let ca = ca(1);
    let key = JoinKey::generate().expect("made");
    // A flipped character in the middle breaks the request's signature or its form.
    let mut broken = key.csr_pem().to_owned().into_bytes();
    let middle = broken.len() / 2;
    broken[middle] = if broken[middle] == b'A' { b'B' } else { b'A' };
    let broken = String::from_utf8(broken).expect("ASCII");
    for csr in ["", "not PEM", broken.as_str(), &"x".repeat(1 << 20)] {
        let e = ca.sign_csr(csr, &identity(id(1), "n7")).expect_err("not a request");
        assert!(matches!(e, CaError::BadRequest { .. }), "{e}");
    }
    let e = ca.issue(&identity(id(2), "n7")).expect_err("another cluster");
    assert!(matches!(e, CaError::OtherCluster { .. }), "{e}");
}

/// What loading says after `spoil` has had its way with a sound directory of cluster 1.
fn after(spoil: impl FnOnce(&Path)) -> IdentityError {
    let dir = tempfile::tempdir().expect("a temporary directory");
    issue(&ca(1), dir.path());
    spoil(dir.path());
    NodeIdentity::load(dir.path()).expect_err("spoilt")
}

#[test]
fn each_spoilt_directory_is_named() {
    let e = after(|d| fs::remove_file(d.join(KEY_FILE)).expect("there"));
    assert!(matches!(e, IdentityError::File(_)) && e.to_string().contains(KEY_FILE), "{e}");
    let e = after(|d| fs::write(d.join(CERT_FILE), "junk").expect("writable"));
    assert!(matches!(e, IdentityError::Malformed { .. }) && e.to_string().contains(CERT_FILE), "{e}");
    let e = after(|d| fs::write(d.join(CA_FILE), vec![b'x'; 1 << 20]).expect("writable"));
    assert!(e.to_string().contains("1048576 bytes"), "{e}");
    let e = after(|d| fs::write(d.join(CA_FILE), ca(1).cert_pem()).expect("writable"));
    assert!(matches!(e, IdentityError::ForeignCa { .. }), "{e}");
    let e = after(|d| fs::write(d.join(CA_FILE), ca(2).cert_pem()).expect("writable"));
    assert!(matches!(e, IdentityError::ForeignCa { .. }), "{e}");
    let e = after(|d| {
        let other = ca(3).issue(&identity(id(3), "n1")).expect("of its cluster");
        fs::write(d.join(KEY_FILE), other.key_pem).expect("writable");
    });
    assert!(matches!(e, IdentityError::WrongKey { .. }) && e.to_string().contains(KEY_FILE), "{e}");
    let e = after(|d| ca(4).issue_expired(&identity(id(4), "n1")).save(d).expect("writable"));
    assert!(matches!(e, IdentityError::Expired { .. }), "{e}");
}

#[test]
fn a_ca_with_a_foreign_key_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    ca(2).save(dir.path()).expect("writable");
    fs::write(dir.path().join(CA_FILE), ca(1).cert_pem()).expect("writable");
    let e = ClusterCa::load(dir.path()).expect_err("not its key");
    assert!(matches!(e, CaError::WrongKey { .. }), "{e}");
    fs::write(dir.path().join(CA_KEY_FILE), "junk").expect("writable");
    let e = ClusterCa::load(dir.path()).expect_err("no key at all");
    assert!(e.to_string().contains(CA_KEY_FILE), "{e}");
}

#[test]
fn a_member_is_no_ca() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let issued = ca(1).issue(&identity(id(1), "n1")).expect("of this cluster");
    fs::write(dir.path().join(CA_FILE), issued.cert_pem).expect("writable");
    fs::write(dir.path().join(CA_KEY_FILE), issued.key_pem).expect("writable");
    let e = ClusterCa::load(dir.path()).expect_err("a leaf");
    assert!(matches!(e, CaError::Malformed { what: "certificate", .. }), "{e}");
}
