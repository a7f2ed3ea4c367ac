//! A disk of a host that can be full: an ext4 in a file, mounted where the host keeps its state.
//!
//! Invariant: it is unmounted when its guard goes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};

/// Size of the disk, bytes: a cluster of tests needs a few MiB.
const BYTES: u64 = 64 << 20;
/// The file that takes all room.
const FILL: &str = "fill";

/// The mounted disk.
#[derive(Debug)]
pub(super) struct Disk {
    mounted: PathBuf,
}

impl Disk {
    /// Makes one in `image` and mounts it at `at`.
    pub(super) fn mount(image: &Path, at: &Path) -> std::io::Result<Self> {
        File::create(image)?.set_len(BYTES)?;
        std::fs::create_dir_all(at)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        Ok(Self { mounted: at.to_owned() })
    }

    /// Takes all the room that is left.
    pub(super) fn fill(&self) -> std::io::Result<()> {
        let mut file = File::create(self.mounted.join(FILL))?;
        // Blocks, then what is left of the last one.
        for piece in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0; piece]).is_ok() {}
        }
        // Fails for want of room, which is what is wanted.
        let _ = file.sync_all();
        Ok(())
    }

    /// Gives it back.
    pub(super) fn clear(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.mounted.join(FILL)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have a file open.
        let _ = unmount(&self.mounted, UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) -> std::io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(std::io::Error::other(format!("{command:?} failed: {}", said.trim())))
}
