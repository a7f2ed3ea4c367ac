//! Who a peer is, as its certificate says: a role and a name within one cluster.
//!
//! The identity is one DNS subject alternative name, `<name>.<role>.<cluster id>.shardglm.internal`, so that a
//! standard verifier checks it as the server name, and nothing has to be looked up.

use std::fmt;

use crate::ids::{ClusterId, NodeId};

/// What a certificate's holder may be spoken to as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A Raft member, gateway and admin endpoint.
    Coordinator,
    /// A node agent and the workers it starts.
    Node,
    /// A person or script that administers the cluster.
    Admin,
}

impl Role {
    /// The role as it stands in a certificate.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node => "node",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const SUFFIX: &str = "shardglm.internal";

/// An authenticated peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster whose CA signed it.
    pub cluster: ClusterId,
    /// What it is.
    pub role: Role,
    /// Its name within the role; a DNS label.
    pub name: NodeId,
}

impl Identity {
    /// The DNS name that stands in the certificate.
    #[must_use]
    pub fn dns_name(&self) -> String {
        format!("{}.{}.{}.{SUFFIX}", self.name, self.role, self.cluster)
    }

    /// Reads an identity back from a certificate's DNS name; `None` when it is not one of ours.
    #[must_use]
    pub fn from_dns_name(dns: &str) -> Option<Self> {
        let rest = dns.strip_suffix(SUFFIX)?.strip_suffix('.')?;
        let mut parts = rest.split('.');
        let name = NodeId::new(parts.next()?).ok()?;
        let role = match parts.next()? {
            "coordinator" => Role::Coordinator,
            "node" => Role::Node,
            "admin" => Role::Admin,
            _ => return None,
        };
        let cluster = ClusterId::parse(parts.next()?).ok()?;
        parts.next().is_none().then_some(Self { cluster, role, name })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_round_trip_and_foreign_ones_are_none() {
        let id = Identity {
            cluster: ClusterId::from_bytes([7; 16]),
            role: Role::Node,
            name: NodeId::new("node-1").expect("a label"),
        };
        assert_eq!(Identity::from_dns_name(&id.dns_name()), Some(id.clone()));
        for foreign in ["", "example.com", "a.node.shardglm.internal", "a.root.00.shardglm.internal"] {
            assert_eq!(Identity::from_dns_name(foreign), None, "{foreign}");
        }
        assert_eq!(Identity::from_dns_name(&format!("x.{}", id.dns_name())), None);
    }
}
