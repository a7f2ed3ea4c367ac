//! Tensors through a [`Group`].
//!
//! Not here: the order of additions ([`ReductionTree`]) and the wire. Invariant: what comes back is f32, contiguous and
//! the same on every rank.

use candle_core::{CpuStorage, Device, Storage, Tensor};
use protocol::ReductionTree;

use super::{Group, StepError};

/// Adds everybody's partial sums: `mine` `[my subtrees, tokens, width]` → `[tokens, width]`.
pub(super) fn all_reduce(group: &mut dyn Group, tree: &ReductionTree, mine: &Tensor) -> Result<Tensor, StepError> {
    let (_, tokens, width) = mine.dims3()?;
    let mut out = vec![0.0; tokens * width];
    with_floats(mine, |mine| Ok(group.all_reduce(tree, mine, &mut out)?))?;
    Ok(Tensor::from_vec(out, (tokens, width), &Device::Cpu)?)
}

/// Everybody's part in rank order, `counts` elements each.
pub(super) fn all_gather(group: &mut dyn Group, counts: &[usize], mine: &[f32]) -> Result<Vec<f32>, StepError> {
    let mut out = vec![0.0; counts.iter().sum()];
    group.all_gather(counts, mine, &mut out)?;
    Ok(out)
}

/// Runs `f` on the elements of a contiguous f32 tensor in host memory, without a copy.
pub(super) fn with_floats<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T, StepError>) -> Result<T, StepError> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(all)), Some((start, end))) => f(&all[start..end]),
        _ => Err(candle_core::Error::RequiresContiguous { op: "exchange" }.bt().into()),
    }
}
