//! The step loop over a model that counts: what a request hears, whatever happens to it or to its neighbours.

use protocol::generate::{FinishReason, SamplingParams};

use super::super::rig::{COUNTING_VOCAB, Counting, Rig};
use super::*;

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
    assert_eq!(rig.submit(&[1], &[2, 3], greedy(2)).finish(), (vec![], FinishReason::Length));
    rig.drain();
}

#[test]
fn a_dropped_receiver_frees_the_blocks_and_harms_no_neighbour() {
    let mut rig = two_ranks();
    let mut abandoned: Vec<_> = (0..3).map(|i| rig.submit(&[i; 40], &[], greedy(4000))).collect();
    let kept = rig.submit(&[7], &[], greedy(100));
    for stream in &mut abandoned {
        assert!(matches!(stream.next(), Reply::Token(_)));
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
    assert!(matches!(running.next(), Reply::Token(_)));
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
                Reply::Token(_) => {}
                end => break end,
            }
        };
        assert!(matches!(end, Reply::Failed { retryable: true, .. }), "{end:?}");
    }
    assert!(matches!(rig.join_leader(), Err(StepFault::Model { .. })));
}
