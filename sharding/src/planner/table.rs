//! The memory plan as a person reads it.

use std::fmt;

use protocol::Plan;

/// Displays a plan's byte budgets: a row a rank, then the sum.
///
/// ```text
/// rank  node     weights   kv cache  activations      total
/// 0     node-1   4.7 MiB   12.0 MiB     50.1 MiB   66.8 MiB
/// ```
#[derive(Debug, Clone, Copy)]
pub struct MemoryTable<'a>(pub &'a Plan);

impl fmt::Display for MemoryTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        let width = plan.ranks.iter().map(|r| r.node.as_str().len()).chain([4]).max().unwrap_or(4);
        let mut line = |rank: &str, node: &str, cells: [&str; 4]| {
            let [weights, kv, activations, total] = cells;
            writeln!(f, "{rank:<4}  {node:<width$}  {weights:>10}  {kv:>10}  {activations:>11}  {total:>10}")
        };
        line("rank", "node", ["weights", "kv cache", "activations", "total"])?;
        let mut sum = [0u64; 4];
        for rank in &plan.ranks {
            let b = rank.budget;
            let bytes = [b.weights, b.kv_cache, b.activations, b.total()];
            for (all, one) in sum.iter_mut().zip(bytes) {
                *all = all.saturating_add(one);
            }
            let cells = bytes.map(size);
            line(&rank.rank.to_string(), rank.node.as_str(), cells.each_ref().map(String::as_str))?;
        }
        let cells = sum.map(size);
        line("all", "", cells.each_ref().map(String::as_str))?;
        write!(f, "kv cache for {} tokens, longest context {} tokens", plan.kv_tokens, plan.context_tokens)
    }
}

/// Bytes with a binary unit and one digit after the point.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    // Tenths by whole numbers, cut and not rounded: a table must not show more than there is.
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}
