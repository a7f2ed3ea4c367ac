//! What this host has: the memory that ranks may use.
//!
//! Not here: devices. Invariant: a control group's limit counts where it is below what the host has free.

use std::path::Path;

/// Share of the free memory that ranks may use by default, in hundredths: the rest is for page cache and the agent.
const MEMORY_SHARE_PERCENT: u64 = 90;

/// Memory that ranks may use on this host, bytes: 90 % of what is free.
///
/// # Errors
/// `/proc/meminfo` that cannot be read or lacks `MemAvailable`.
pub(crate) fn memory_for_ranks() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")
        .map_err(|e| anyhow::anyhow!("cannot read /proc/meminfo: {e}; set node.memory_bytes"))?;
    let free = mem_available(&text)
        .ok_or_else(|| anyhow::anyhow!("/proc/meminfo has no MemAvailable line; set node.memory_bytes"))?;
    let free = cgroup_free().map_or(free, |limit| limit.min(free));
    Ok(free / 100 * MEMORY_SHARE_PERCENT)
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What this process's control group (v2) has left, where it has a limit.
fn cgroup_free() -> Option<u64> {
    let group = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group.lines().find_map(|l| l.strip_prefix("0::/"))?;
    let dir = Path::new("/sys/fs/cgroup").join(path);
    let number = |file: &str| std::fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// A number of bytes for people: three digits and a binary unit.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = n as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_in_bytes() {
        assert_eq!(mem_available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(mem_available("MemTotal: 9 kB\n"), None);
        assert!(memory_for_ranks().expect("this is Linux") > 0);
    }

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }
}
