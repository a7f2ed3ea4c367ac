//! Commands about deployments.

use protocol::{DeploymentSpec, Generation};

use crate::state::{Applied, ClusterState, Configured, Deployment, DeploymentCommand, Refused};

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
        DeploymentCommand::Configure { expected, spec } => configure(state, expected, *spec),
        DeploymentCommand::Scale { name, replicas, expected } => scale(state, name, replicas, expected),
    }
}

fn put(state: &mut ClusterState, expected: Option<Generation>, spec: DeploymentSpec) -> Result<Applied, Refused> {
    let found = state.deployments.get(&spec.name);
    let generation = found.map(|d| d.spec.generation);
    if generation != expected {
        return Err(Refused::Generation { name: spec.name, expected, found: generation });
    }
    check(&spec)?;
    let configured = found.and_then(|d| d.configured);
    state.unreadable.remove(&spec.name);
    Ok(replace(state, spec, configured))
}

/// The next generation of a deployment, or its first.
fn replace(state: &mut ClusterState, spec: DeploymentSpec, configured: Option<Configured>) -> Applied {
    let generation = Generation(state.deployments.get(&spec.name).map_or(1, |d| d.spec.generation.0 + 1));
    let name = spec.name.clone();
    let spec = DeploymentSpec { generation, ..spec };
    state.deployments.insert(name, Deployment { spec, blocked: None, configured });
    Applied::Generation(generation)
}

fn configure(state: &mut ClusterState, expected: Option<Generation>, file: DeploymentSpec) -> Result<Applied, Refused> {
    let present = state.deployments.get_mut(&file.name);
    let found = present.as_ref().map(|d| d.spec.generation);
    if found != expected {
        return Err(Refused::Generation { name: file.name, expected, found });
    }
    check(&file)?;
    state.unreadable.remove(&file.name);
    let configured = Some(Configured::of(&file));
    match present {
        Some(present) if present.brought_to(&file) == present.spec => {
            present.configured = configured;
            Ok(Applied::Generation(present.spec.generation))
        }
        Some(present) => {
            let spec = present.brought_to(&file);
            Ok(replace(state, spec, configured))
        }
        None => Ok(replace(state, file, configured)),
    }
}

fn scale(
    state: &mut ClusterState,
    name: String,
    replicas: u16,
    expected: Option<Generation>,
) -> Result<Applied, Refused> {
    let Some(present) = state.deployments.get(&name) else { return Err(Refused::UnknownDeployment { name }) };
    let found = present.spec.generation;
    if expected.is_some_and(|e| e != found) {
        return Err(Refused::Generation { name, expected, found: Some(found) });
    }
    let spec = DeploymentSpec { replicas, ..present.spec.clone() };
    check(&spec)?;
    let configured = present.configured;
    Ok(replace(state, spec, configured))
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
