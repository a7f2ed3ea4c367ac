//! The angles of the rotary embedding, from positions on three axes (M-RoPE).
//!
//! Not here: turning vectors (a kernel) and where positions come from. Invariant: text stands at the same position on
//! all three axes, which makes M-RoPE the plain rotary embedding, bit for bit.

use candle_core::{Device, Tensor};

use super::StepError;
use crate::spec::RopeSpec;

/// Positions of the rows of a step: temporal, height, width, `[tokens]` each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    axes: [Vec<u32>; 3],
}

impl Positions {
    /// Appends text at `start..start + tokens`.
    pub fn push_text(&mut self, start: u32, tokens: usize) {
        for axis in &mut self.axes {
            axis.extend((start..).take(tokens));
        }
    }

    /// Appends one row at a position of its own on each axis.
    pub fn push(&mut self, position: [u32; 3]) {
        for (axis, p) in self.axes.iter_mut().zip(position) {
            axis.push(p);
        }
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.axes[0].len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.axes[0].is_empty()
    }
}

/// Frequencies and the axis that each follows.
#[derive(Debug, Clone)]
pub struct Rope {
    /// `[rotary dim / 2]`.
    inv_freq: Vec<f32>,
    /// `[rotary dim / 2]`, into [`Positions`]' axes: chunked by section, not interleaved.
    axis_of: Vec<usize>,
}

impl Rope {
    /// The frequencies `theta^(-2i / dim)` of a model.
    #[must_use]
    pub fn new(spec: &RopeSpec) -> Self {
        // In f64 and rounded once; the reference raises in f32, which is the same to an ulp.
        #[expect(clippy::cast_possible_truncation, reason = "angles are f32")]
        let inv_freq = |i: u32| spec.theta.powf(-f64::from(2 * i) / f64::from(spec.dim)) as f32;
        let axes = spec.sections.iter().enumerate();
        Self {
            inv_freq: (0..spec.dim / 2).map(inv_freq).collect(),
            axis_of: axes.flat_map(|(axis, n)| std::iter::repeat_n(axis, *n as usize)).collect(),
        }
    }

    /// Cosine and sine of every angle, `[tokens, rotary dim / 2]` each.
    ///
    /// # Errors
    /// [`StepError::Tensor`].
    pub fn angles(&self, positions: &Positions) -> Result<(Tensor, Tensor), StepError> {
        let shape = (positions.len(), self.inv_freq.len());
        let mut cos = Vec::with_capacity(shape.0 * shape.1);
        let mut sin = Vec::with_capacity(shape.0 * shape.1);
        for row in 0..positions.len() {
            for (freq, axis) in self.inv_freq.iter().zip(&self.axis_of) {
                // The product is rounded to f32 as in the reference; its sine then in f64, so that it is exact to f32.
                #[expect(clippy::cast_precision_loss, reason = "positions are below 2^24")]
                let angle = f64::from(positions.axes[*axis][row] as f32 * freq);
                #[expect(clippy::cast_possible_truncation, reason = "angles are f32")]
                let (s, c) = (angle.sin() as f32, angle.cos() as f32);
                cos.push(c);
                sin.push(s);
            }
        }
        Ok((Tensor::from_vec(cos, shape, &Device::Cpu)?, Tensor::from_vec(sin, shape, &Device::Cpu)?))
    }
}
