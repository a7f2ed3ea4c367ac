//! What this host has: processors and memory, for the planner.
//!
//! Not here: devices other than the CPU.

use std::num::NonZeroUsize;
use std::path::Path;

use protocol::lease::Inventory;

/// Why the host's memory is not known.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// `/proc/meminfo` could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It has no such line.
    #[error("{path} has no line `MemTotal: … kB`")]
    NoTotal {
        /// Which file.
        path: String,
    },
}

/// Takes stock; ranks may use at most `memory_bytes` and at most what the host has.
///
/// # Errors
/// [`InventoryError`].
pub fn take(memory_bytes: u64) -> Result<Inventory, InventoryError> {
    let path = Path::new("/proc/meminfo");
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| InventoryError::Read { path: name(), source })?;
    let total = mem_total_bytes(&text).ok_or_else(|| InventoryError::NoTotal { path: name() })?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Ok(Inventory {
        cores: u16::try_from(cores).unwrap_or(u16::MAX),
        memory_bytes: memory_bytes.min(total),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// `MemTotal` of a `/proc/meminfo`, bytes.
fn mem_total_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib_and_bounded_by_the_host() {
        assert_eq!(mem_total_bytes("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16384));
        assert_eq!(mem_total_bytes("MemFree: 1 kB\n"), None);
        let all = take(u64::MAX).expect("Linux");
        assert!(all.cores >= 1 && all.memory_bytes < u64::MAX);
        assert_eq!(take(1 << 20).expect("Linux").memory_bytes, 1 << 20);
    }
}
