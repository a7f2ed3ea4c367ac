//! The tower as a whole, and a picture on its way through it.

use candle_core::{Device, Tensor};
use kernels::{PackedLinear, Pool, TablePlace};

use super::VisionError;
use super::block::VisionBlock;
use super::merger::Merger;
use crate::layers::observer::{Observer, Point, Unobserved, VisionTap};
use crate::layers::{LoadError, Loader, RmsNorm};
use crate::partition::VISION_PREFIX;
use crate::picture::Grid;
use crate::spec::VisionSpec;

/// A whole vision tower, as every rank holds it.
#[derive(Debug)]
pub struct VisionTower {
    spec: VisionSpec,
    pool: Pool,
    /// `[hidden, values of a patch]`.
    patch_embed: PackedLinear,
    patch_bias: Tensor,
    post_conv_norm: RmsNorm,
    /// `[side, side, hidden]`.
    positions: Tensor,
    /// `[head_dim / 4]`, for rows and again for columns.
    inv_freq: Vec<f32>,
    blocks: Vec<VisionBlock>,
    post_norm: RmsNorm,
    merger: Merger,
}

/// A picture between two blocks of a tower. It can wait there for as long as it must.
#[derive(Debug)]
pub struct Encoding {
    /// `[patches, hidden]`.
    x: Tensor,
    /// `[patches, head_dim / 2]`.
    cos: Tensor,
    /// `[patches, head_dim / 2]`.
    sin: Tensor,
    /// The block that comes next.
    next: usize,
}

impl VisionTower {
    /// Loads the tower of a checkpoint, whose blocks will compute on `pool`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(loader: &mut Loader<'_>, spec: &VisionSpec, pool: Pool) -> Result<Self, LoadError> {
        let name = |which: &str| format!("{VISION_PREFIX}.{which}");
        let patch_embed = loader.whole(&name("patch_embed.proj.weight"))?;
        let patch_bias = loader.vector(&name("patch_embed.proj.bias"))?;
        let post_conv_norm = RmsNorm::load(loader, &name("post_conv_layernorm"), spec.rms_norm_eps)?;
        let side = spec.table_side as usize;
        let positions = loader.flat(&name("embeddings.position_embedding.weight"))?;
        let positions = positions.reshape((side, side, spec.hidden_size as usize))?;
        let blocks = (0..spec.depth as usize).map(|i| VisionBlock::load(loader, spec, i)).collect::<Result<_, _>>()?;
        Ok(Self {
            patch_embed,
            patch_bias,
            post_conv_norm,
            positions,
            inv_freq: inv_freq(spec),
            blocks,
            post_norm: RmsNorm::load(loader, &name("post_layernorm"), spec.rms_norm_eps)?,
            merger: Merger::load(loader, spec)?,
            spec: spec.clone(),
            pool,
        })
    }

    /// What it was loaded for.
    #[must_use]
    pub fn spec(&self) -> &VisionSpec {
        &self.spec
    }

    /// Takes a picture in: `pixels` `[patches, values of a patch]` as [`crate::picture::patches`] makes them.
    ///
    /// # Errors
    /// [`VisionError::Pixels`], [`VisionError::Merge`], [`VisionError::Tensor`].
    pub fn begin(&self, pixels: Vec<f32>, grid: Grid) -> Result<Encoding, VisionError> {
        self.enter(pixels, grid, &mut Unobserved)
    }

    /// Runs up to `blocks` more blocks and says how many are left.
    ///
    /// # Errors
    /// [`VisionError::Tensor`]; the picture must be begun again then.
    pub fn advance(&self, encoding: &mut Encoding, blocks: usize) -> Result<usize, VisionError> {
        self.run(encoding, blocks, &mut Unobserved)
    }

    /// The embeddings of a picture that has been through all blocks, `[tokens, hidden of the text]`.
    ///
    /// # Errors
    /// [`VisionError::Unfinished`], [`VisionError::Tensor`].
    pub fn finish(&self, encoding: Encoding) -> Result<Tensor, VisionError> {
        self.leave(encoding, &mut Unobserved)
    }

    /// A picture from beginning to end with somebody who looks on.
    ///
    /// # Errors
    /// As [`Self::begin`] and [`Self::advance`].
    pub fn encode_observed(
        &self,
        pixels: Vec<f32>,
        grid: Grid,
        observer: &mut dyn Observer,
    ) -> Result<Tensor, VisionError> {
        let mut encoding = self.enter(pixels, grid, observer)?;
        self.run(&mut encoding, self.blocks.len(), observer)?;
        self.leave(encoding, observer)
    }

    fn enter(&self, pixels: Vec<f32>, grid: Grid, observer: &mut dyn Observer) -> Result<Encoding, VisionError> {
        let (patches, elements) = (grid.patches() as usize, self.spec.patch_elements() as usize);
        if pixels.len() != patches * elements {
            let (rows, columns) = (grid.rows(), grid.columns());
            return Err(VisionError::Pixels { rows, columns, expected: patches * elements, found: pixels.len() });
        }
        if grid.merge() != self.spec.merge_size {
            return Err(VisionError::Merge { expected: self.spec.merge_size, found: grid.merge() });
        }
        let mut see = |tap: VisionTap, value: &Tensor| observer.see(Point::Vision(tap), value);
        let x = Tensor::from_vec(pixels, (patches, elements), &Device::Cpu)?;
        let x = kernels::ops::linear(&self.patch_embed, &self.pool, &x, Some(&self.patch_bias))?;
        see(VisionTap::PatchEmbed, &x);
        let x = self.post_conv_norm.apply(&self.pool, &x)?;
        see(VisionTap::PostConvNorm, &x);
        let x = kernels::ops::add_bicubic(&self.pool, &self.positions, &self.places(grid), &x)?;
        see(VisionTap::Embeddings, &x);
        let (cos, sin) = self.angles(grid)?;
        Ok(Encoding { x, cos, sin, next: 0 })
    }

    fn run(&self, encoding: &mut Encoding, blocks: usize, observer: &mut dyn Observer) -> Result<usize, VisionError> {
        let to = encoding.next.saturating_add(blocks).min(self.blocks.len());
        while encoding.next < to {
            let angles = (&encoding.cos, &encoding.sin);
            encoding.x = self.blocks[encoding.next].forward(&self.pool, &encoding.x, angles, observer)?;
            encoding.next += 1;
        }
        Ok(self.blocks.len() - encoding.next)
    }

    fn leave(&self, encoding: Encoding, observer: &mut dyn Observer) -> Result<Tensor, VisionError> {
        let remaining = self.blocks.len() - encoding.next;
        if remaining > 0 {
            return Err(VisionError::Unfinished { remaining });
        }
        let x = self.post_norm.apply(&self.pool, &encoding.x)?;
        observer.see(Point::Vision(VisionTap::PostNorm), &x);
        self.merger.forward(&self.pool, &x, observer)
    }

    /// Where each patch's middle lies in the learned table, stretched over the picture. In f32 and by way of −1..1, as
    /// PyTorch's `grid_sample` has it: the rounding is part of the position.
    fn places(&self, grid: Grid) -> Vec<TablePlace> {
        let side = self.spec.table_side as f32;
        let on_axis = |i: u32, count: u32| {
            let normal = ((i as f32 + 0.5) / count as f32) * 2.0 - 1.0;
            ((normal + 1.0) * side - 1.0) / 2.0
        };
        let place = |(row, column): (u32, u32)| TablePlace {
            row: on_axis(row, grid.rows()),
            column: on_axis(column, grid.columns()),
        };
        grid.places().map(place).collect()
    }

    /// Cosine and sine of every patch's angles, `[patches, head_dim / 2]` each: the first half follows the row, the second
    /// the column.
    fn angles(&self, grid: Grid) -> Result<(Tensor, Tensor), VisionError> {
        let shape = (grid.patches() as usize, 2 * self.inv_freq.len());
        let mut cos = Vec::with_capacity(shape.0 * shape.1);
        let mut sin = Vec::with_capacity(shape.0 * shape.1);
        for (row, column) in grid.places() {
            for at in [row, column] {
                for freq in &self.inv_freq {
                    // The product is rounded to f32 as in the reference; its sine then in f64, so that it is exact to f32.
                    let angle = f64::from(at as f32 * freq);
                    #[expect(clippy::cast_possible_truncation, reason = "angles are f32")]
                    let (s, c) = (angle.sin() as f32, angle.cos() as f32);
                    cos.push(c);
                    sin.push(s);
                }
            }
        }
        Ok((Tensor::from_vec(cos, shape, &Device::Cpu)?, Tensor::from_vec(sin, shape, &Device::Cpu)?))
    }
}

/// The frequencies `theta^(−2i / (head_dim / 2))`.
fn inv_freq(spec: &VisionSpec) -> Vec<f32> {
    let half = f64::from(spec.head_dim() / 2);
    #[expect(clippy::cast_possible_truncation, reason = "angles are f32")]
    let freq = |i: u32| spec.rope_theta.powf(-f64::from(2 * i) / half) as f32;
    (0..spec.head_dim() / 4).map(freq).collect()
}
