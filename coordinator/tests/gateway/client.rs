//! A bare HTTP client: one connection, which a test can drop in the middle.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Longest that any wait of a test takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("it should have happened by now")
}

/// A response that is still being told; dropping it closes its connection.
pub(crate) struct Open {
    pub(crate) response: Response<Incoming>,
    connection: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A response that has been told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Told {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The error object of a failure, checked for its form.
    pub(crate) fn error(&self) -> Value {
        let object = self.json();
        assert_eq!(object.as_object().unwrap().len(), 1, "{object}");
        let error = object["error"].clone();
        let keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"], "{error}");
        assert!(error["message"].is_string() && error["type"].is_string() && error["code"].is_string(), "{error}");
        assert_eq!(self.headers["content-type"], "application/json");
        error
    }

    /// The data of every event of a stream.
    pub(crate) fn events(&self) -> Vec<String> {
        assert!(self.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"), "{self:?}");
        let events = self.body.split("\n\n").filter(|e| !e.is_empty());
        events.map(|e| e.strip_prefix("data: ").expect("an event with data").to_owned()).collect()
    }

    /// The chunks of a stream that ended well.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", self.body);
        events.iter().map(|e| serde_json::from_str(e).unwrap()).collect()
    }
}

impl Open {
    pub(crate) async fn start(addr: SocketAddr, request: Request<Full<Bytes>>) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let response = soon(sender.send_request(request)).await.unwrap();
        Self { response, connection }
    }

    /// The data of the next event.
    pub(crate) async fn event(&mut self) -> Option<String> {
        let frame = soon(self.response.body_mut().frame()).await?.unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        Some(text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap().to_owned())
    }

    pub(crate) async fn told(mut self) -> Told {
        let body = soon(self.response.body_mut().collect()).await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Told { status: self.response.status(), headers: self.response.headers().clone(), body }
    }
}

/// A connection of HTTP/2 without TLS.
pub(crate) async fn h2c(addr: SocketAddr) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, JoinHandle<()>) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(async move { drop(connection.await) }))
}
