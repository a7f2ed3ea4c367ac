//! How a host without a certificate gets one.
//!
//! Who holds the token may run a node under any name but that of a node that is up. A name whose node is down is given
//! again, to whoever has the token: that is how a host that lost its disk comes back. The old certificate stays valid
//! until it expires.

use protocol::join::{JoinRequest, JoinResponse, JoinToken};
use protocol::{Identity, NodeId, Role};
use transport::ClusterCa;
use transport::identity::CaError;

use super::error::CallFailed;
use crate::state::ClusterState;

/// What joining needs.
#[derive(Debug)]
pub(crate) struct Joins {
    /// The CA that signs.
    pub ca: ClusterCa,
    /// What a host must show; `None` takes nobody.
    pub token: Option<JoinToken>,
}

impl Joins {
    /// A certificate for the host, if it may have one.
    pub(super) fn join(&self, request: &JoinRequest, state: &ClusterState) -> Result<JoinResponse, CallFailed> {
        let token = self.token.as_ref().ok_or(CallFailed::NoJoins)?;
        let (shown, secret) = (request.secret.as_bytes(), token.secret.as_bytes());
        if aws_lc_rs::constant_time::verify_slices_are_equal(shown, secret).is_err() {
            return Err(CallFailed::WrongToken);
        }
        let name = NodeId::new(request.name.as_str()).map_err(|e| CallFailed::BadRequest(e.to_string()))?;
        if state.nodes.get(&name).is_some_and(|r| r.is_alive()) {
            return Err(CallFailed::NameInUse { name: request.name.clone() });
        }
        let cluster_id = self.ca.cluster();
        let identity = Identity { cluster: cluster_id, role: Role::Node, name };
        let cert_pem = self.ca.sign_csr(&request.csr_pem, &identity).map_err(|e| match e {
            CaError::BadRequest { .. } => CallFailed::BadRequest(e.to_string()),
            other => CallFailed::Signing(other.to_string()),
        })?;
        tracing::info!(node_id = %identity.name, "a host joined");
        Ok(JoinResponse { cluster_id, cert_pem, ca_pem: self.ca.cert_pem().to_owned() })
    }
}
