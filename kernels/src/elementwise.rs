//! Sums of two tensors, and the largest element of one.

use crate::error::{KernelError, expect_len};

/// `y = a + b`, all of one shape.
///
/// # Errors
/// [`KernelError::Shape`].
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    expect_len("add", "b", b.len(), &[a.len()])?;
    expect_len("add", "y", y.len(), &[a.len()])?;
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = a + b;
    }
    Ok(())
}

/// Index of the largest element, the lowest of equals. NaNs are passed over; `None` when nothing else is there.
#[must_use]
pub fn argmax(x: &[f32]) -> Option<usize> {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (best, x) in lanes.iter_mut().zip(chunk) {
            *best = if *x > *best { *x } else { *best };
        }
    }
    let best = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, x| if *x > best { *x } else { best });
    x.iter().position(|x| *x == best)
}
