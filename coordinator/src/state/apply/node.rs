//! Commands about nodes.

use protocol::NodeId;

use crate::state::{Applied, ClusterState, NodeCommand, NodeRecord, Refused, Standing};

pub(super) fn apply(state: &mut ClusterState, command: NodeCommand) -> Result<Applied, Refused> {
    match command {
        NodeCommand::Register { node, incarnation, inventory } => {
            state.nodes.insert(node, NodeRecord { incarnation, inventory, standing: Standing::Up });
        }
        NodeCommand::Leaving { node, incarnation } => {
            let record = find(state, &node, incarnation)?;
            if record.standing != Standing::Up {
                return Err(standing(&node, record));
            }
            record.standing = Standing::Leaving;
        }
        NodeCommand::Down { node, incarnation, reason } => {
            let record = find(state, &node, incarnation)?;
            if !record.is_alive() {
                return Err(standing(&node, record));
            }
            record.standing = Standing::Down { reason };
        }
    }
    Ok(Applied::Done)
}

fn find<'a>(state: &'a mut ClusterState, node: &NodeId, incarnation: u64) -> Result<&'a mut NodeRecord, Refused> {
    let record = state.nodes.get_mut(node).ok_or_else(|| Refused::UnknownNode { node: node.clone() })?;
    if record.incarnation != incarnation {
        let found = record.incarnation;
        return Err(Refused::Incarnation { node: node.clone(), expected: incarnation, found });
    }
    Ok(record)
}

pub(super) fn standing(node: &NodeId, record: &NodeRecord) -> Refused {
    let found = match &record.standing {
        Standing::Up => "up".to_owned(),
        Standing::Leaving => "leaving".to_owned(),
        Standing::Down { reason } => format!("down: {reason}"),
    };
    Refused::Standing { node: node.clone(), found }
}
