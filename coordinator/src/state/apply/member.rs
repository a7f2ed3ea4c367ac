//! Commands about coordinators.

use crate::state::{Applied, ClusterState, MemberCommand, Refused};

pub(super) fn apply(state: &mut ClusterState, command: MemberCommand) -> Result<Applied, Refused> {
    match command {
        MemberCommand::Admit { id } => {
            if !state.used_members.insert(id) {
                return Err(Refused::MemberIdUsed { id });
            }
        }
        MemberCommand::Retire { id } => {
            state.used_members.insert(id);
        }
    }
    Ok(Applied::Done)
}
