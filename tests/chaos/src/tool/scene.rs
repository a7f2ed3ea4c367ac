//! A cluster that serves, with what an undisturbed client reads of each kind of request.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, ClusterError, Options};
use crate::fault::{Aims, FaultError};
use crate::streams::{Ending, Kind, Patience, Read, Reader, Reading, Verdict, kinds};

/// How long an election or forming a group may take before there is nobody to aim at.
const AIMS_WITHIN: Duration = Duration::from_secs(15);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SceneError {
    /// No cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// No client.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// A fault that could not be done or healed.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// Nothing to ask for.
    #[error("no kind of request is called one of {only:?}")]
    NoKind {
        /// What is.
        only: Vec<String>,
    },
    /// A request that is not even answered in peace.
    #[error("without any fault, the request `{kind}` ended with {ending:?}")]
    Undisturbed {
        /// Which.
        kind: String,
        /// How.
        ending: Ending,
    },
}

/// The cluster and its expectations.
#[derive(Debug)]
pub struct Scene {
    /// The cluster.
    pub cluster: Cluster,
    /// A client of all gateways.
    pub reader: Reader,
    /// Each request with its undisturbed answer.
    pub expected: Arc<Vec<(Kind, Read)>>,
}

impl Scene {
    /// Sets it up; answers have about `tokens` tokens, and of each kind there is one request a seed. Where `only` names kinds
    /// there are no others.
    ///
    /// # Errors
    /// [`SceneError`].
    pub fn set(options: Options, tokens: u32, seeds: &[u64], only: &[String]) -> Result<Self, SceneError> {
        let wanted = |kind: &Kind| only.is_empty() || only.contains(&kind.name);
        if !kinds(tokens, 0).iter().any(wanted) {
            return Err(SceneError::NoKind { only: only.to_vec() });
        }
        let cluster = Cluster::start(options)?;
        let gateways = cluster.api().coordinators().iter().map(|c| c.public).collect();
        let reader = Reader::new(gateways, Patience::default())?;
        let all = seeds.iter().flat_map(|seed| {
            kinds(tokens, *seed)
                .into_iter()
                .filter(wanted)
                .map(move |kind| Kind { name: format!("{} {seed}", kind.name), ..kind })
        });
        let mut expected = Vec::new();
        for (i, kind) in all.enumerate() {
            let reading = cluster.on_client(reader.read(&kind, &format!("undisturbed-{i}"), i, |_| {}));
            if reading.ending != Ending::Done {
                return Err(SceneError::Undisturbed { kind: kind.name, ending: reading.ending });
            }
            expected.push((kind, reading.read));
        }
        Ok(Self { cluster, reader, expected: Arc::new(expected) })
    }

    /// A client that draws what it asks for, and where, by `seed`.
    #[must_use]
    pub fn asker(&self, seed: u64) -> Asker {
        let draws = fastrand::Rng::with_seed(seed);
        Asker { reader: self.reader.clone(), expected: Arc::clone(&self.expected), draws }
    }

    /// Who has which role, once somebody leads and a replica is ready.
    ///
    /// # Errors
    /// [`FaultError::NoAim`] where that does not come to pass.
    pub fn aims(&self) -> Result<Aims, FaultError> {
        let coordinators = self.cluster.options().coordinators;
        let aims = async |c: &Cluster| Aims::of(&c.api().look().await?, coordinators).ok();
        let aims = self.cluster.wait("a leader and a replica that is ready", AIMS_WITHIN, aims);
        aims.map_err(|late| FaultError::NoAim(late.to_string()))
    }
}

/// A client that reads one stream after the other, each at any gateway.
#[derive(Debug)]
pub struct Asker {
    reader: Reader,
    expected: Arc<Vec<(Kind, Read)>>,
    draws: fastrand::Rng,
}

/// A stream that was read, and what is to be said of it.
#[derive(Debug)]
pub struct Asked<'a> {
    /// What was asked for.
    pub kind: &'a Kind,
    /// What an undisturbed client reads.
    pub undisturbed: &'a Read,
    /// What was read.
    pub reading: Reading,
    /// How the two differ.
    pub verdict: Verdict,
}

impl Asker {
    /// Reads one more stream, under that name.
    pub async fn next(&mut self, name: &str) -> Asked<'_> {
        let (kind, undisturbed) = &self.expected[self.draws.usize(..self.expected.len())];
        let reading = self.reader.read(kind, name, self.draws.usize(..1_000), |_| {}).await;
        let verdict = Verdict::of(&reading.ending, &reading.read, undisturbed);
        Asked { kind, undisturbed, reading, verdict }
    }
}
