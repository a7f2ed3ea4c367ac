//! The directories of clusters are named by the process that made them, so that those of a killed one are told and removed.
//!
//! Invariant: a directory of a process that runs is never touched.

use std::path::Path;

use rustix::mount::{UnmountFlags, unmount};

const BEGIN: &str = "shardglm-chaos-";

/// How the name of one of this process's directories begins.
pub(super) fn prefix() -> String {
    format!("{BEGIN}{}-", std::process::id())
}

/// The process that made a directory, if it is one of ours.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(BEGIN)?.split_once('-')?.0.parse().ok()
}

/// Removes what killed processes have left in `temp`, disks unmounted first; best effort, the next run tries again.
pub(super) fn remove(temp: &Path) {
    for entry in std::fs::read_dir(temp).into_iter().flatten().flatten() {
        let dead =
            maker(&entry.file_name().to_string_lossy()).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead {
            for host in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let _ = unmount(host.path().join("state"), UnmountFlags::DETACH);
            }
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_goes_and_the_rest_stays() {
        let temp = tempfile::tempdir().expect("a directory");
        // No process has an id beyond the kernel's limit of 2^22.
        let names =
            [format!("{BEGIN}4194305-x"), format!("{}x", prefix()), format!("{BEGIN}mine"), "other-1-x".to_owned()];
        for name in &names {
            std::fs::create_dir_all(temp.path().join(name).join("c1/state")).expect("creates");
        }
        remove(temp.path());
        assert_eq!(names.map(|name| temp.path().join(name).exists()), [false, true, true, true]);
    }
}
