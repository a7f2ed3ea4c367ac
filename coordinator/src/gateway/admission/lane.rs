//! One deployment's queue and replicas: who is next, where there is room, and how long a newcomer would wait.
//!
//! Pure. Invariants: the sums are those of the entries; a replica is never given more than its room, but for one prompt
//! that is larger than all of it and has it alone, a prompt that moves here from a replica that failed, and answers that
//! turn out longer than expected.

use std::collections::BTreeSet;
use std::time::Instant;

use protocol::generate::Priority;
use protocol::{Epoch, ReplicaId};

use super::lengths::Lengths;
use super::pace::Pace;
use super::policy::Ticket;
use super::service::Service;
use crate::view::{Coming, Group, ReadyReplica, ServedDeployment};

/// What a prompt takes up of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cost {
    /// KV tokens: the prompt's and those of all its answers.
    pub(super) tokens: u64,
    /// Sequences: one an answer.
    pub(super) seqs: u64,
}

impl Cost {
    pub(super) fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.seqs += other.seqs;
    }

    fn take(&mut self, other: Self) {
        self.tokens -= other.tokens;
        self.seqs -= other.seqs;
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, cost| {
            sum.add(cost);
            sum
        })
    }
}

/// A replica as this gateway uses it.
#[derive(Debug, Clone)]
struct Site {
    replica: ReadyReplica,
    /// What it may have of ours at once.
    room: Cost,
    in_flight: Cost,
    service: Service,
}

impl Site {
    fn new(replica: ReadyReplica, max_seqs: u16, service: Service) -> Self {
        // A quarter over what runs at once: the next ones are there when others end, and prompts that share cached blocks
        // take up less than they count.
        let and_a_quarter = |n: u64| n + (n / 4).max(1);
        let room = Cost { tokens: and_a_quarter(replica.kv_tokens.into()), seqs: and_a_quarter(max_seqs.into()) };
        Self { replica, room, in_flight: Cost::default(), service }
    }

    fn takes(&self, cost: Cost) -> bool {
        let fits = |used: u64, more: u64, room: u64| used + more <= room;
        self.in_flight == Cost::default()
            || fits(self.in_flight.tokens, cost.tokens, self.room.tokens)
                && fits(self.in_flight.seqs, cost.seqs, self.room.seqs)
    }

    /// How much of its room is in use, by tokens and by sequences alike.
    fn load(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a share, to compare")]
        let share = |used: u64, room: u64| used as f64 / room as f64;
        share(self.in_flight.tokens, self.room.tokens) + share(self.in_flight.seqs, self.room.seqs)
    }

    /// Nothing is in flight, and nobody's time is measured.
    fn idle(&mut self) {
        self.in_flight = Cost::default();
        self.service.idle();
    }

    fn free(&self) -> Cost {
        Cost {
            tokens: self.room.tokens.saturating_sub(self.in_flight.tokens),
            seqs: self.room.seqs.saturating_sub(self.in_flight.seqs),
        }
    }
}

/// One deployment.
#[derive(Debug)]
pub(super) struct Lane {
    sites: Vec<Site>,
    /// The last ones, idle, while there are none: by them a newcomer's wait is estimated.
    lost: Vec<Site>,
    /// Digest of the model version that they serve.
    digest: String,
    /// Whether others are to come.
    coming: bool,
    /// Since when there are none.
    unserved_since: Option<Instant>,
    /// In the order in which they are taken: tickets ascend with arrival.
    waiting: BTreeSet<(Priority, Ticket)>,
    /// Sums of what waits, by priority.
    ahead: [Cost; 3],
    pub(super) lengths: Lengths,
    pub(super) pace: Pace,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            sites: Vec::new(),
            lost: Vec::new(),
            digest: String::new(),
            coming: false,
            unserved_since: None,
            waiting: BTreeSet::new(),
            ahead: [Cost::default(); 3],
            lengths: Lengths::new(),
            pace: Pace::new(),
        }
    }

    /// Takes over the replicas that are ready now, with nothing in flight: see [`Self::resume`]. A replica's speed stays
    /// known, also when its group was formed anew.
    pub(super) fn view(&mut self, deployment: Option<&ServedDeployment>) {
        let mut old = std::mem::take(&mut self.sites);
        if old.is_empty() {
            old = std::mem::take(&mut self.lost);
        }
        self.lost.clear();
        self.coming = deployment.is_some_and(|d| d.coming != Coming::No);
        let Some(deployment) = deployment else { return };
        if self.digest != deployment.spec.model.digest {
            self.digest.clone_from(&deployment.spec.model.digest);
            old.clear();
        }
        if deployment.replicas.is_empty() {
            self.lost = old;
            self.lost.iter_mut().for_each(Site::idle);
            return;
        }
        for replica in &deployment.replicas {
            let known = old.iter().find(|s| s.replica.replica == replica.replica);
            let service = known.map_or_else(Service::new, |s| s.service.clone());
            self.sites.push(Site::new(replica.clone(), deployment.spec.max_seqs, service));
        }
    }

    /// Notes since when nobody serves.
    pub(super) fn look(&mut self, now: Instant) {
        self.unserved_since = self.sites.is_empty().then(|| self.unserved_since.unwrap_or(now));
    }

    /// Since when there has been no replica, as of the last [`Self::look`].
    pub(super) fn unserved_since(&self) -> Option<Instant> {
        self.unserved_since
    }

    /// Whether no replica stands and one is to come.
    pub(super) fn is_awaited(&self) -> bool {
        self.sites.is_empty() && self.coming
    }

    /// Longest context of the last replicas, tokens, while none stands.
    pub(super) fn context_before(&self) -> Option<u32> {
        self.lost.iter().map(|s| s.replica.context_tokens).max()
    }

    /// By what newcomers are judged.
    fn measured(&self) -> &[Site] {
        if self.sites.is_empty() { &self.lost } else { &self.sites }
    }

    /// After [`Self::view`], for each prompt that was in flight before; in the old group of a replica that was formed anew,
    /// it is not in the new one.
    pub(super) fn resume(&mut self, replica: ReplicaId, epoch: Epoch, cost: Cost) {
        if let Some(site) = self.site(replica, epoch) {
            site.in_flight.add(cost);
        }
    }

    /// How many answers run side by side at a replica, with so many more.
    pub(super) fn side_by_side(&self, more: u64) -> f64 {
        let seqs = self.in_flight().seqs + more;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let each = seqs as f64 / self.measured().len().max(1) as f64;
        each.max(1.0)
    }

    /// How many may, at most.
    pub(super) fn side_by_side_max(&self) -> f64 {
        let most = self.measured().iter().map(|s| s.room.seqs).max().unwrap_or(1);
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let most = most as f64;
        most
    }

    pub(super) fn enqueue(&mut self, priority: Priority, ticket: Ticket, cost: Cost) {
        self.waiting.insert((priority, ticket));
        self.ahead[priority as usize].add(cost);
    }

    pub(super) fn dequeue(&mut self, priority: Priority, ticket: Ticket, cost: Cost) {
        self.waiting.remove(&(priority, ticket));
        self.ahead[priority as usize].take(cost);
    }

    /// Who is taken next.
    pub(super) fn next(&self) -> Option<Ticket> {
        self.waiting.first().map(|(_, ticket)| *ticket)
    }

    /// The least loaded replica that takes it now, of those that have the context for it.
    pub(super) fn free_site(&self, cost: Cost, context_tokens: u64) -> Option<usize> {
        self.least_loaded(|s| s.has_context(context_tokens) && s.takes(cost))
    }

    /// Whether prompts of these contexts and costs would all be placed now, one after the other.
    pub(super) fn place_all(&self, prompts: impl Iterator<Item = (u64, Cost)>) -> bool {
        let mut trial = Self { sites: self.sites.clone(), ..Self::new() };
        prompts.into_iter().all(|(context, cost)| {
            let site = trial.free_site(cost, context);
            site.inspect(|at| trial.sites[*at].in_flight.add(cost)).is_some()
        })
    }

    /// The least loaded replica whose group is not among `avoid`, whether it has room or not.
    pub(super) fn other_site(&self, context_tokens: u64, avoid: &[Group]) -> Option<usize> {
        self.least_loaded(|s| s.has_context(context_tokens) && !avoid.contains(&s.replica.group()))
    }

    fn least_loaded(&self, may: impl Fn(&Site) -> bool) -> Option<usize> {
        let sites = self.sites.iter().enumerate().filter(|(_, s)| may(s));
        let by_load =
            |a: &Site, b: &Site| a.load().total_cmp(&b.load()).then(a.replica.replica.cmp(&b.replica.replica));
        sites.min_by(|(_, a), (_, b)| by_load(a, b)).map(|(at, _)| at)
    }

    /// Whether any replica has the context for it.
    pub(super) fn has_context(&self, context_tokens: u64) -> bool {
        self.sites.iter().any(|s| s.has_context(context_tokens))
    }

    pub(super) fn occupy(&mut self, site: usize, cost: Cost, now: Instant) -> ReadyReplica {
        let site = &mut self.sites[site];
        site.in_flight.add(cost);
        site.service.look(!self.waiting.is_empty(), now);
        site.replica.clone()
    }

    /// Gives back what was in flight, unless the group that had it is gone.
    pub(super) fn vacate(&mut self, replica: ReplicaId, epoch: Epoch, cost: Cost, now: Instant) {
        let contended = !self.waiting.is_empty();
        let Some(site) = self.site(replica, epoch) else { return };
        site.in_flight.take(cost);
        if site.in_flight == Cost::default() {
            site.service.idle();
        } else {
            site.service.look(contended, now);
        }
        if self.in_flight() == Cost::default() {
            self.pace.idle();
        }
    }

    /// Counts what a replica served, and what its answers have grown beyond what was expected.
    pub(super) fn served(&mut self, replica: ReplicaId, epoch: Epoch, tokens: u64, grown: Cost, now: Instant) {
        let contended = !self.waiting.is_empty();
        let Some(site) = self.site(replica, epoch) else { return };
        site.in_flight.add(grown);
        site.service.served(tokens, contended, now);
    }

    fn site(&mut self, replica: ReplicaId, epoch: Epoch) -> Option<&mut Site> {
        self.sites.iter_mut().find(|s| s.replica.replica == replica && s.replica.epoch == epoch)
    }

    /// Tokens a second of all replicas; `None` while nothing is known of any.
    pub(super) fn rate(&self) -> Option<f64> {
        let known = self.measured().iter().filter_map(|s| s.service.rate());
        known.reduce(|a, b| a + b)
    }

    /// What waits before a newcomer of this priority.
    pub(super) fn ahead(&self, priority: Priority) -> Cost {
        self.ahead[..=priority as usize].iter().copied().sum()
    }

    /// What is in flight here.
    pub(super) fn in_flight(&self) -> Cost {
        self.sites.iter().map(|s| s.in_flight).sum()
    }

    /// KV tokens that must be given back before a newcomer has room, by tokens and by sequences.
    pub(super) fn due_before(&self, priority: Priority, cost: Cost) -> u64 {
        let free: Cost = self.measured().iter().map(Site::free).sum();
        let (mut before, running) = (self.ahead(priority), self.in_flight());
        before.add(cost);
        let seqs = before.seqs.saturating_sub(free.seqs);
        let tokens_a_seq = (before.tokens + running.tokens) / (before.seqs + running.seqs).max(1);
        before.tokens.saturating_sub(free.tokens).max(seqs.saturating_mul(tokens_a_seq))
    }

    /// Sums by hand what is waiting, for tests.
    #[cfg(test)]
    pub(super) fn sums(&self) -> [Cost; 3] {
        self.ahead
    }

    #[cfg(test)]
    pub(super) fn rooms(&self) -> Vec<(Cost, Cost)> {
        self.sites.iter().map(|s| (s.in_flight, s.room)).collect()
    }
}

impl Site {
    fn has_context(&self, tokens: u64) -> bool {
        tokens <= u64::from(self.replica.context_tokens)
    }
}
