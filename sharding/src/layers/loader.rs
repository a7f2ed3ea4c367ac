//! Hands each layer its part of each tensor, from the mapped checkpoint into the form it computes with.
//!
//! Not here: which part (`partition`). Invariant: every byte that is read belongs to this rank's slices and is read
//! once (twice for a tied LM head).

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use kernels::{PackedLinear, WeightType};
use protocol::{Dtype, RankCut};

use super::LoadError;
use crate::checkpoint::{SliceRows, StoredDtype, Weights};
use crate::partition::{Cut, Rule, TensorSlice, slices};
use crate::spec::ModelSpec;

/// One rank's view of a checkpoint while its layers load.
pub struct Loader<'a> {
    weights: Weights,
    slices: HashMap<String, TensorSlice>,
    dtype: Dtype,
    total: u64,
    held: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

/// Along what a layer wants its matrix cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    /// Output rows.
    Rows,
    /// Input columns.
    Cols,
    /// It stays whole.
    Nothing,
}

impl<'a> Loader<'a> {
    /// A loader of the parts that `cut` gives a rank; `progress` hears bytes read and bytes in all after each tensor.
    #[must_use]
    pub fn new(
        weights: Weights,
        spec: &ModelSpec,
        cut: &RankCut,
        dtype: Dtype,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Self {
        let slices: HashMap<_, _> = slices(spec, cut).into_iter().map(|s| (s.name.clone(), s)).collect();
        let bytes = |s: &TensorSlice| {
            let dtype = weights.checkpoint().tensor(&s.name).and_then(|t| t.dtype.bytes());
            // A tied LM head reads the embedding once more.
            let times = if spec.tie_word_embeddings && s.rule == Rule::Vocabulary { 2 } else { 1 };
            s.elements() * dtype.unwrap_or(0) * times
        };
        let total = slices.values().map(bytes).sum();
        Self { weights, slices, dtype, total, held: 0, progress }
    }

    /// Bytes of the checkpoint that were read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.weights.bytes_read()
    }

    /// Bytes that the loaded weights take in memory so far.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.held
    }

    /// Whether the model has a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.slices.contains_key(name)
    }

    /// A matrix packed for products, `[local rows, local columns]`.
    pub(super) fn packed(&mut self, name: &str, along: Along) -> Result<PackedLinear, LoadError> {
        let packed = self.read(name, |slice, rows, dtype| {
            let fits = match (&slice.cut, along) {
                (Cut::Rows(_), Along::Rows) | (Cut::Cols(_), Along::Cols) => slice.shape.len() == 2,
                _ => false,
            };
            if !fits {
                return Err(rule_error(name, along, slice));
            }
            let shape = slice.local_shape();
            let weight_type = in_memory(dtype, rows.dtype());
            Ok(PackedLinear::from_rows(shape[0] as usize, shape[1] as usize, weight_type, |row, to| {
                widen(rows.dtype(), rows.row(row), to);
            }))
        })?;
        self.held += packed.bytes() as u64;
        Ok(packed)
    }

    /// A whole matrix packed for products, `[rows, all that follows the first axis]`.
    pub(super) fn whole(&mut self, name: &str) -> Result<PackedLinear, LoadError> {
        self.whole_in_order(name, |stored, to| to.copy_from_slice(stored))
    }

    /// As [`Self::whole`] with the columns in another order: `order(stored row, packed row)`.
    pub(super) fn whole_in_order(
        &mut self,
        name: &str,
        order: impl Fn(&[f32], &mut [f32]),
    ) -> Result<PackedLinear, LoadError> {
        let packed = self.read(name, |slice, rows, dtype| {
            if slice.cut != Cut::Whole || slice.shape.len() < 2 {
                return Err(rule_error(name, Along::Nothing, slice));
            }
            let columns = slice.row_elements();
            let mut stored = vec![0.0; columns];
            Ok(PackedLinear::from_rows(slice.num_rows(), columns, in_memory(dtype, rows.dtype()), |row, to| {
                widen(rows.dtype(), rows.row(row), &mut stored);
                order(&stored, to);
            }))
        })?;
        self.held += packed.bytes() as u64;
        Ok(packed)
    }

    /// A norm or bias as f32, `[local elements]`.
    pub(super) fn vector(&mut self, name: &str) -> Result<Tensor, LoadError> {
        self.flat(name)
    }

    /// All elements as f32, one row after the other.
    pub(super) fn flat(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let vector = self.read(name, |slice, rows, _| {
            let elements: usize = slice.local_shape().iter().map(|d| *d as usize).product();
            let mut vector = vec![0.0; elements];
            for (row, to) in vector.chunks_mut(slice.row_elements().max(1)).enumerate() {
                widen(rows.dtype(), rows.row(row), to);
            }
            Ok(vector)
        })?;
        self.held += size_of_val(vector.as_slice()) as u64;
        let len = vector.len();
        Ok(Tensor::from_vec(vector, len, &Device::Cpu)?)
    }

    /// A matrix by rows, `[local rows, columns]`, for looking rows up.
    pub(super) fn table(&mut self, name: &str) -> Result<Tensor, LoadError> {
        let table = self.read(name, |slice, rows, dtype| {
            let &[count, width] = slice.local_shape().as_slice() else {
                return Err(rule_error(name, Along::Rows, slice));
            };
            let (count, width) = (count as usize, width as usize);
            let mut all = vec![0.0f32; count * width];
            for (row, to) in all.chunks_mut(width).enumerate() {
                widen(rows.dtype(), rows.row(row), to);
            }
            Ok(match in_memory(dtype, rows.dtype()) {
                WeightType::F32 => Tensor::from_vec(all, (count, width), &Device::Cpu)?,
                WeightType::Bf16 => {
                    let narrow: Vec<bf16> = all.into_iter().map(bf16::from_f32).collect();
                    Tensor::from_vec(narrow, (count, width), &Device::Cpu)?
                }
            })
        })?;
        self.held += (table.elem_count() * table.dtype().size_in_bytes()) as u64;
        Ok(table)
    }

    fn read<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&TensorSlice, SliceRows<'_>, Dtype) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        let slice = self.slices.get(name).ok_or_else(|| LoadError::Rule {
            tensor: name.to_owned(),
            expected: "some rule",
            found: "no such tensor".to_owned(),
        })?;
        let value = read(slice, self.weights.slice(slice)?, self.dtype)?;
        (self.progress)(self.weights.bytes_read(), self.total);
        Ok(value)
    }
}

fn rule_error(name: &str, along: Along, slice: &TensorSlice) -> LoadError {
    LoadError::Rule {
        tensor: name.to_owned(),
        expected: match along {
            Along::Rows => "output rows of a matrix",
            Along::Cols => "input columns of a matrix",
            Along::Nothing => "nothing, as a whole matrix",
        },
        found: format!("{:?} {:?}", slice.rule, slice.cut),
    }
}

/// [`Dtype::F32`] keeps every value as it is stored: bf16 in two bytes, the rest in four.
fn in_memory(dtype: Dtype, stored: &StoredDtype) -> WeightType {
    match (dtype, stored) {
        (Dtype::Bf16, _) | (Dtype::F32, StoredDtype::Bf16) => WeightType::Bf16,
        (Dtype::F32, _) => WeightType::F32,
    }
}

/// Little-endian elements of `dtype` as f32; exact.
fn widen(dtype: &StoredDtype, bytes: &[u8], to: &mut [f32]) {
    let (pairs, _) = bytes.as_chunks::<2>();
    match dtype {
        StoredDtype::Bf16 => to.iter_mut().zip(pairs).for_each(|(to, b)| *to = bf16::from_le_bytes(*b).to_f32()),
        StoredDtype::F16 => to.iter_mut().zip(pairs).for_each(|(to, b)| *to = f16::from_le_bytes(*b).to_f32()),
        StoredDtype::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            to.iter_mut().zip(words).for_each(|(to, b)| *to = f32::from_le_bytes(*b));
        }
        StoredDtype::Other(name) => unreachable!("Weights::slice opens no tensor of dtype {name}"),
    }
}
