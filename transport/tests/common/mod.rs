//! A cluster of identities for tests: one CA, members by role and name.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use protocol::{ClusterId, Identity, NodeId, Role};
use transport::{ClusterCa, NodeIdentity};

pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(HERE, 0);
/// Longer than anything healthy takes on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn cluster(n: u8) -> ClusterId {
    ClusterId::from_bytes([n; 16])
}

pub(crate) fn ca(n: u8) -> ClusterCa {
    ClusterCa::create(cluster(n)).expect("keys can be made")
}

pub(crate) fn name(name: &str) -> NodeId {
    NodeId::new(name).expect("a label")
}

pub(crate) fn identity_in(cluster: ClusterId, role: Role, named: &str) -> Identity {
    Identity { cluster, role, name: name(named) }
}

pub(crate) fn member(ca: &ClusterCa, role: Role, named: &str) -> NodeIdentity {
    let issued = ca.issue(&identity_in(ca.cluster(), role, named)).expect("of this cluster");
    NodeIdentity::from_issued(&issued).expect("just issued")
}
