//! Admission, routing, deadlines, and the end of a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coordinator::GatewayLimits;
use coordinator::gateway::{Gateway, GatewayConfig, GatewayError};
use coordinator::view::ClusterView;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chat::hi_with;
use crate::client::soon;
use crate::files::ids;
use crate::harness::Harness;
use crate::scripted::{Scripted, Step, length, tokens};

fn streamed() -> Value {
    hi_with(json!({"stream": true}))
}

#[tokio::test]
async fn one_request_too_many_is_refused_at_once() {
    let limits = GatewayLimits { requests_max: 2, ..GatewayLimits::default() };
    let mut h = Harness::with(vec![Ok(vec![tokens(&ids("a")), Step::Hang])], 1, limits).await;
    let first = h.open("/v1/chat/completions", &streamed()).await;
    let second = h.open("/v1/chat/completions", &streamed()).await;
    assert_eq!((first.response.status().as_u16(), second.response.status().as_u16()), (200, 200));
    let told = h.chat(&streamed()).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (429, Some("too_many_requests")));
    assert_eq!(told.headers["retry-after"], "1");
    assert_eq!(told.error()["type"], "rate_limit_error");
    drop(first);
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    let third = h.open("/v1/chat/completions", &streamed()).await;
    assert_eq!(third.response.status(), 200, "the place was given back");
}

#[tokio::test]
async fn requests_go_where_the_fewest_are() {
    let mut h = Harness::with(vec![Ok(vec![tokens(&ids("a")), Step::Hang])], 3, GatewayLimits::default()).await;
    let mut open = Vec::new();
    let mut placed = Vec::new();
    for _ in 0..6 {
        open.push(h.open("/v1/chat/completions", &streamed()).await);
        placed.push(soon(h.seen.requests.recv()).await.unwrap().0.0);
    }
    assert_eq!(placed, [1, 2, 3, 1, 2, 3]);
    drop(open.remove(1));
    soon(h.seen.cancelled.wait_for(|n| *n == 1)).await.unwrap();
    open.push(h.open("/v1/chat/completions", &streamed()).await);
    assert_eq!(soon(h.seen.requests.recv()).await.unwrap().0.0, 2);
}

#[tokio::test]
async fn the_deadline_ends_a_request_with_an_error() {
    let limits = GatewayLimits { request_timeout_ms: 50, ..GatewayLimits::default() };
    let mut h = Harness::with(vec![Ok(vec![Step::Hang]), Ok(vec![tokens(&ids("a")), Step::Hang])], 1, limits).await;
    let told = h.chat(&hi_with(json!({}))).await;
    assert_eq!((told.status.as_u16(), told.error()["code"].as_str()), (504, Some("deadline_exceeded")));
    let events = h.chat(&streamed()).await.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "deadline_exceeded");
    soon(h.seen.cancelled.wait_for(|n| *n == 2)).await.unwrap();
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_then_ends_them_with_an_error() {
    let h = Harness::playing(vec![tokens(&ids("a")), Step::Hang]).await;
    let mut open = h.open("/v1/chat/completions", &streamed()).await;
    assert!(open.event().await.unwrap().contains("assistant"));
    let addr = h.gateway.addr();
    let shutdown = tokio::spawn(h.gateway.shutdown(Duration::from_millis(50)));
    assert!(open.event().await.unwrap().contains("\"content\":\"a\""));
    let error: Value = serde_json::from_str(&open.event().await.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "shutting_down");
    assert_eq!(open.event().await, None);
    soon(shutdown).await.unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once() {
    let h = Harness::playing(vec![length()]).await;
    // An idle keep-alive connection does not hold it up.
    let _idle = tokio::net::TcpStream::connect(h.gateway.addr()).await.unwrap();
    soon(h.gateway.shutdown(Duration::from_secs(3600))).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let h = Harness::playing(vec![length()]).await;
    let config = GatewayConfig {
        listen: h.gateway.addr(),
        limits: GatewayLimits::default(),
        picture_hosts: Vec::new(),
        observed: None,
        metrics: None,
        journal: coordinator::journal::Journal::default(),
    };
    let (_sender, view) = watch::channel(Arc::new(ClusterView::default()));
    let (scripted, _seen) = Scripted::new(vec![]);
    let error = Gateway::start_over(config, view, scripted, CancellationToken::new()).await.unwrap_err();
    let GatewayError::Listen { addr, .. } = &error else { panic!("{error}") };
    assert_eq!(*addr, h.gateway.addr());
    assert!(error.to_string().contains(&format!("cannot listen on {addr}")), "{error}");
}

#[tokio::test]
async fn files_of_a_deployment_that_is_gone_are_dropped() {
    let h = Harness::playing(vec![length()]).await;
    h.view.send_replace(Arc::new(ClusterView { applied_index: 8, ..ClusterView::default() }));
    assert_eq!(h.chat(&hi_with(json!({}))).await.error()["code"], "model_not_found");
    h.serve(1);
    h.until_ready().await;
    assert_eq!(h.chat(&hi_with(json!({}))).await.status, 200);
    let _: SocketAddr = h.gateway.addr();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_brings_no_request_is_closed() {
    let h = Harness::unready(vec![], GatewayLimits::default()).await;
    for sent in ["", "P", "POST /v1/models HTTP/1.1\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(h.gateway.addr()).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Closed with or without a reset: what had been sent was not all read.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
}
