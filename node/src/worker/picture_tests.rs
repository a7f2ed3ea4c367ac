//! Pictures through the step loop over real weights: encoded once, kept, given up, and never a hindrance to the rest.

use protocol::frame::RefusalCode;
use protocol::generate::{Choice, GenerateRequest, SamplingParams};

use super::leader::PLAN_AHEAD_MIN;
use super::real_models::{NANO, RealModel};
use super::rig::{Rig, Stream};
use super::shown::{Shown, prompt};
use super::submission::Reply;
use crate::engine::EngineLimits;

const TINY: RealModel = super::real_models::ALL[3];

fn limits() -> EngineLimits {
    EngineLimits::new(64, 8, 64, 256, 2048).expect("workable")
}

/// A request about pictures, with a salt of its own.
fn ask(rig: &mut Rig, model: RealModel, shown: &[Shown], salt: &str, max_tokens: u32) -> Stream {
    let texts: Vec<Vec<u32>> = (0..=shown.len() as u32).map(|i| vec![5 + i, 6, 7]).collect();
    let (ids, places) = prompt(model, &texts, shown);
    let request = GenerateRequest {
        cache_salt: salt.to_owned(),
        ..rig.request(&ids, SamplingParams { logprobs: Some(2), ..SamplingParams::greedy(max_tokens) })
    };
    rig.send_with(request, shown.iter().zip(places).map(|(shown, at)| shown.at(at)).collect())
}

fn answer(mut stream: Stream) -> Vec<(u32, u32)> {
    let (tokens, _) = stream.finish_all(1).remove(&0).expect("choice 0");
    tokens.iter().map(|t| (t.id, t.logprobs.as_ref().expect("asked for").chosen.to_bits())).collect()
}

#[test]
fn a_picture_is_encoded_once_and_its_kept_embeddings_answer_the_same() {
    for world in [1, 2] {
        let mut rig = TINY.rig(world, limits());
        let shown = [Shown::made_up(TINY, (2, 3), 1), Shown::made_up(TINY, (1, 2), 2)];
        let first = answer(ask(&mut rig, TINY, &shown, "a", 12));
        let together: Vec<_> = (0..5).map(|i| ask(&mut rig, TINY, &shown, &format!("{i}"), 12)).collect();
        assert!(together.into_iter().all(|stream| answer(stream) == first), "TP {world}");
        assert_eq!(rig.settle(), 0);
        let stats = rig.gauge.stats();
        assert_eq!((stats.picture_queries, stats.picture_hits, stats.pictures_encoded), (12, 10, 2), "TP {world}");
        assert_eq!(stats.prefix_cache_hits, 0, "each had a salt of its own");
        rig.drain();
    }
}

#[test]
fn encoded_anew_after_it_gave_way_it_answers_the_same() {
    // Room for one of them at a time.
    let mut rig = TINY.rig_with(2, limits(), PLAN_AHEAD_MIN, 6);
    let shown = [1, 2].map(|seed| Shown::made_up(TINY, (2, 3), seed));
    let one = |rig: &mut Rig, i: usize, salt: &str| answer(ask(rig, TINY, &shown[i..=i], salt, 8));
    let first = [one(&mut rig, 0, "a"), one(&mut rig, 1, "a")];
    assert_ne!(first[0], first[1], "it sees nothing");
    assert_eq!([one(&mut rig, 0, "b"), one(&mut rig, 1, "b")], first);
    // And those that wait for others' room all come to their end.
    let streams: Vec<_> = (0..6).map(|i| (i % 2, ask(&mut rig, TINY, &shown[i % 2..=i % 2], "c", 8))).collect();
    for (i, stream) in streams {
        assert_eq!(answer(stream), first[i]);
    }
    let stats = rig.gauge.stats();
    assert!(stats.pictures_encoded >= 6 && stats.picture_evictions >= 5, "{stats:?}");
    rig.drain();
}

#[test]
fn equal_tokens_over_other_pixels_find_nothing_in_the_prefix_cache() {
    let mut rig = TINY.rig(1, limits());
    let [a, b] = [1, 2].map(|seed| Shown::made_up(TINY, (4, 6), seed));
    let cached = |rig: &mut Rig, shown: &Shown| {
        let mut stream = ask(rig, TINY, std::slice::from_ref(shown), "", 4);
        assert_eq!(stream.finish_all(1).len(), 1);
        stream.cached_tokens.expect("it started")
    };
    // 3 tokens, 24 of a picture, 3 tokens: one full block, which has the picture in it.
    assert_eq!((cached(&mut rig, &a), cached(&mut rig, &b)), (0, 0));
    assert_eq!((cached(&mut rig, &a), cached(&mut rig, &b)), (16, 16));
    rig.drain();
}

#[test]
fn a_request_that_leaves_gives_its_pictures_up() {
    // Room for two pictures; whoever leaves without giving up would block those behind it for ever.
    let mut rig = TINY.rig_with(2, limits(), PLAN_AHEAD_MIN, 12);
    let shown = |seed: u64| [Shown::made_up(TINY, (2, 3), seed)];
    for round in 0..8 {
        let mut streams: Vec<_> = (0..5).map(|i| ask(&mut rig, TINY, &shown(100 * round + i), "", 200)).collect();
        // One leaves in the middle of its answer, the others wherever they are.
        if round % 2 == 0 {
            assert!(matches!(streams[0].next(), Reply::Token { .. }));
        }
        streams[1].end(0);
        drop(streams);
    }
    assert_eq!(answer(ask(&mut rig, TINY, &shown(7), "", 5)).len(), 5);
    assert_eq!(rig.settle(), 0);
    let stats = rig.gauge.stats();
    assert_eq!(stats.finished_abort + stats.finished_stop + stats.finished_length, 41, "{stats:?}");
    rig.drain();
}

#[test]
fn text_goes_on_while_pictures_are_encoded_and_a_fault_tells_those_who_wait() {
    let mut rig = TINY.rig_with(1, limits(), PLAN_AHEAD_MIN, 6);
    let mut text = rig.submit(&[1, 2, 3], &[], SamplingParams::greedy(150));
    let pictures: Vec<_> = (0..4).map(|i| ask(&mut rig, TINY, &[Shown::made_up(TINY, (2, 3), i)], "", 3)).collect();
    assert_eq!(text.finish_all(1).remove(&0).expect("choice 0").0.len(), 150);
    assert!(pictures.into_iter().all(|stream| answer(stream).len() == 3));
    rig.drain();
}

#[test]
fn choices_and_resumed_choices_see_the_same() {
    let mut rig = NANO.rig(2, limits());
    let shown = Shown::made_up(NANO, (3, 2), 4);
    let (ids, places) = prompt(NANO, &[vec![100, 200], vec![300, 400]], std::slice::from_ref(&shown));
    let sampling = SamplingParams { temperature: 1.0, seed: 9, ..SamplingParams::greedy(20) };
    let choices = |of: &[(u16, &[u32])]| -> Vec<Choice> {
        of.iter().map(|(index, resume)| Choice { index: *index, resume: resume.to_vec() }).collect()
    };
    let mut run = |choices: Vec<Choice>, salt: &str| {
        let ends = choices.len();
        let request = GenerateRequest { choices, cache_salt: salt.to_owned(), ..rig.request(&ids, sampling.clone()) };
        let ended = rig.send_with(request, vec![shown.at(places[0])]).finish_all(ends);
        ended.into_values().map(|(tokens, _)| tokens.iter().map(|t| t.id).collect()).collect::<Vec<Vec<u32>>>()
    };
    let whole = run(choices(&[(0, &[]), (1, &[]), (2, &[])]), "a");
    assert_ne!(whole[0], whole[1]);
    let resumed = run(choices(&[(0, &whole[0][..7]), (1, &whole[1][..19]), (2, &whole[2])]), "b");
    assert_eq!(resumed, [&whole[0][7..], &whole[1][19..], &[]]);
    assert_eq!(rig.gauge.stats().pictures_encoded, 1);
    rig.drain();
}

#[test]
fn what_cannot_be_seen_is_refused() {
    let mut rig = TINY.rig_with(1, limits(), PLAN_AHEAD_MIN, 6);
    let shown: Vec<_> = (0..2).map(|seed| Shown::made_up(TINY, (2, 2), seed)).collect();
    let mut too_many = ask(&mut rig, TINY, &shown, "", 5);
    let Reply::Refused(refusal) = too_many.next() else { panic!("it was taken") };
    assert_eq!(refusal.code, RefusalCode::BadRequest);
    assert!(refusal.detail.contains("8 tokens, at most 6"), "{refusal}");
    rig.drain();
    let blind = super::real_models::ALL[1];
    let mut rig = blind.rig(1, limits());
    let request = rig.request(&[1, 2, 3], SamplingParams::greedy(5));
    let Reply::Refused(refusal) = rig.send_with(request, vec![shown[0].at(1)]).next() else { panic!("it was taken") };
    assert_eq!(refusal.code, RefusalCode::BadRequest);
    rig.drain();
}
