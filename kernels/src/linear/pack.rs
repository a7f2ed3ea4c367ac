//! Weights as they lie in memory: tiles of sixteen output rows, and in a tile sixteen weights for each input column,
//! so that one load feeds sixteen outputs and a tile is read front to back. A last tile is filled up with zero rows.

use half::bf16;

use crate::simd::{Bf16x16, F32x16, LANES};

/// How weights are stored. Activations and sums are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Four bytes.
    F32,
    /// Two bytes, widened to f32 in registers.
    Bf16,
}

/// `[tiles, in_features]` groups of sixteen.
#[derive(Debug, Clone)]
pub(super) enum Panels {
    F32(Vec<F32x16>),
    Bf16(Vec<Bf16x16>),
}

impl Panels {
    /// Packs `out` rows of `in_features`, which `fill(row, buffer)` writes one after the other.
    pub(super) fn pack(
        out: usize,
        in_features: usize,
        weight_type: WeightType,
        mut fill: impl FnMut(usize, &mut [f32]),
    ) -> Self {
        let lanes = out.div_ceil(LANES).saturating_mul(in_features);
        let mut row = vec![0.0; in_features];
        match weight_type {
            WeightType::F32 => {
                let mut panels = vec![F32x16::ZERO; lanes];
                for o in 0..out {
                    fill(o, &mut row);
                    for (tile, w) in panels[o / LANES * in_features..].iter_mut().zip(&row) {
                        tile.0[o % LANES] = *w;
                    }
                }
                Self::F32(panels)
            }
            WeightType::Bf16 => {
                let mut panels = vec![Bf16x16([bf16::ZERO; LANES]); lanes];
                for o in 0..out {
                    fill(o, &mut row);
                    for (tile, w) in panels[o / LANES * in_features..].iter_mut().zip(&row) {
                        tile.0[o % LANES] = bf16::from_f32(*w);
                    }
                }
                Self::Bf16(panels)
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F32(p) => size_of_val(p.as_slice()),
            Self::Bf16(p) => size_of_val(p.as_slice()),
        }
    }
}
