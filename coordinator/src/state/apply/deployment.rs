//! Commands about deployments.

use protocol::{DeploymentSpec, Generation};

use crate::state::{Applied, ClusterState, Deployment, DeploymentCommand, Refused};

/// Most replicas of one deployment.
const REPLICAS_MAX: u16 = 256;

pub(super) fn apply(state: &mut ClusterState, command: DeploymentCommand) -> Result<Applied, Refused> {
    match command {
        DeploymentCommand::Put { expected, spec } => put(state, expected, *spec),
        DeploymentCommand::Block { name, generation, reason } => {
            let deployment = find(state, &name, generation)?;
            deployment.blocked = reason;
            Ok(Applied::Done)
        }
        DeploymentCommand::Unreadable { name, reason } => {
            match reason {
                Some(reason) => state.unreadable.insert(name, reason),
                None => state.unreadable.remove(&name),
            };
            Ok(Applied::Done)
        }
    }
}

fn put(state: &mut ClusterState, expected: Option<Generation>, spec: DeploymentSpec) -> Result<Applied, Refused> {
    let found = state.deployments.get(&spec.name).map(|d| d.spec.generation);
    if found != expected {
        return Err(Refused::Generation { name: spec.name, expected, found });
    }
    check(&spec)?;
    let generation = Generation(found.map_or(1, |g| g.0 + 1));
    let name = spec.name.clone();
    let spec = DeploymentSpec { generation, ..spec };
    state.unreadable.remove(&name);
    state.deployments.insert(name, Deployment { spec, blocked: None });
    Ok(Applied::Generation(generation))
}

fn check(spec: &DeploymentSpec) -> Result<(), Refused> {
    let wrong = |what: &str, found: String, expected: &str| {
        Err(Refused::Spec { name: spec.name.clone(), what: what.into(), found, expected: expected.into() })
    };
    if spec.name.is_empty() {
        return wrong("name", "empty".into(), "a name");
    }
    if spec.served_names.is_empty() {
        return wrong("served_names", "empty".into(), "at least one name");
    }
    if spec.replicas > REPLICAS_MAX {
        return wrong("replicas", spec.replicas.to_string(), "at most 256");
    }
    for (what, value) in [
        ("threads_per_worker", u32::from(spec.threads_per_worker)),
        ("max_seqs", u32::from(spec.max_seqs)),
        ("step_tokens", spec.step_tokens),
    ] {
        if value == 0 {
            return wrong(what, "0".into(), "at least 1");
        }
    }
    Ok(())
}

pub(super) fn find<'a>(
    state: &'a mut ClusterState,
    name: &str,
    generation: Generation,
) -> Result<&'a mut Deployment, Refused> {
    let deployment =
        state.deployments.get_mut(name).ok_or_else(|| Refused::UnknownDeployment { name: name.to_owned() })?;
    let found = deployment.spec.generation;
    if found != generation {
        return Err(Refused::Generation { name: name.to_owned(), expected: Some(generation), found: Some(found) });
    }
    Ok(deployment)
}
