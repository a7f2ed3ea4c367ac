//! The pictures of one replica: which are wanted, which are on their way through which rank's tower, which embeddings the
//! ranks keep.
//!
//! ```text
//!  claim ─▶ Waiting ── begin: a rank without a picture ─▶ Encoding ── finish ─▶ Ready ── room is needed ─▶ forgotten
//!              │ given up                                    │ given up            ▲  │ claimed again
//!              └─▶ gone                                      └─▶ forgotten         └──┘
//! ```
//! Not here: levels and embeddings, how long a block takes, who waits for whom ([`super::Anteroom`]).
//! Invariants: pictures of one content are one, encoded once; what is claimed or kept never takes more tokens than there is
//! room for; a rank has at most one picture in its tower; only what nobody claims is forgotten, the longest not claimed
//! first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use protocol::picture::STEP_PICTURES_MAX;
use protocol::{PictureId, Rank};

use super::picture::{KnownPicture, NewPicture, PictureClaim, PictureDigest};

/// Bounds of one gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GalleryLimits {
    /// Most tokens of pictures that are claimed or kept.
    pub tokens_max: u32,
    /// Blocks of a tower; at least one.
    pub depth: u16,
    /// Ranks, each with a tower; at least one.
    pub ranks: u16,
}

/// What a gallery counts from its start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GalleryCounts {
    /// Pictures that somebody claimed.
    pub claims: u64,
    /// Those of them that were known.
    pub hits: u64,
    /// Pictures encoded.
    pub encoded: u64,
    /// Embeddings that gave way to others.
    pub evictions: u64,
}

/// A picture that a rank takes into its tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin<L> {
    /// Its name.
    pub picture: PictureId,
    /// Who encodes it.
    pub owner: Rank,
    /// Its levels, or what holds them.
    pub levels: L,
}

/// What the next step does for pictures.
#[derive(Debug, PartialEq, Eq)]
pub struct GalleryWork<L> {
    /// What nobody needs any more.
    pub forget: Vec<PictureId>,
    /// One to begin.
    pub begin: Option<Begin<L>>,
    /// Blocks that each rank with a picture runs.
    pub blocks: u16,
    /// Pictures that are done with that.
    pub finish: Vec<PictureId>,
}

impl<L> GalleryWork<L> {
    fn none() -> Self {
        Self { forget: Vec::new(), begin: None, blocks: 0, finish: Vec::new() }
    }
}

#[derive(Debug)]
enum Stage<L> {
    Waiting(L),
    Encoding {
        owner: Rank,
        /// Blocks to go.
        left: u16,
    },
    Ready,
}

#[derive(Debug)]
struct Entry<L> {
    known: Arc<KnownPicture>,
    stage: Stage<L>,
    /// Number of the claim that was its last one.
    claimed: u64,
}

impl<L> Entry<L> {
    /// Whether nobody but the gallery has it.
    fn is_given_up(&self) -> bool {
        Arc::strong_count(&self.known) == 1
    }
}

/// The pictures of one replica.
#[derive(Debug)]
pub struct Gallery<L> {
    limits: GalleryLimits,
    /// In the order in which they were claimed first.
    pictures: BTreeMap<PictureId, Entry<L>>,
    by_digest: HashMap<PictureDigest, PictureId>,
    /// Those that are not ready.
    open: BTreeSet<PictureId>,
    /// What the ranks have and nobody knows any more.
    forget: Vec<PictureId>,
    /// Tokens of all pictures here.
    tokens: u64,
    last_id: u64,
    counts: GalleryCounts,
}

impl<L> Gallery<L> {
    /// An empty gallery.
    #[must_use]
    pub fn new(limits: GalleryLimits) -> Self {
        Self {
            limits,
            pictures: BTreeMap::new(),
            by_digest: HashMap::new(),
            open: BTreeSet::new(),
            forget: Vec::new(),
            tokens: 0,
            last_id: 0,
            counts: GalleryCounts::default(),
        }
    }

    /// Its bounds.
    #[must_use]
    pub fn limits(&self) -> GalleryLimits {
        self.limits
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> GalleryCounts {
        self.counts
    }

    /// Tokens of all pictures that are claimed or kept.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens of the pictures that somebody claims.
    #[must_use]
    pub fn tokens_claimed(&self) -> u64 {
        self.pictures.values().filter(|e| !e.is_given_up()).map(|e| u64::from(e.known.tokens)).sum()
    }

    /// Claims all of `wanted`, in their order, or nothing where there is no room yet. Levels of a picture that is known are
    /// dropped.
    pub fn claim(&mut self, wanted: &mut Vec<NewPicture<L>>) -> Option<Vec<PictureClaim>> {
        let wants: BTreeMap<PictureDigest, u64> = wanted.iter().map(|p| (p.digest, u64::from(p.tokens))).collect();
        let stays = |e: &&Entry<L>| !e.is_given_up() && !wants.contains_key(&e.known.digest);
        let others: u64 = self.pictures.values().filter(stays).map(|e| u64::from(e.known.tokens)).sum();
        if others + wants.values().sum::<u64>() > u64::from(self.limits.tokens_max) {
            return None;
        }
        let new: u64 = wants.iter().filter(|(d, _)| !self.by_digest.contains_key(d)).map(|(_, tokens)| tokens).sum();
        self.make_room(new, &wants);
        Some(wanted.drain(..).map(|picture| self.claim_one(picture)).collect())
    }

    fn claim_one(&mut self, picture: NewPicture<L>) -> PictureClaim {
        self.counts.claims += 1;
        let claimed = self.counts.claims;
        if let Some(entry) = self.by_digest.get(&picture.digest).and_then(|id| self.pictures.get_mut(id)) {
            self.counts.hits += 1;
            entry.claimed = claimed;
            return PictureClaim(entry.known.clone());
        }
        self.last_id += 1;
        let id = PictureId(self.last_id);
        let NewPicture { digest, tokens, patches, levels, .. } = picture;
        let known = Arc::new(KnownPicture { id, digest, tokens, patches });
        self.tokens += u64::from(tokens);
        self.by_digest.insert(digest, id);
        self.open.insert(id);
        self.pictures.insert(id, Entry { known: known.clone(), stage: Stage::Waiting(levels), claimed });
        PictureClaim(known)
    }

    /// Forgets what nobody claims until there is room for `new` tokens more, but nothing of `wants`.
    fn make_room(&mut self, new: u64, wants: &BTreeMap<PictureDigest, u64>) {
        let max = u64::from(self.limits.tokens_max);
        if self.tokens + new <= max {
            return;
        }
        self.drop_given_up(|digest| wants.contains_key(digest));
        let idle = |e: &&Entry<L>| e.is_given_up() && !wants.contains_key(&e.known.digest);
        let mut idle: Vec<(u64, PictureId)> =
            self.pictures.values().filter(idle).map(|e| (e.claimed, e.known.id)).collect();
        idle.sort_unstable();
        for (_, id) in idle {
            if self.tokens + new <= max {
                return;
            }
            self.counts.evictions += 1;
            self.remove(id);
        }
    }

    /// Forgets pictures that nobody waits for any more, also in the middle of a tower, but those to `keep`.
    fn drop_given_up(&mut self, keep: impl Fn(&PictureDigest) -> bool) {
        let is_gone = |e: &Entry<L>| e.is_given_up() && !keep(&e.known.digest);
        let gone: Vec<PictureId> = self.open.iter().copied().filter(|id| is_gone(&self.pictures[id])).collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    fn remove(&mut self, id: PictureId) {
        let Some(entry) = self.pictures.remove(&id) else { return };
        self.open.remove(&id);
        self.by_digest.remove(&entry.known.digest);
        self.tokens -= u64::from(entry.known.tokens);
        if !matches!(entry.stage, Stage::Waiting(_)) {
            self.forget.push(id);
        }
    }

    /// What the next step does, which must then be done: `blocks` says how many blocks it runs of pictures of which the
    /// largest has so many patches. Costs nothing where nobody waits for a picture.
    pub fn plan(&mut self, blocks: impl FnOnce(u32) -> u16) -> GalleryWork<L> {
        if self.open.is_empty() && self.forget.is_empty() {
            return GalleryWork::none();
        }
        self.drop_given_up(|_| false);
        let forget = self.forget.drain(..self.forget.len().min(STEP_PICTURES_MAX)).collect();
        let begin = self.begin();
        let largest = self.in_towers().map(|(_, e)| e.known.patches).max();
        let blocks = largest.map_or(0, |patches| blocks(patches).clamp(1, self.limits.depth));
        let finish = self.advance(blocks);
        self.counts.encoded += finish.len() as u64;
        GalleryWork { forget, begin, blocks, finish }
    }

    /// Pictures in the ranks' towers.
    fn in_towers(&self) -> impl Iterator<Item = (Rank, &Entry<L>)> {
        self.open.iter().filter_map(|id| {
            let entry = &self.pictures[id];
            if let Stage::Encoding { owner, .. } = entry.stage { Some((owner, entry)) } else { None }
        })
    }

    /// Gives the picture that waits longest to the first rank that has none.
    fn begin(&mut self) -> Option<Begin<L>> {
        let busy: BTreeSet<Rank> = self.in_towers().map(|(owner, _)| owner).collect();
        let owner = (0..self.limits.ranks).map(Rank).find(|rank| !busy.contains(rank))?;
        let waiting = |id: &&PictureId| matches!(self.pictures[*id].stage, Stage::Waiting(_));
        let picture = *self.open.iter().find(waiting)?;
        let stage = &mut self.pictures.get_mut(&picture)?.stage;
        match std::mem::replace(stage, Stage::Encoding { owner, left: self.limits.depth }) {
            Stage::Waiting(levels) => Some(Begin { picture, owner, levels }),
            Stage::Encoding { .. } | Stage::Ready => unreachable!("it was found waiting"),
        }
    }

    /// Runs `blocks` blocks of every picture that is in a tower; those that are through.
    fn advance(&mut self, blocks: u16) -> Vec<PictureId> {
        let mut finished = Vec::new();
        for id in &self.open {
            let Some(Entry { stage, .. }) = self.pictures.get_mut(id) else { continue };
            if let Stage::Encoding { left, .. } = stage {
                *left = left.saturating_sub(blocks);
                if *left == 0 {
                    *stage = Stage::Ready;
                    finished.push(*id);
                }
            }
        }
        finished.iter().for_each(|id| {
            self.open.remove(id);
        });
        finished
    }

    /// Whether a step that is planned from now on may use it.
    #[must_use]
    pub fn is_ready(&self, claim: &PictureClaim) -> bool {
        !self.open.contains(&claim.id())
    }

    /// Whether there is nothing that a step could do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.forget.is_empty()
    }
}
