//! Logprobs of prompt tokens through the step loop over real weights: those that the tokens had when they were generated.

use protocol::generate::{GenerateRequest, SamplingParams, TokenLogprobs, TokenOutput};

use super::real_models::NANO;
use super::rig::{Rig, Stream};
use super::submission::Reply;
use crate::engine::EngineLimits;

/// The prompt's logprobs, and what follows.
fn told(mut stream: Stream) -> (Vec<TokenLogprobs>, Vec<TokenOutput>) {
    let (mut prompt, mut tokens) = (Vec::new(), Vec::new());
    loop {
        match stream.next() {
            Reply::Prompt(more) => {
                assert!(tokens.is_empty(), "the prompt comes first");
                prompt.extend(more);
            }
            Reply::Token { token, .. } => tokens.push(token),
            Reply::Finished { .. } => return (prompt, tokens),
            other => panic!("{other:?}"),
        }
    }
}

fn bits(logprobs: &[TokenLogprobs]) -> Vec<(u32, Vec<(u32, u32)>)> {
    let top = |l: &TokenLogprobs| l.top.iter().map(|(id, x)| (*id, x.to_bits())).collect();
    logprobs.iter().map(|l| (l.chosen.to_bits(), top(l))).collect()
}

fn scored(rig: &mut Rig, prompt: &[u32], sampling: SamplingParams) -> GenerateRequest {
    rig.request(prompt, SamplingParams { prompt_logprobs: Some(3), ..sampling })
}

#[test]
fn a_prompts_logprobs_are_those_its_tokens_were_generated_with() {
    let limits = EngineLimits::new(16, 4, 16, 512, 4096).expect("workable");
    for world in [1, 2] {
        let mut rig = NANO.rig(world, limits);
        let start = [4078, 4080, 4083, 100, 200, 300, 4084];
        let sampling = SamplingParams { logprobs: Some(3), temperature: 1.0, seed: 5, ..SamplingParams::greedy(60) };
        let request = scored(&mut rig, &start, sampling);
        let (prompt, answer) = told(rig.send(request));
        assert_eq!((prompt.len(), answer.len()), (start.len() - 1, 60));
        let answered: Vec<TokenLogprobs> = answer.iter().map(|t| t.logprobs.clone().expect("asked for")).collect();
        // The same tokens as one prompt, in chunks and beside others, with a neighbour that fills its cache.
        let whole: Vec<u32> = start.iter().copied().chain(answer.iter().map(|t| t.id)).collect();
        let neighbour = rig.submit(&whole[..40], &[], SamplingParams::greedy(30));
        for max_tokens in [0, 4] {
            let request = scored(&mut rig, &whole, SamplingParams::greedy(max_tokens));
            let (again, more) = told(rig.send(request));
            assert_eq!(more.len(), max_tokens as usize);
            assert_eq!(bits(&again[..start.len() - 1]), bits(&prompt), "TP {world}");
            assert_eq!(bits(&again[start.len() - 1..]), bits(&answered), "TP {world}");
        }
        neighbour.finish();
        assert_eq!(rig.settle(), 0);
        rig.drain();
    }
}
