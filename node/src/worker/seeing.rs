//! A model with its eyes: what one rank does for pictures in a step, and the embeddings it keeps.
//!
//! ```text
//!  begin ─▶ owner: in its tower ── blocks* ── finish ─▶ exchanged ─▶ kept by every rank ── forget ─▶ gone
//!        └▶ others: awaited ──────────────────────────────┘
//! ```
//! Not here: which picture, whose, when (rank 0's engine). Invariant: every rank keeps the same pictures with the same bits;
//! a step without pictures goes straight to the text model.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{Device, Tensor};
use protocol::picture::{BeginPicture, PictureSize, PictureWork, SeqPicture};
use protocol::step::{StepPlan, StepSeq};
use protocol::{PictureId, Rank, WorldSize};
use sharding::PixelSpec;
use sharding::layers::{Encoding, Glm4Text, Group, Logits, Sight, StepError, Unobserved, VisionTower};
use sharding::picture::{Grid, PatchError, PromptPositions, Rgb, Size, patches};

use super::model::{ModelError, StepModel, TowerWork};

/// Most values of an embedding that one exchange carries (4 MiB): a peer is waited for piece by piece.
const EXCHANGE_VALUES_MAX: usize = 1 << 20;

/// The text model of one rank, and what it sees where it has a tower.
pub(super) struct Seeing {
    text: Glm4Text,
    /// How pictures are made into patches; `None` for a model that reads text alone.
    pixels: Option<PixelSpec>,
    pictures: Pictures,
    work: Option<TowerWork>,
}

/// The pictures that a rank knows.
#[derive(Default)]
struct Pictures {
    known: HashMap<PictureId, Picture>,
    /// Those in this rank's tower, in the order in which they were begun.
    own: Vec<PictureId>,
}

enum Picture {
    /// In another rank's tower.
    Awaited { owner: Rank, grid: Grid },
    /// In this rank's tower.
    Encoding { encoding: Encoding, grid: Grid },
    /// `[tokens, hidden]`.
    Kept(Tensor),
}

impl Picture {
    fn stage(&self) -> &'static str {
        match self {
            Self::Awaited { .. } => "in another rank's tower",
            Self::Encoding { .. } => "in this rank's tower",
            Self::Kept(_) => "kept",
        }
    }
}

impl Seeing {
    /// A model, and how pictures become the patches of its tower.
    pub(super) fn new(text: Glm4Text, pixels: Option<PixelSpec>) -> Self {
        Self { text, pixels, pictures: Pictures::default(), work: None }
    }

    /// The text model.
    pub(super) fn text(&self) -> &Glm4Text {
        &self.text
    }

    /// Does what the plan wants done for pictures.
    fn look(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<(), ModelError> {
        let (Some(tower), Some(pixels)) = (self.text.vision(), &self.pixels) else {
            return Err(ModelError::Blind { step: plan.step });
        };
        let PictureWork { forget, begin, blocks, finish } = &plan.pictures;
        forget.iter().for_each(|picture| self.pictures.forget(*picture));
        if let Some(begin) = begin {
            self.pictures.begin(group.rank(), tower, pixels, begin)?;
        }
        if *blocks > 0 {
            self.work = self.pictures.advance(tower, *blocks)?;
        }
        finish.iter().try_for_each(|picture| self.pictures.finish(group, tower, *picture))
    }
}

impl StepModel for Seeing {
    fn step(&mut self, group: &mut dyn Group, plan: &StepPlan) -> Result<Option<Logits>, ModelError> {
        self.work = None;
        if !plan.pictures.is_empty() {
            self.look(group, plan)?;
        }
        if plan.seqs.iter().all(|seq| seq.pictures.is_empty()) {
            return Ok(self.text.step(group, plan)?);
        }
        let Some(tower) = self.text.vision() else { return Err(ModelError::Blind { step: plan.step }) };
        let seen = plan.seqs.iter().enumerate().filter(|(_, seq)| !seq.pictures.is_empty());
        let looks =
            seen.map(|(index, seq)| self.pictures.look_of(tower, index, seq)).collect::<Result<Vec<Look>, _>>()?;
        let sights: Vec<Sight<'_>> = looks.iter().map(Look::sight).collect();
        Ok(self.text.step_observed(group, plan, &sights, &mut Unobserved)?)
    }

    fn tower_work(&self) -> Option<TowerWork> {
        self.work
    }
}

/// What one sequence of a step sees.
struct Look {
    index: usize,
    positions: PromptPositions,
    embeddings: Vec<Tensor>,
}

impl Look {
    fn sight(&self) -> Sight<'_> {
        Sight { index: self.index, positions: &self.positions, embeddings: &self.embeddings }
    }
}

impl Pictures {
    fn forget(&mut self, picture: PictureId) {
        self.known.remove(&picture);
        self.own.retain(|own| *own != picture);
    }

    fn begin(
        &mut self,
        rank: Rank,
        tower: &VisionTower,
        pixels: &PixelSpec,
        begin: &BeginPicture,
    ) -> Result<(), ModelError> {
        let BeginPicture { picture, owner, size, rgb } = begin;
        let known = if *owner == rank {
            let (patches, grid) = patches(&Rgb::new(sides(*size), rgb.clone()), pixels)
                .map_err(|source| ModelError::Patches { picture: *picture, source })?;
            let encoding = tower.begin(patches, grid);
            self.own.push(*picture);
            Picture::Encoding {
                encoding: encoding.map_err(|source| ModelError::Vision { picture: *picture, source })?,
                grid,
            }
        } else {
            Picture::Awaited { owner: *owner, grid: grid(tower, *picture, *size)? }
        };
        self.known.insert(*picture, known);
        Ok(())
    }

    /// Runs up to `blocks` blocks of the first of this rank's own.
    fn advance(&mut self, tower: &VisionTower, blocks: u16) -> Result<Option<TowerWork>, ModelError> {
        let Some(picture) = self.own.first().copied() else { return Ok(None) };
        let Some(Picture::Encoding { encoding, grid }) = self.known.get_mut(&picture) else {
            unreachable!("what is in the tower is known to be there")
        };
        let began = Instant::now();
        tower.advance(encoding, usize::from(blocks)).map_err(|source| ModelError::Vision { picture, source })?;
        Ok(Some(TowerWork { patches: grid.patches(), blocks, took: began.elapsed() }))
    }

    /// The owner gives a picture's embeddings to every rank.
    fn finish(&mut self, group: &mut dyn Group, tower: &VisionTower, picture: PictureId) -> Result<(), ModelError> {
        let hidden = tower.spec().out_hidden_size as usize;
        let shape = |grid: Grid| (grid.tokens() as usize, hidden);
        let vision = |source| ModelError::Vision { picture, source };
        let tensor = match self.known.remove(&picture) {
            Some(Picture::Encoding { encoding, grid }) => {
                self.own.retain(|own| *own != picture);
                let embeddings = tower.finish(encoding).map_err(vision)?;
                if group.world_size() > WorldSize::ONE {
                    let values = embeddings.flatten_all().and_then(|t| t.to_vec1()).map_err(StepError::from)?;
                    let rank = group.rank();
                    exchange(group, rank, values, shape(grid))?
                } else {
                    embeddings
                }
            }
            Some(Picture::Awaited { owner, grid }) => exchange(group, owner, Vec::new(), shape(grid))?,
            Some(Picture::Kept(_)) => {
                return Err(ModelError::Stage { picture, expected: "in a tower", found: "kept" });
            }
            None => return Err(ModelError::Stage { picture, expected: "in a tower", found: "unknown" }),
        };
        self.known.insert(picture, Picture::Kept(tensor));
        Ok(())
    }

    fn look_of(&self, tower: &VisionTower, index: usize, seq: &StepSeq) -> Result<Look, ModelError> {
        let place = |seen: &SeqPicture| Ok((seen.place.at, grid(tower, seen.picture, seen.place.size)?));
        let places = seq.pictures.iter().map(place).collect::<Result<Vec<_>, ModelError>>()?;
        let positions = PromptPositions::of_places(places)?;
        // Past the last picture only its positions matter.
        let embeddings = if seq.start >= positions.tokens() {
            Vec::new()
        } else {
            let all = seq.pictures.iter().map(|seen| self.kept(seen.picture));
            all.collect::<Result<Vec<_>, _>>()?
        };
        Ok(Look { index, positions, embeddings })
    }

    fn kept(&self, picture: PictureId) -> Result<Tensor, ModelError> {
        match self.known.get(&picture) {
            // A tensor is a handle: the values stay where they are.
            Some(Picture::Kept(embeddings)) => Ok(embeddings.clone()),
            other => {
                let found = other.map_or("unknown", Picture::stage);
                Err(ModelError::Stage { picture, expected: "kept", found })
            }
        }
    }
}

fn sides(PictureSize { height, width }: PictureSize) -> Size {
    Size { height, width }
}

/// How a picture of this size is cut.
fn grid(tower: &VisionTower, picture: PictureId, size: PictureSize) -> Result<Grid, ModelError> {
    let spec = tower.spec();
    let source = PatchError { found: sides(size), factor: spec.patch_size * spec.merge_size };
    spec.grid(sides(size)).ok_or(ModelError::Patches { picture, source })
}

/// The values of `owner` for everybody, `[tokens, hidden]`.
fn exchange(group: &mut dyn Group, owner: Rank, mine: Vec<f32>, shape: (usize, usize)) -> Result<Tensor, ModelError> {
    let total = shape.0 * shape.1;
    let mut counts = vec![0; usize::from(group.world_size().get())];
    let mut all = vec![0.0; total];
    for (at, out) in all.chunks_mut(EXCHANGE_VALUES_MAX).enumerate() {
        counts[owner.index()] = out.len();
        let first = at * EXCHANGE_VALUES_MAX;
        let part = mine.get(first..first + out.len()).unwrap_or_default();
        group.all_gather(&counts, part, out)?;
    }
    Ok(Tensor::from_vec(all, shape, &Device::Cpu).map_err(StepError::from)?)
}
