//! What is seen of a run: facts for the invariants, and a trace whose digest tells one run from another.
//!
//! Invariant: nothing that is drawn from a map of random order, and no pointer or wall-clock time, goes into a trace.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use coordinator::raft::AppliedState;
use coordinator::sim::Claim;
use node::agent::supervisor::RankKey;
use protocol::{CoordinatorId, Generation, Term};

use crate::host::HostId;

/// How many of the last events are kept for whoever looks at a failure.
const TAIL: usize = 60;

/// Something that is true at a moment.
#[derive(Debug, Clone)]
pub enum Fact {
    /// What a coordinator takes itself for has changed.
    Claims {
        /// Which.
        coordinator: CoordinatorId,
        /// What.
        claim: Claim,
    },
    /// A coordinator has applied more.
    Applied {
        /// Which.
        coordinator: CoordinatorId,
        /// What it has now.
        applied: AppliedState,
    },
    /// A write was acknowledged.
    Acknowledged {
        /// The deployment that only this writer writes.
        name: String,
        /// The generation that it was told.
        generation: Generation,
        /// What it wrote.
        mark: String,
    },
    /// A linearizable read that began after `after` was acknowledged was answered.
    Read {
        /// Of which deployment.
        name: String,
        /// The last generation that was acknowledged before the read began.
        after: Option<Generation>,
        /// What it found.
        found: Option<(Generation, String)>,
    },
    /// A process cannot go on.
    Stopped {
        /// Which coordinator's.
        coordinator: CoordinatorId,
        /// Why.
        reason: String,
        /// Whether its disk takes no writes.
        excused: bool,
    },
    /// A node obeys a leader of another term.
    Obeys {
        /// The node's host.
        host: HostId,
        /// The term.
        term: Term,
    },
    /// A rank's process starts.
    RankStarted {
        /// Where.
        host: HostId,
        /// Which.
        key: RankKey,
    },
    /// A rank's process is gone.
    RankEnded {
        /// Where.
        host: HostId,
        /// Which.
        key: RankKey,
    },
    /// A client asks for an answer.
    Asked {
        /// The stream's name.
        stream: String,
        /// The prompt's tokens.
        prompt: Vec<u32>,
        /// Tokens of each choice.
        max_tokens: u32,
        /// How many.
        choices: u16,
    },
    /// It reads on.
    Told {
        /// Of which stream.
        stream: String,
        /// Of which choice.
        choice: u16,
        /// The next tokens.
        tokens: Vec<u32>,
        /// Whether the choice ends with them.
        finished: bool,
    },
    /// Nothing more comes.
    AnswerEnded {
        /// Of which stream.
        stream: String,
        /// It was refused: nothing came at all.
        refused: bool,
        /// What it ended with, where that is not its end.
        error: Option<String>,
    },
    /// Everything was healed long ago and nobody asks; the KV blocks that a rank 0 holds.
    Blocks {
        /// Where.
        host: HostId,
        /// Which.
        key: RankKey,
        /// How many.
        used: usize,
    },
    /// A host has no process any more.
    HostDown {
        /// Which.
        host: HostId,
    },
    /// From now on nothing goes wrong, and what went wrong is long over.
    Calm,
    /// Everything was healed long ago; these ranks serve on a node.
    Serving {
        /// The node's host.
        host: HostId,
        /// Which.
        ranks: Vec<RankKey>,
    },
    /// Everything was healed long ago; this is what a coordinator has applied.
    Settled {
        /// Which.
        coordinator: CoordinatorId,
        /// What it has; `None` where it does not run.
        applied: Option<AppliedState>,
        /// Whether it knows a leader.
        knows_leader: bool,
    },
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claims { coordinator, claim } => {
                let what = if claim.leads { "leads" } else { "follows" };
                write!(f, "c{coordinator} {what} in term {}", claim.term)
            }
            Self::Applied { coordinator, applied } => write!(f, "c{coordinator} has applied up to {}", applied.index),
            Self::Acknowledged { name, generation, mark } => {
                write!(f, "{name}: {mark} acknowledged as generation {generation}")
            }
            Self::Read { name, after, found } => {
                let after = after.map_or(0, |g| g.0);
                match found {
                    Some((generation, mark)) => {
                        write!(f, "{name}: read {mark}, generation {generation}, after {after}")
                    }
                    None => write!(f, "{name}: read nothing, after {after}"),
                }
            }
            Self::Stopped { coordinator, reason, .. } => write!(f, "c{coordinator} stopped: {reason}"),
            Self::Obeys { host, term } => write!(f, "{host} obeys term {term}"),
            Self::RankStarted { host, key } => write!(f, "{host} starts {key}"),
            Self::RankEnded { host, key } => write!(f, "{host}: {key} is gone"),
            Self::Asked { stream, prompt, max_tokens, choices } => {
                write!(f, "{stream} asks for {choices} times {max_tokens} tokens after {}", prompt.len())
            }
            Self::Told { stream, choice, tokens, finished } => {
                write!(f, "{stream} is told {tokens:?} of choice {choice}{}", if *finished { ", its end" } else { "" })
            }
            Self::AnswerEnded { stream, error: None, .. } => write!(f, "{stream} is over"),
            Self::AnswerEnded { stream, error: Some(error), .. } => write!(f, "{stream} is over: {error}"),
            Self::Blocks { host, key, used } => write!(f, "{host}: {key} holds {used} blocks"),
            Self::HostDown { host } => write!(f, "{host} is down"),
            Self::Calm => write!(f, "calm"),
            Self::Serving { host, ranks } => {
                write!(f, "{host} serves")?;
                ranks.iter().try_for_each(|key| write!(f, ", {key}"))
            }
            Self::Settled { coordinator, applied, .. } => {
                write!(f, "c{coordinator} settled at {:?}", applied.as_ref().map(|a| a.index))
            }
        }
    }
}

/// Takes in all that happens. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    now_ms: u64,
    digest: u64,
    num_events: u64,
    tail: VecDeque<String>,
    /// Prints every event as it comes.
    aloud: bool,
    facts: Vec<Fact>,
}

impl Default for State {
    fn default() -> Self {
        // FNV-1a's offset.
        let digest = 0xcbf2_9ce4_8422_2325;
        Self { now_ms: 0, digest, num_events: 0, tail: VecDeque::new(), aloud: false, facts: Vec::new() }
    }
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it records")
    }

    /// Prints every event from now on.
    #[must_use]
    pub fn aloud(self, aloud: bool) -> Self {
        self.lock().aloud = aloud;
        self
    }

    /// The time from now on, ms.
    pub fn set_now(&self, now_ms: u64) {
        self.lock().now_ms = now_ms;
    }

    /// Something happened.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        self.lock().event(what);
    }

    /// Something is true.
    pub fn fact(&self, fact: Fact) {
        let mut state = self.lock();
        state.event(format_args!("{fact}"));
        state.facts.push(fact);
    }

    /// The facts since the last call.
    pub fn take_facts(&self) -> Vec<Fact> {
        std::mem::take(&mut self.lock().facts)
    }

    /// The digest of all events so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.lock().digest
    }

    /// How many there were.
    #[must_use]
    pub fn num_events(&self) -> u64 {
        self.lock().num_events
    }

    /// The last of them.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        self.lock().tail.iter().cloned().collect()
    }
}

impl State {
    #[expect(clippy::print_stdout, reason = "a trace that was asked for")]
    fn event(&mut self, what: fmt::Arguments<'_>) {
        let line = format!("{:>8} {what}", self.now_ms);
        // FNV-1a.
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.num_events += 1;
        if self.aloud {
            println!("{line}");
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}
