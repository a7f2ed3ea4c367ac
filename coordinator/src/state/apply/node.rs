//! Commands about nodes.

use protocol::{NodeId, Revision};

use crate::state::{Applied, ClusterState, Cordon, NodeCommand, NodeRecord, Refused, Standing};

pub(super) fn apply(state: &mut ClusterState, command: NodeCommand) -> Result<Applied, Refused> {
    match command {
        NodeCommand::Register { node, incarnation, inventory } => {
            let cordon = state.nodes.get(&node).map_or_else(Cordon::default, |r| r.cordon);
            state.nodes.insert(node, NodeRecord { incarnation, inventory, standing: Standing::Up, cordon });
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
        NodeCommand::SetCordon { node, is_set, expected } => return set_cordon(state, node, is_set, expected),
    }
    Ok(Applied::Done)
}

fn set_cordon(
    state: &mut ClusterState,
    node: NodeId,
    is_set: bool,
    expected: Option<Revision>,
) -> Result<Applied, Refused> {
    let Some(record) = state.nodes.get_mut(&node) else { return Err(Refused::UnknownNode { node }) };
    let found = record.cordon.revision;
    if let Some(expected) = expected.filter(|e| *e != found) {
        return Err(Refused::Revision { node, expected, found });
    }
    let revision = Revision(found.0 + 1);
    record.cordon = Cordon { is_set, revision };
    Ok(Applied::Revision(revision))
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
