//! Rotary position embedding of part of each head. The angles are the caller's: this file knows no theta.

use crate::error::{KernelError, expect_len};

/// Which two dimensions turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryStyle {
    /// 2i with 2i + 1 (GPT-J, GLM-4).
    Interleaved,
    /// i with i + rot/2 (Llama, GLM-4.5).
    HalfSplit,
}

/// Turns the first `rot` dimensions of every head in place; the others stay. `x` `[tokens, heads, head_dim]`, `cos` and
/// `sin` `[tokens, rot / 2]`.
///
/// # Errors
/// [`KernelError::RotaryDims`] when `rot` is odd or more than `head_dim`; [`KernelError::Shape`].
pub fn rotary(
    style: RotaryStyle,
    x: &mut [f32],
    (heads, head_dim, rot): (usize, usize, usize),
    cos: &[f32],
    sin: &[f32],
) -> Result<(), KernelError> {
    if rot % 2 != 0 || rot > head_dim {
        return Err(KernelError::RotaryDims { rot, head_dim });
    }
    let pairs = rot / 2;
    let row = heads.saturating_mul(head_dim);
    if row == 0 {
        return expect_len("rotary", "x", x.len(), &[0, heads, head_dim]);
    }
    let tokens = x.len() / row;
    expect_len("rotary", "x", x.len(), &[tokens, heads, head_dim])?;
    expect_len("rotary", "cos", cos.len(), &[tokens, pairs])?;
    expect_len("rotary", "sin", sin.len(), &[tokens, pairs])?;
    if pairs == 0 {
        return Ok(());
    }
    for ((row, cos), sin) in x.chunks_exact_mut(row).zip(cos.chunks_exact(pairs)).zip(sin.chunks_exact(pairs)) {
        for head in row.chunks_exact_mut(head_dim) {
            match style {
                RotaryStyle::Interleaved => interleaved(&mut head[..rot], cos, sin),
                RotaryStyle::HalfSplit => half_split(&mut head[..rot], cos, sin),
            }
        }
    }
    Ok(())
}

fn interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        *pair = turn(*pair, *c, *s);
    }
}

fn half_split(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        [*a, *b] = turn([*a, *b], *c, *s);
    }
}

/// Two rounded products and a rounded sum, as the reference has it; Rust never fuses them.
#[inline(always)]
pub(crate) fn turn([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, b * cos + a * sin]
}
