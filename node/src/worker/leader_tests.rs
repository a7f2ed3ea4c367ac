//! The step loop over a model that counts: what a request hears, whatever happens to it or to its neighbours.

use protocol::generate::{Choice, FinishReason, SamplingParams};

use std::sync::mpsc::channel;

use super::super::rig::{COUNTING_VOCAB, Counting, DEADLINE, Rig};
use super::*;
use crate::engine::EngineLimits;

fn limits() -> EngineLimits {
    EngineLimits::new(32, 4, 4, 4096, 8192).expect("workable")
}

fn two_ranks() -> Rig {
    Rig::start(vec![Counting::default(), Counting::default()], limits())
}

fn greedy(max_tokens: u32) -> SamplingParams {
    SamplingParams::greedy(max_tokens)
}

#[test]
fn concurrent_requests_get_their_own_tokens_and_drain_ends_every_rank() {
    let mut rig = two_ranks();
    let streams: Vec<_> = (0..4).map(|i| rig.submit(&[10 * i], &[], greedy(3 + i))).collect();
    for (i, stream) in (0..).zip(streams) {
        let expected: Vec<u32> = (1..4 + i).map(|n| (10 * i + n) % COUNTING_VOCAB).collect();
        assert_eq!(stream.finish(), (expected, FinishReason::Length));
    }
    assert_eq!(rig.settle(), 0);
    rig.drain();
}

#[test]
fn a_stop_id_ends_the_stream_and_is_its_last_token() {
    let mut rig = two_ranks();
    let stop = SamplingParams { stop_token_ids: vec![5], ..greedy(50) };
    assert_eq!(rig.submit(&[1, 2], &[], stop).finish(), (vec![3, 4, 5], FinishReason::Stop));
    rig.drain();
}

#[test]
fn a_resumed_request_sends_the_rest_only() {
    let mut rig = two_ranks();
    assert_eq!(rig.submit(&[1], &[2, 3], greedy(4)).finish(), (vec![4, 5], FinishReason::Length));
    let mut complete = rig.submit(&[1], &[2, 3], greedy(2));
    assert_eq!(complete.next(), Reply::Finished { choice: 0, reason: FinishReason::Length });
    assert_eq!(complete.try_next(), None, "a request that has heard all is forgotten");
    rig.drain();
}

fn choices(of: &[(u16, &[u32])]) -> Vec<Choice> {
    of.iter().map(|(index, resume)| Choice { index: *index, resume: resume.to_vec() }).collect()
}

#[test]
fn every_choice_has_its_tokens_and_its_end_and_resumed_ones_go_on() {
    let mut rig = two_ranks();
    // More than may run together.
    let fresh: Vec<_> = (0..9).map(|index| (index, &[][..])).collect();
    let all = [&fresh[..], &[(12, &[6, 7]), (30, &[6])]].concat();
    let request = GenerateRequest { choices: choices(&all), ..rig.request(&[4, 5], greedy(6)) };
    let ended = rig.send(request).finish_all(all.len());
    for (index, resume) in all {
        let (tokens, reason) = &ended[&index];
        let ids: Vec<u32> = tokens.iter().map(|t| t.id).collect();
        assert_eq!((ids, *reason), ((6..12).skip(resume.len()).collect(), FinishReason::Length), "choice {index}");
    }
    assert_eq!(rig.settle(), 0);
    rig.drain();
}

#[test]
fn a_choice_that_is_ended_frees_its_blocks_and_the_others_go_on() {
    let mut rig = two_ranks();
    let request =
        GenerateRequest { choices: choices(&[(0, &[]), (1, &[]), (2, &[])]), ..rig.request(&[1; 20], greedy(4000)) };
    let mut stream = rig.send(request);
    for _ in 0..30 {
        assert!(matches!(stream.next(), Reply::Token { .. }));
    }
    stream.end(0);
    stream.end(2);
    let left = rig.wait_for(|load| load.running == 1);
    assert!(left.kv_blocks_used < 4000u32.div_ceil(16), "{left:?}");
    stream.end(1);
    assert_eq!(rig.settle(), 0);
    assert_eq!(rig.gauge.stats().finished_stop, 3);
    rig.drain();
}

#[test]
fn a_prefix_that_was_computed_is_said_to_be_cached_and_counted() {
    let mut rig = two_ranks();
    let prompt = [9; 40];
    for (cached, steps) in [(0, 4), (32, 7)] {
        let mut stream = rig.submit(&prompt, &[], greedy(3));
        assert_eq!(stream.finish_all(1).len(), 1);
        assert_eq!(stream.cached_tokens, Some(cached));
        assert_eq!(rig.wait_for(|load| load.steps == steps).kv_blocks_used, 0);
    }
    let stats = rig.gauge.stats();
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (80, 32));
    assert_eq!((stats.prompt_tokens, stats.generation_tokens, stats.finished_length), (80, 6, 2));
    let counts = [stats.queue.count(), stats.time_to_first_token.count(), stats.inter_token.count(), stats.e2e.count()];
    assert_eq!(counts, [2, 2, 4, 2]);
    rig.drain();
}

#[test]
fn a_dropped_receiver_frees_the_blocks_and_harms_no_neighbour() {
    let mut rig = two_ranks();
    let mut abandoned: Vec<_> = (0..3).map(|i| rig.submit(&[i; 40], &[], greedy(4000))).collect();
    let kept = rig.submit(&[7], &[], greedy(100));
    for stream in &mut abandoned {
        assert!(matches!(stream.next(), Reply::Token { .. }));
    }
    drop(abandoned);
    let (ids, _) = kept.finish();
    assert_eq!(ids, (8..108).map(|n| n % COUNTING_VOCAB).collect::<Vec<_>>());
    assert_eq!(rig.settle(), 0);
    rig.drain();
}

#[test]
fn a_reader_that_never_reads_does_not_hold_the_others_up() {
    let mut rig = two_ranks();
    let unread = rig.submit(&[1], &[], greedy(2000));
    let (ids, _) = rig.submit(&[1], &[], greedy(3000)).finish();
    assert_eq!(ids.len(), 3000);
    assert_eq!(unread.finish().0.len(), 2000, "nothing was lost meanwhile");
    rig.drain();
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let mut rig = two_ranks();
    let refusal = |mut stream: super::super::rig::Stream| match stream.next() {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let too_long = refusal(rig.submit(&[1; 4096], &[], greedy(1)));
    assert_eq!(too_long.code, RefusalCode::BadRequest);
    assert!(too_long.detail.contains("4096"), "{too_long}");
    // Four run, four wait, one is too many. A long answer keeps the first four busy meanwhile.
    let streams: Vec<_> = (0..9).map(|_| rig.submit(&[1], &[], greedy(4000))).collect();
    let full = streams.into_iter().map(|mut s| s.next()).filter(|r| matches!(r, Reply::Refused(_)));
    let codes: Vec<_> = full.map(|r| if let Reply::Refused(r) = r { r.code } else { unreachable!() }).collect();
    assert!(!codes.is_empty() && codes.iter().all(|c| matches!(c, RefusalCode::Overloaded { .. })), "{codes:?}");
    assert_eq!(rig.settle(), 0);
    rig.drain();
}

#[test]
fn draining_finishes_what_runs() {
    let mut rig = two_ranks();
    let mut running = rig.submit(&[1], &[], greedy(3000));
    assert!(matches!(running.next(), Reply::Token { .. }));
    rig.drain();
    assert_eq!(running.finish().0.len(), 2999);
}

#[test]
fn a_row_that_cannot_be_sampled_fails_its_own_request_only() {
    let poisoned = || Counting { poison: Some(20), ..Counting::default() };
    let mut rig = Rig::start(vec![poisoned(), poisoned()], limits());
    let healthy = rig.submit(&[30], &[], greedy(20));
    let mut sick = rig.submit(&[18], &[], greedy(20));
    let replies: Vec<_> = (0..3).map(|_| sick.next()).collect();
    assert!(matches!(replies[2], Reply::Failed { retryable: false, .. }), "{replies:?}");
    assert_eq!(healthy.finish().0.len(), 20);
    assert_eq!(rig.settle(), 0);
    rig.drain();
}

#[test]
fn a_lost_rank_fails_every_request_as_retryable_at_once() {
    let mortal = Counting { dies_in: Some(5), ..Counting::default() };
    let mut rig = Rig::start(vec![Counting::default(), mortal], limits());
    let streams: Vec<_> = (0..3).map(|i| rig.submit(&[i], &[], greedy(1000))).collect();
    for mut stream in streams {
        let end = loop {
            match stream.next() {
                Reply::Token { .. } => {}
                end => break end,
            }
        };
        assert!(matches!(end, Reply::Failed { retryable: true, .. }), "{end:?}");
    }
    assert!(matches!(rig.join_leader(), Err(StepFault::Model { .. })));
}

#[test]
fn a_rank_that_hangs_in_a_step_is_given_up_by_what_steps_have_taken() {
    let (release, released) = channel();
    let hanging = Counting { hangs_in: Some((30, released)), ..Counting::default() };
    let mut rig = Rig::start_watched(vec![Counting::default(), hanging], limits(), 512);
    let mut stream = rig.submit(&[1], &[], greedy(1000));
    let end = loop {
        match stream.next() {
            Reply::Token { .. } => {}
            end => break end,
        }
    };
    assert!(matches!(end, Reply::Failed { retryable: true, .. }), "{end:?}");
    let fault = rig.join_leader().expect_err("rank 1 does not answer").to_string();
    assert!(fault.starts_with("step 30: ") && fault.contains("nothing from ranks [1] within"), "{fault}");
    drop(release);
}

#[test]
fn a_canary_that_a_rank_does_not_answer_ends_the_group() {
    let (release, released) = channel();
    let hanging = Counting { hangs_in: Some((2, released)), ..Counting::default() };
    let rig = Rig::start_watched(vec![Counting::default(), hanging], limits(), 512);
    let fault = rig.join_leader().expect_err("rank 1 does not answer").to_string();
    assert!(fault.starts_with("step 2: ") && fault.contains("nothing from ranks [1] within"), "{fault}");
    drop(release);
}

#[test]
fn a_group_is_proved_at_once_and_again_whenever_it_has_nothing_to_do() {
    let (seen, steps) = channel();
    let watched = Counting { seen: Some(seen), ..Counting::default() };
    let mut rig = Rig::start_watched(vec![Counting::default(), watched], limits(), 512);
    assert_eq!(steps.recv_timeout(DEADLINE), Ok((1, 1)), "before anybody asks");
    let proof = || rig.gauge.progress().proof(Instant::now()).expect("it has answered");
    assert_eq!(steps.recv_timeout(DEADLINE), Ok((2, 1)), "after a pause");
    assert_eq!(steps.recv_timeout(DEADLINE), Ok((3, 1)), "and another");
    assert!(proof().is_good());
    assert_eq!((rig.gauge.load().steps, rig.gauge.stats()), (0, Default::default()), "no user's step");
    // Steps of users go on from there.
    let (ids, _) = rig.submit(&[1], &[], greedy(20)).finish();
    assert_eq!((ids.len(), rig.wait_for(|load| load.steps == 20).kv_blocks_used), (20, 0));
    rig.drain();
    let numbers: Vec<u64> = steps.iter().map(|(step, _)| step).collect();
    assert!(numbers.len() >= 20 && numbers.iter().zip(4..).all(|(found, due)| *found == due), "{numbers:?}");
}
