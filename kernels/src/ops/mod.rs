//! The kernels as candle custom ops on CPU tensors: f32, contiguous, no gradient.
//!
//! Each function checks the dimensions and says both shapes where they do not fit; a kernel's own [`KernelError`] comes
//! through as candle's wrapped error. Nothing is copied on the way in.

mod attend;
mod linear;
mod picture;
mod rows;

use candle_core::{CpuStorage, Layout, Result, Tensor};

pub use attend::{attention, copy_blocks};
pub use linear::{linear, linear_trees};
pub use picture::{add_bicubic, gelu, layer_norm, picture_attention, silu_mul_split};
pub use rows::{Embedding, add, embed_rows, rms_norm, rotary, silu_mul};

use crate::KernelError;

/// The f32 elements of a contiguous operand.
fn floats<'a>(op: &'static str, operand: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        let (shape, strides) = (layout.dims().to_vec(), layout.stride().to_vec());
        return Err(refused(KernelError::Layout { op, operand, shape, strides }));
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The kernel's refusal as candle's error.
fn refused(error: KernelError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// `Err` unless the tensor has these dimensions.
fn expect_dims(op: &'static str, operand: &'static str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    let (expected, found) = (expected.to_vec(), tensor.dims().to_vec());
    Err(refused(KernelError::Shape { op, operand, expected, found }))
}

/// The dimensions of a tensor of N of them; `None` takes any size, and the error shows the one that came.
fn dims<const N: usize>(
    op: &'static str,
    operand: &'static str,
    tensor: &Tensor,
    wanted: [Option<usize>; N],
) -> Result<[usize; N]> {
    let found = tensor.dims();
    if let Ok(dims) = <[usize; N]>::try_from(found)
        && dims.iter().zip(wanted).all(|(d, w)| w.is_none_or(|w| w == *d))
    {
        return Ok(dims);
    }
    let expected = wanted.iter().enumerate().map(|(i, w)| w.or(found.get(i).copied()).unwrap_or(0)).collect();
    Err(refused(KernelError::Shape { op, operand, expected, found: found.to_vec() }))
}
