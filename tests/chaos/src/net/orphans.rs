//! Namespaces are named by the process that made them, so that those of a killed one are told and removed.
//!
//! Invariant: a namespace of a process that runs is never touched.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::host;

const BEGIN: &str = "sg";

/// How the names of the namespaces of one more [`super::Net`] begin; short, since device names have 15 characters.
pub(super) fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{BEGIN}{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The process that made a namespace, if it is one of ours.
fn maker(namespace: &str) -> Option<u32> {
    let (pid, rest) = namespace.strip_prefix(BEGIN)?.split_once('x')?;
    let (turn, _) = rest.split_once('-')?;
    turn.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Removes what killed processes have left, with all that still runs in it.
pub(super) fn remove() {
    let Ok(entries) = std::fs::read_dir(host::NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let dead = maker(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead {
            host::remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_taken_for_ours() {
        assert_eq!(maker(&format!("{}-c1", prefix())), Some(std::process::id()));
        for other in ["sg", "sg12", "sg12x3", "sgx1-a", "rl1", "docker", "sg12xq-a"] {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
