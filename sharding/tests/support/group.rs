//! A group of threads in one process, for tests of the layers alone. The real ones are elsewhere.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use protocol::{Rank, ReductionTree, WorldSize};
use sharding::layers::{Group, GroupError};

/// How long a rank waits for the others before it takes one for dead.
const DEADLINE: Duration = Duration::from_secs(60);

/// One rank's end.
pub(crate) struct ThreadGroup {
    rank: Rank,
    world: WorldSize,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Option<Vec<f32>>>,
    /// What all ranks brought to the last finished exchange; kept until the next one is finished, which takes every
    /// rank, so none can miss it.
    finished: Arc<Vec<Vec<f32>>>,
    exchanges: u64,
}

impl ThreadGroup {
    /// The ends of a group, in rank order.
    pub(crate) fn group(world: WorldSize) -> Vec<Self> {
        let waiting = vec![None; usize::from(world.get())];
        let state = Mutex::new(State { waiting, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        world.ranks().map(|rank| Self { rank, world, shared: Arc::clone(&shared) }).collect()
    }

    fn exchange(&self, mine: &[f32]) -> Result<Arc<Vec<Vec<f32>>>, GroupError> {
        let mut state = self.shared.state.lock().expect("no rank panicked in here");
        let this = state.exchanges;
        state.waiting[self.rank.index()] = Some(mine.to_vec());
        if state.waiting.iter().all(Option::is_some) {
            state.finished = Arc::new(state.waiting.iter_mut().filter_map(Option::take).collect());
            state.exchanges += 1;
            self.shared.changed.notify_all();
        }
        let pending = |s: &mut State| s.exchanges == this;
        let (state, late) =
            self.shared.changed.wait_timeout_while(state, DEADLINE, pending).expect("no rank panicked in here");
        if late.timed_out() {
            return Err(GroupError::new("a rank did not come"));
        }
        Ok(Arc::clone(&state.finished))
    }
}

impl Group for ThreadGroup {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn world_size(&self) -> WorldSize {
        self.world
    }

    fn all_reduce(&mut self, tree: &ReductionTree, mine: &[f32], out: &mut [f32]) -> Result<(), GroupError> {
        let all = self.exchange(mine)?;
        let n = out.len();
        let sum = tree.fold(
            |rank, index| all[rank][index * n..(index + 1) * n].to_vec(),
            |left, right| left.iter().zip(&right).map(|(l, r)| l + r).collect(),
        );
        out.copy_from_slice(&sum.expect("a model has heads and columns"));
        Ok(())
    }

    fn all_gather(&mut self, counts: &[usize], mine: &[f32], out: &mut [f32]) -> Result<(), GroupError> {
        assert_eq!(counts[self.rank.index()], mine.len());
        let all = self.exchange(mine)?;
        assert!(all.iter().map(Vec::len).eq(counts.iter().copied()), "every rank counts alike");
        out.copy_from_slice(&all.concat());
        Ok(())
    }
}
