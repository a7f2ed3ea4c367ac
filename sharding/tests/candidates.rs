//! Rows of which only the best is wanted, in one step with whole rows: what comes is a part of the whole row, holds its
//! best, and harms no neighbour, at any world size.

mod support;

use protocol::step::{LogitsWanted, StepSeq};
use sharding::layers::{Candidate, Logits, LogitsRow, Unobserved, by_rank};
use support::golden::Golden;
use support::run::{Setup, seq};
use support::{TINY, checkpoint};

const WANTED: [LogitsWanted; 7] = [
    LogitsWanted::Best { k: 1 },
    LogitsWanted::Last,
    LogitsWanted::None,
    LogitsWanted::Best { k: 40 },
    LogitsWanted::All,
    LogitsWanted::Best { k: 1024 },
    LogitsWanted::Best { k: 3 },
];

/// One sequence a prompt; all of them in one step.
fn mixed(setup: &Setup, prompts: &[Vec<u32>], wanted: impl Fn(usize) -> LogitsWanted) -> Logits {
    setup.run(|lead| {
        let longest = prompts.iter().map(Vec::len).max().expect("prompts");
        let one = |(i, prompt): (usize, &Vec<u32>)| {
            let blocks = lead.blocks(i, longest);
            StepSeq { logits: wanted(i), ..seq(i, 0, prompt.clone(), &blocks, true) }
        };
        let seqs = prompts.iter().enumerate().map(one).collect();
        lead.logits(seqs, &mut Unobserved)
    })
}

fn bits(candidates: &[Candidate]) -> Vec<(u32, u32)> {
    candidates.iter().map(|(logit, id)| (logit.to_bits(), *id)).collect()
}

#[test]
fn candidates_are_the_best_of_the_whole_row() {
    for model in TINY {
        let golden = Golden::load(model);
        let dir = checkpoint(model);
        let mut prompts: Vec<_> = golden.text_cases().into_iter().map(|c| c.prompt).collect();
        prompts = prompts.into_iter().cycle().take(WANTED.len()).collect();
        let whole = mixed(&Setup::new(&dir, 1), &prompts, |i| match WANTED[i] {
            LogitsWanted::Best { .. } => LogitsWanted::Last,
            other => other,
        });
        let wanted = |i: usize| std::iter::repeat_n(WANTED[i], WANTED[i].rows(prompts[i].len()));
        let wanted: Vec<LogitsWanted> = (0..WANTED.len()).flat_map(wanted).collect();
        for world in [1, 2, 3, 8] {
            let got = mixed(&Setup::new(&dir, world), &prompts, |i| WANTED[i]);
            assert_eq!((got.rows.len(), whole.rows.len()), (wanted.len(), wanted.len()));
            for ((got, whole), wanted) in got.rows.iter().zip(&whole.rows).zip(&wanted) {
                let row = whole.whole().expect("whole rows were wanted");
                match (got, wanted) {
                    (LogitsRow::Whole(got), LogitsWanted::Last | LogitsWanted::All) => {
                        assert!(
                            got.iter().map(|x| x.to_bits()).eq(row.iter().map(|x| x.to_bits())),
                            "{model} TP {world}"
                        );
                    }
                    (LogitsRow::Best(got), LogitsWanted::Best { k }) => {
                        let own: Vec<Candidate> = got.iter().map(|(_, id)| (row[*id as usize], *id)).collect();
                        assert_eq!(bits(got), bits(&own), "{model} TP {world} k {k}");
                        assert!(got.is_sorted_by(|a, b| a.1 < b.1), "{model} TP {world} k {k}: not by id");
                        let mut best: Vec<Candidate> = (0..).zip(row).map(|(id, logit)| (*logit, id)).collect();
                        best.sort_by(by_rank);
                        best.truncate(usize::from(*k));
                        assert!(best.iter().all(|c| got.contains(c)), "{model} TP {world} k {k}: not all of the best");
                        let most = usize::from(*k) * usize::from(world);
                        assert!(got.len() <= most.max(row.len()), "{model} TP {world} k {k}: {} candidates", got.len());
                    }
                    (got, wanted) => panic!("{wanted:?} was wanted, {got:?} came"),
                }
            }
        }
    }
}
