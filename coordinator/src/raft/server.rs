//! Answers the calls of other coordinators.
//!
//! Not here: who may call (the internal listener lets only coordinators through). A forwarded command is never
//! forwarded again: two coordinators that each take the other for the leader must not play ball with it.

use std::time::{Duration, Instant};

use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest};
use protocol::frame::{Refusal, RefusalCode};
use protocol::raft::{RaftCall, RaftRequest, RaftResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use super::consensus::Consensus;
use super::type_config::{TypeConfig, Vote};

/// How long a forwarded command or read may take here.
pub(super) const FORWARDED_TIMEOUT: Duration = Duration::from_secs(2);

impl Consensus {
    /// The answer to one call.
    ///
    /// # Errors
    /// A [`Refusal`]: a call of another cluster, or one that cannot be read.
    pub async fn serve(&self, request: RaftRequest) -> Result<RaftResponse, Refusal> {
        let own = self.cluster();
        if request.cluster != own {
            let detail = format!("this is cluster {own}, the call is of cluster {}", request.cluster);
            return Err(Refusal { code: RefusalCode::Forbidden, detail });
        }
        let is_rafts = matches!(
            request.call,
            RaftCall::AppendEntries | RaftCall::Vote | RaftCall::InstallSnapshot | RaftCall::MayStand
        );
        if is_rafts && !self.entrance().is_open() {
            let detail = format!("coordinator {} takes no part: it is not a member yet, or no more", self.id());
            return Err(Refusal { code: RefusalCode::Forbidden, detail });
        }
        let body = &request.body;
        let body = match request.call {
            RaftCall::AppendEntries => {
                let entries: AppendEntriesRequest<TypeConfig> = read(body)?;
                self.note_leader(&entries.vote);
                answer(&self.raft().append_entries(entries).await)
            }
            RaftCall::Vote => {
                let asked = read(body)?;
                // As it arrives: it is answered after the disk has it, and this coordinator must not stand meanwhile.
                self.hearing().vote_asked();
                answer(&self.raft().vote(asked).await)
            }
            RaftCall::ChangeMembers => answer(&self.change_members_here(read(body)?).await),
            RaftCall::Hello => answer(&self.is_new().await),
            RaftCall::Found => answer(&self.be_founded().await),
            RaftCall::Standing => answer(&self.standing_of(read(body)?).await),
            RaftCall::MayStand => answer(&self.may_stand(read(body)?)),
            RaftCall::InstallSnapshot => {
                let part: InstallSnapshotRequest<TypeConfig> = read(body)?;
                self.note_leader(&part.vote);
                answer(&self.raft().install_snapshot(part).await)
            }
            RaftCall::Propose => answer(&self.write_here(read(body)?, FORWARDED_TIMEOUT).await),
            RaftCall::ReadIndex => answer(&self.read_index_here(FORWARDED_TIMEOUT).await),
            RaftCall::Heard => answer(&self.heard_here().map(|heard| heard.told(Instant::now()))),
        };
        Ok(RaftResponse { body })
    }

    /// Noted as the call arrives, not when the disk has it: a slow disk here is no silence of the leader's.
    fn note_leader(&self, vote: &Vote) {
        if vote.leader_id.term >= self.raft().metrics().borrow().current_term {
            self.hearing().leader_called();
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    codec::decode(body).map_err(|e| Refusal { code: RefusalCode::BadRequest, detail: e.to_string() })
}

fn answer<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value)
}
