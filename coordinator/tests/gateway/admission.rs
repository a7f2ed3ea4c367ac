//! Requests that wait for a replica, that may not wait, and that go away while they wait.

use std::time::Duration;

use coordinator::GatewayLimits;
use coordinator::gateway::dispatch::DispatchError;
use coordinator::view::Coming;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::chat::hi_with;
use crate::client::{Open, Told, h2c, soon};
use crate::files::ids;
use crate::harness::{CONTEXT, Harness, KV_TOKENS, post};
use crate::scripted::{Step, length, started, tokens};

/// What the tiny replica takes at once: four sequences and a quarter.
const SEQS: usize = 5;

/// A request that streams.
fn streamed(more: Value) -> Value {
    let mut body = hi_with(more);
    body["stream"] = true.into();
    body
}

/// A harness whose replica answers with one token and then says no more, with as many streams open as it takes.
async fn full(limits: GatewayLimits) -> (Harness, Vec<Open>) {
    let mut h = Harness::with(vec![Ok(vec![tokens(&ids("a")), Step::Hang])], 1, limits).await;
    let mut open = Vec::new();
    for _ in 0..SEQS {
        open.push(h.open("/v1/chat/completions", &streamed(json!({}))).await);
        soon(h.seen.requests.recv()).await.unwrap();
    }
    (h, open)
}

/// One request on a connection of its own, which stays while this does.
struct OverHttp2 {
    /// Aborting it resets the request's stream.
    asked: JoinHandle<()>,
    connection: JoinHandle<()>,
    _sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
}

impl Harness {
    /// Asks in the background, by these headers.
    fn ask(&self, body: &Value, headers: &[(&'static str, &str)]) -> JoinHandle<Told> {
        let mut request = post("/v1/chat/completions", body.to_string());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let addr = self.gateway.addr();
        tokio::spawn(async move { Open::start(addr, request).await.told().await })
    }

    /// Asks in the background on a connection of HTTP/2.
    async fn ask_over_http2(&self, body: &Value) -> OverHttp2 {
        let (mut sender, connection) = h2c(self.gateway.addr()).await;
        let mut request = post("/v1/chat/completions", body.to_string());
        *request.uri_mut() = format!("http://{}/v1/chat/completions", self.gateway.addr()).parse().unwrap();
        request.headers_mut().remove("host");
        let _sender = sender.clone();
        let asked = tokio::spawn(async move { drop(sender.send_request(request).await) });
        OverHttp2 { asked, connection, _sender }
    }

    async fn until_waiting(&self, prompts: u64) {
        soon(async {
            while self.gateway.stats().waiting != prompts {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn who_finds_no_room_waits_and_goes_on_when_there_is() {
    let (mut h, mut open) = full(GatewayLimits::default()).await;
    let waits = h.ask(&streamed(json!({})), &[]);
    h.until_waiting(1).await;
    let stats = h.gateway.stats();
    // Four tokens of prompt, and the answer as long as it may be expected to be: at most the rest of the context.
    assert_eq!((stats.in_flight, stats.open, stats.waiting_tokens), (5, 6, 4 + 252));
    assert!((100..10_000).contains(&stats.waiting_bytes), "{}", stats.waiting_bytes);
    assert!(h.seen.requests.try_recv().is_err(), "nothing was dispatched for it");
    drop(open.pop());
    assert!(soon(h.seen.requests.recv()).await.is_some());
    h.until_waiting(0).await;
    let stats = h.gateway.stats();
    assert_eq!((stats.in_flight, stats.waiting_tokens, stats.waiting_bytes), (5, 0, 0));
    assert_eq!(stats.admission_wait.count(), 6);
    waits.abort();
}

#[tokio::test]
async fn the_urgent_are_dispatched_first() {
    let (mut h, open) = full(GatewayLimits::default()).await;
    let mut asked = Vec::new();
    for (i, priority) in ["low", "normal", "high"].into_iter().enumerate() {
        asked.push(h.ask(&streamed(json!({"cache_salt": priority})), &[("x-priority", priority)]));
        h.until_waiting(i as u64 + 1).await;
    }
    let mut order = Vec::new();
    for stream in open.into_iter().take(3) {
        drop(stream);
        order.push(soon(h.seen.requests.recv()).await.unwrap().1.cache_salt);
    }
    assert_eq!(order, ["high", "normal", "low"]);
    asked.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_full_queue_is_429_with_a_time_to_retry() {
    let limits = GatewayLimits { queue_tokens_max: 300, ..GatewayLimits::default() };
    let (h, _open) = full(limits).await;
    let waits = h.ask(&streamed(json!({})), &[]);
    h.until_waiting(1).await;
    let told = h.chat(&hi_with(json!({}))).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (429, Some("queue_full")));
    assert_eq!(told.error()["type"], "rate_limit_error");
    let message = "too much waits for a replica already: 512 tokens with this request, at most 300; retry later";
    assert_eq!(told.error()["message"], message);
    assert_eq!(
        (&told.headers["retry-after"], &told.headers["retry-after-ms"]),
        (&"1".parse().unwrap(), &"1000".parse().unwrap())
    );
    let stats = h.gateway.stats();
    assert_eq!((stats.waiting, stats.failures["queue_full"]), (1, 1));
    assert_eq!(stats.responses[&("/v1/chat/completions".to_owned(), 429)], 1);
    assert_eq!(stats.responses[&("/v1/chat/completions".to_owned(), 200)], SEQS as u64);
    waits.abort();
    h.until_waiting(0).await;
}

#[tokio::test]
async fn the_memory_of_those_who_wait_is_bounded() {
    let limits = GatewayLimits { queue_bytes_max: 4000, ..GatewayLimits::default() };
    let (h, _open) = full(limits).await;
    let waits = h.ask(&hi_with(json!({})), &[]);
    h.until_waiting(1).await;
    let told = h.chat(&hi_with(json!({"stop": "s".repeat(1000)}))).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (429, Some("queue_full")));
    assert!(
        told.error()["message"].as_str().unwrap().contains("bytes with this request, at most 4000"),
        "{}",
        told.body
    );
    waits.abort();
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_nothing_was_dispatched() {
    let (mut h, _open) = full(GatewayLimits::default()).await;
    let told = soon(h.ask(&hi_with(json!({})), &[("x-request-timeout-ms", "20")])).await.unwrap();
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("queue_timeout")));
    assert_eq!(told.headers["retry-after"], "1");
    assert!(h.seen.requests.try_recv().is_err());
    assert_eq!(h.gateway.stats().waiting, 0);
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_leaves_the_queue() {
    let (mut h, open) = full(GatewayLimits::default()).await;
    for body in [streamed(json!({})), hi_with(json!({}))] {
        let waits = h.ask(&body, &[]);
        h.until_waiting(1).await;
        waits.abort();
        h.until_waiting(0).await;
    }
    for body in [streamed(json!({})), hi_with(json!({}))] {
        let over = h.ask_over_http2(&body).await;
        h.until_waiting(1).await;
        over.asked.abort();
        h.until_waiting(0).await;
    }
    soon(async {
        while h.gateway.stats().open != SEQS as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(h.gateway.stats().waiting_bytes, 0);
    drop(open);
    soon(h.seen.cancelled.wait_for(|n| *n == SEQS)).await.unwrap();
    assert!(h.seen.requests.try_recv().is_err(), "none of those that went was dispatched");
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_first_token_cancels_over_http2_too() {
    let mut h = Harness::playing(vec![Step::Hang]).await;
    for (n, body) in [(1, streamed(json!({}))), (2, hi_with(json!({"n": 2})))] {
        let over = h.ask_over_http2(&body).await;
        soon(h.seen.requests.recv()).await.unwrap();
        over.asked.abort();
        soon(h.seen.cancelled.wait_for(|cancelled| *cancelled == n)).await.unwrap();
        assert!(!over.connection.is_finished(), "only the stream was reset");
    }
    assert_eq!(h.gateway.stats().in_flight, 0);
}

#[tokio::test]
async fn a_gateway_that_ends_refuses_who_waits_and_lets_the_others_finish() {
    let (h, mut open) = full(GatewayLimits::default()).await;
    let waits = h.ask(&hi_with(json!({})), &[]);
    h.until_waiting(1).await;
    let shutdown = tokio::spawn(h.gateway.shutdown(Duration::from_millis(300)));
    let told = soon(waits).await.unwrap();
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("shutting_down")));
    let mut first = open.remove(0);
    assert!(first.event().await.unwrap().contains("assistant"));
    drop((first, open));
    soon(shutdown).await.unwrap();
}

#[tokio::test]
async fn who_waits_when_the_last_replica_goes_is_told_at_once() {
    let (h, _open) = full(GatewayLimits::default()).await;
    let waits = h.ask(&hi_with(json!({})), &[]);
    h.until_waiting(1).await;
    h.serve(0);
    let told = soon(waits).await.unwrap();
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("no_replica_ready")));
}

#[tokio::test]
async fn a_replica_that_comes_takes_who_waits() {
    let (mut h, _open) = full(GatewayLimits::default()).await;
    let waits = h.ask(&streamed(json!({})), &[]);
    h.until_waiting(1).await;
    h.serve(2);
    assert_eq!(soon(h.seen.requests.recv()).await.unwrap().0.0, 2);
    waits.abort();
}

/// That a request would wait for longer than any test.
fn patient() -> GatewayLimits {
    GatewayLimits { replica_wait_ms: 3_600_000, ..GatewayLimits::default() }
}

#[tokio::test]
async fn while_a_replica_is_formed_a_request_waits_for_it() {
    for coming in [Coming::Soon, Coming::Forming { context_tokens: CONTEXT }] {
        let mut h = Harness::with(vec![Ok(vec![started(0), length()])], 1, patient()).await;
        h.unserved(coming);
        let waits = h.ask(&hi_with(json!({})), &[]);
        let streams = h.ask(&streamed(json!({})), &[]);
        h.until_waiting(2).await;
        let stats = h.gateway.stats();
        assert_eq!((stats.in_flight, stats.waiting_tokens), (0, 2 * (4 + 252)));
        assert_eq!(h.get("/health/ready").await.status, 503, "what waits makes nobody ready");
        // Views that say nothing new of it.
        h.unserved(Coming::Soon);
        h.unserved(Coming::Forming { context_tokens: CONTEXT });
        assert!(h.seen.requests.try_recv().is_err());
        h.serve(1);
        for told in [waits, streams] {
            assert_eq!(soon(told).await.unwrap().status, 200);
        }
        assert_eq!(h.gateway.stats().failures, [].into());
    }
}

#[tokio::test]
async fn who_waits_is_never_answered_by_another_version_of_the_model() {
    let mut h = Harness::with(vec![Ok(vec![started(0), length()])], 1, patient()).await;
    h.unserved(Coming::Soon);
    let waits = h.ask(&hi_with(json!({})), &[]);
    h.until_waiting(1).await;
    let mut other = h.deployment(1);
    other.spec.model.digest = "another".to_owned();
    h.publish(other, vec![]);
    let told = soon(waits).await.unwrap();
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("no_replica_ready")));
    assert!(h.seen.requests.try_recv().is_err(), "its tokens mean other words there");
    assert_eq!(h.gateway.stats().waiting, 0);
}

#[tokio::test]
async fn who_had_no_token_when_the_last_replica_was_lost_waits_for_the_next_one_too() {
    let lost = || DispatchError::Lost { reason: "gone".to_owned() };
    for known in [false, true] {
        let scripts = vec![Ok(vec![started(0), Step::Break(lost())]), Ok(vec![started(0), length()])];
        let mut h = Harness::with(scripts, 1, patient()).await;
        let waits = h.ask(&hi_with(json!({})), &[]);
        let first = soon(h.seen.requests.recv()).await.unwrap().0;
        if known {
            h.unserved(Coming::Soon);
        }
        let mut next = h.deployment(1);
        next.replicas[0].epoch = next.replicas[0].epoch.next();
        h.publish(next, vec![]);
        assert_eq!(soon(waits).await.unwrap().status, 200);
        assert_eq!(soon(h.seen.requests.recv()).await.unwrap().0, first);
    }
    // None is to come.
    let h = Harness::with(vec![Ok(vec![started(0), Step::Break(lost())])], 1, patient()).await;
    let told = h.ask(&hi_with(json!({})), &[]);
    h.unserved(Coming::No);
    let told = soon(told).await.unwrap();
    assert!(matches!(told.error()["code"].as_str(), Some("replica_lost" | "no_replica_ready")), "{told:?}");
}

#[tokio::test]
async fn a_request_waits_no_longer_than_its_own_deadline_or_the_gateways_bound() {
    let impatient = GatewayLimits { replica_wait_ms: 30, ..patient() };
    for (limits, headers) in [(impatient, &[][..]), (patient(), &[("x-request-timeout-ms", "30")][..])] {
        let h = Harness::with(vec![], 1, limits).await;
        h.unserved(Coming::Soon);
        let told = soon(h.ask(&hi_with(json!({})), headers)).await.unwrap();
        assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("no_replica_ready")));
        assert_eq!(told.headers["retry-after"], "2");
        let stats = h.gateway.stats();
        assert_eq!((stats.waiting, stats.waiting_tokens, stats.waiting_bytes), (0, 0, 0));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_waits_for_no_replica() {
    let mut h = Harness::with(vec![Ok(vec![length()])], 1, patient()).await;
    h.unserved(Coming::Soon);
    for body in [streamed(json!({})), hi_with(json!({}))] {
        let waits = h.ask(&body, &[]);
        h.until_waiting(1).await;
        waits.abort();
        h.until_waiting(0).await;
    }
    let stats = h.gateway.stats();
    assert_eq!((stats.waiting_tokens, stats.waiting_bytes), (0, 0));
    h.serve(1);
    assert_eq!(h.chat(&hi_with(json!({}))).await.status, 200);
    assert!(h.seen.requests.try_recv().is_ok() && h.seen.requests.try_recv().is_err(), "only one was dispatched");
}

#[tokio::test]
async fn the_queues_bounds_hold_while_a_replica_is_formed() {
    for limits in
        [GatewayLimits { queue_tokens_max: 300, ..patient() }, GatewayLimits { queue_bytes_max: 4000, ..patient() }]
    {
        let h = Harness::with(vec![], 1, limits).await;
        h.unserved(Coming::Soon);
        let waits = h.ask(&hi_with(json!({})), &[]);
        h.until_waiting(1).await;
        let told = h.chat(&hi_with(json!({"stop": "s".repeat(1000)}))).await;
        assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (429, Some("queue_full")));
        waits.abort();
        h.until_waiting(0).await;
    }
}

#[tokio::test]
async fn what_no_replica_is_to_come_for_is_refused_at_once() {
    let refused = |told: Told| (told.status.as_u16(), told.error()["code"].as_str().unwrap().to_owned());
    let expected = (503, "no_replica_ready".to_owned());
    // Scaled to none, or without a place.
    let h = Harness::with(vec![], 1, patient()).await;
    h.unserved(Coming::No);
    assert_eq!(refused(h.chat(&hi_with(json!({}))).await), expected);
    // It turns out that there is no place for it.
    h.unserved(Coming::Soon);
    let waits = h.ask(&hi_with(json!({})), &[]);
    h.until_waiting(1).await;
    h.unserved(Coming::No);
    assert_eq!(refused(soon(waits).await.unwrap()), expected);
    // The first group is still to be planned: nobody knows what it will take.
    let h = Harness::unready(vec![], patient()).await;
    h.unserved(Coming::Soon);
    let told = soon(async {
        loop {
            let told = refused(h.chat(&hi_with(json!({}))).await);
            if told.1 != "model_loading" {
                return told;
            }
        }
    });
    assert_eq!(told.await, expected);
    // The gateway was told not to wait.
    let h = Harness::with(vec![], 1, GatewayLimits { replica_wait_ms: 0, ..patient() }).await;
    h.unserved(Coming::Forming { context_tokens: CONTEXT });
    assert_eq!(refused(h.chat(&hi_with(json!({}))).await), expected);
}

#[tokio::test]
async fn who_waits_when_the_last_replica_goes_waits_for_the_next_one() {
    let (mut h, _open) = full(patient()).await;
    let waits = h.ask(&streamed(json!({})), &[]);
    h.until_waiting(1).await;
    h.unserved(Coming::Soon);
    assert_eq!(h.get("/health/ready").await.status, 503);
    h.until_waiting(1).await;
    h.serve(2);
    // Those that had begun go on with what they have.
    let fresh = async { while !soon(h.seen.requests.recv()).await.unwrap().1.choices[0].resume.is_empty() {} };
    fresh.await;
    h.until_waiting(0).await;
    waits.abort();
}

#[tokio::test]
async fn the_engines_own_refusal_is_carried_with_its_time() {
    let busy = |ms| DispatchError::Busy { reason: "full".to_owned(), retry: Some(Duration::from_millis(ms)) };
    let h = Harness::with(vec![Err(busy(9_000)), Err(busy(2_300))], 2, GatewayLimits::default()).await;
    let told = h.chat(&hi_with(json!({}))).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (503, Some("replica_overloaded")));
    assert_eq!(
        (&told.headers["retry-after"], &told.headers["retry-after-ms"]),
        (&"3".parse().unwrap(), &"2300".parse().unwrap())
    );
    let h = Harness::with(vec![Err(busy(2_300)), Ok(vec![started(0), length()])], 2, GatewayLimits::default()).await;
    assert_eq!(h.chat(&hi_with(json!({}))).await.status, 200);
    let h = Harness::with(vec![Err(busy(2_300)), Err(busy(9_000))], 2, GatewayLimits::default()).await;
    assert_eq!(h.chat(&hi_with(json!({}))).await.headers["retry-after-ms"], "2300", "the first that has room");
}

#[tokio::test]
async fn responses_are_counted_by_route_and_status() {
    let h = Harness::playing(vec![length()]).await;
    h.chat(&hi_with(json!({}))).await;
    h.post("/v1/completions", &json!({"model": "tiny"})).await;
    h.get("/nothing/here").await;
    h.send(Request::delete("/v1/models").header("host", "test").body(Default::default()).unwrap()).await;
    let stats = h.gateway.stats();
    let responses = |route: &str, status| stats.responses.get(&(route.to_owned(), status)).copied();
    assert_eq!(responses("/v1/chat/completions", 200), Some(1));
    assert_eq!(responses("/v1/completions", 400), Some(1));
    assert_eq!(responses("other", 404), Some(1));
    assert_eq!(stats.failures["missing_required_parameter"], 1);
    assert_eq!((stats.open, stats.in_flight, stats.waiting), (0, 0, 0));
    assert!(u64::from(KV_TOKENS) > stats.waiting_tokens);
}
