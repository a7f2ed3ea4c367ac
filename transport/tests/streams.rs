//! Frames on streams between real endpoints: calls, refusals, deadlines, and everything a broken peer may send.

mod common;

use std::time::{Duration, Instant};

use common::{ANY_PORT, LONG, ca, member};
use protocol::frame::{FrameHeader, HEADER_BYTES, Ping, Refusal, RefusalCode, WIRE_VERSION};
use protocol::{Epoch, Frame, FrameError, Kind, Role};
use transport::{CallError, Connection, Endpoint, EndpointConfig, Expect, RecvStream, SendStream, StreamError};

struct Pair {
    dialled: Connection,
    accepted: Connection,
    _endpoints: [Endpoint; 2],
}

async fn pair_with(config: EndpointConfig) -> Pair {
    let ca = ca(1);
    let (server, client) = (member(&ca, Role::Node, "n1"), member(&ca, Role::Node, "n2"));
    let listener = Endpoint::bind_with(ANY_PORT, &server, &[Role::Node], config.clone()).expect("a free port");
    let dialler = Endpoint::bind_with(ANY_PORT, &client, &[], config).expect("a free port");
    let (dialled, accepted) =
        tokio::join!(dialler.connect(listener.local_addr(), Expect::role(Role::Node), LONG), listener.accept());
    let (dialled, accepted) = (dialled.expect("let in"), accepted.expect("let in"));
    Pair { dialled, accepted, _endpoints: [listener, dialler] }
}

async fn pair() -> Pair {
    pair_with(EndpointConfig::default()).await
}

/// A stream whose first frame, a ping, has arrived: both ends, dialling side first.
async fn stream(pair: &Pair) -> ((SendStream, RecvStream), (SendStream, RecvStream)) {
    let mut ours = pair.dialled.open(LONG).await.expect("connected");
    ours.0.send(Epoch(0), &Ping { nonce: 0 }, LONG).await.expect("connected");
    let mut theirs = pair.accepted.accept_stream().await.expect("connected");
    theirs.1.recv(LONG).await.expect("the ping");
    (ours, theirs)
}

/// Answers one call with `answer`.
async fn serve(connection: &Connection, epoch: Epoch, answer: Result<Ping, Refusal>) {
    let (mut send, mut recv) = connection.accept_stream().await.expect("connected");
    recv.recv_message::<Ping>(Epoch(0), LONG).await.expect("a ping");
    match answer {
        Ok(pong) => {
            send.send(epoch, &pong, LONG).await.expect("connected");
            send.finish().expect("open");
        }
        Err(refusal) => send.refuse(epoch, &refusal, LONG).await.expect("connected"),
    }
    // Acknowledged or stopped: either way the caller has what it wants.
    let _ = send.stopped().await;
}

#[tokio::test]
async fn a_call_gets_its_answer_or_its_refusal() {
    let pair = pair().await;
    let ask = || pair.dialled.call::<Ping, Ping>(Epoch(2), &Ping { nonce: 1 }, LONG);
    let (answer, ()) = tokio::join!(ask(), serve(&pair.accepted, Epoch(2), Ok(Ping { nonce: 9 })));
    assert_eq!(answer.expect("answered").nonce, 9);
    let no = Refusal { code: RefusalCode::Overloaded { retry_after_ms: 250 }, detail: "full".to_owned() };
    let (answer, ()) = tokio::join!(ask(), serve(&pair.accepted, Epoch(2), Err(no.clone())));
    let e = answer.expect_err("refused");
    assert!(matches!(&e, CallError::Refused(r) if *r == no), "{e:?}");
    let (answer, ()) = tokio::join!(ask(), serve(&pair.accepted, Epoch(1), Ok(Ping { nonce: 9 })));
    let e = answer.expect_err("an answer of an older epoch");
    assert!(matches!(e, CallError::Stream(StreamError::StaleEpoch { found: Epoch(1), expected: Epoch(2) })), "{e:?}");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let pair = pair().await;
    let start = Instant::now();
    let wait = Duration::from_millis(100);
    let e = pair.dialled.call::<Ping, Ping>(Epoch(0), &Ping { nonce: 1 }, wait).await.expect_err("nobody answers");
    assert!(matches!(e, CallError::Deadline { .. }), "{e:?}");
    assert!(start.elapsed() < LONG / 4);
}

#[tokio::test]
async fn a_call_ends_when_the_connection_does() {
    let pair = pair().await;
    let close = async {
        let stream = pair.accepted.accept_stream().await.expect("connected");
        pair.accepted.close("going away");
        drop(stream);
    };
    let call = pair.dialled.call::<Ping, Ping>(Epoch(0), &Ping { nonce: 1 }, LONG);
    let (e, ()) = tokio::join!(call, close);
    let e = e.expect_err("closed");
    assert!(matches!(&e, CallError::Lost(l) if l.to_string().contains("going away")), "{e:?}");
}

#[tokio::test]
async fn a_dropped_call_is_seen_by_the_server() {
    let pair = pair().await;
    let call = pair.dialled.call::<Ping, Ping>(Epoch(0), &Ping { nonce: 1 }, LONG);
    let (mut send, _recv) = tokio::select! {
        _ = call => panic!("nobody has answered"),
        stream = pair.accepted.accept_stream() => stream.expect("connected"),
    };
    let e = send.stopped().await.expect_err("nobody reads any more");
    assert!(matches!(e, StreamError::Stopped { .. }), "{e:?}");
    let e = send.send(Epoch(0), &Ping { nonce: 1 }, LONG).await.expect_err("stopped");
    assert!(matches!(e, StreamError::Stopped { .. }), "{e:?}");
}

#[tokio::test]
async fn reset_stop_drop_and_finish_are_told_apart() {
    let pair = pair().await;
    let ((mut send, _r), (_s, mut recv)) = stream(&pair).await;
    send.reset();
    assert!(matches!(recv.recv(LONG).await, Err(StreamError::Reset { code: 0 })));
    assert!(matches!(send.send(Epoch(0), &Ping { nonce: 1 }, LONG).await, Err(StreamError::Closed)));
    let ((send, _r), (_s, mut recv)) = stream(&pair).await;
    drop(send);
    assert!(matches!(recv.recv(LONG).await, Err(StreamError::Reset { code: 1 })), "dropped is not finished");
    let ((mut send, _r), (_s, mut recv)) = stream(&pair).await;
    send.finish().expect("open");
    assert!(matches!(recv.recv(LONG).await, Err(StreamError::Ended)));
    let ((send, _r), (_s, mut recv)) = stream(&pair).await;
    recv.stop();
    assert!(matches!(send.stopped().await, Err(StreamError::Stopped { .. })));
}

#[tokio::test]
async fn a_large_frame_arrives_whole_and_a_limit_holds() {
    let pair = pair().await;
    let ((mut send, _r), (_s, mut recv)) = stream(&pair).await;
    let big = Refusal { code: RefusalCode::Internal, detail: "x".repeat(20 << 20) };
    let (sent, got) = tokio::join!(send.send(Epoch(5), &big, LONG), recv.recv(LONG));
    sent.expect("taken");
    let got = got.expect("whole");
    assert_eq!((got.kind, got.epoch), (Kind::Refusal, Epoch(5)));
    assert_eq!(got.read::<Refusal>().expect("sound"), big);
    recv.set_body_max(1000);
    let small_limit = tokio::join!(send.send(Epoch(5), &big, Duration::from_millis(50)), recv.recv(LONG)).1;
    let e = small_limit.expect_err("over the limit");
    assert!(matches!(e, StreamError::Frame(FrameError::TooLong { max: 1000, .. })), "{e:?}");
}

#[tokio::test]
async fn what_has_arrived_of_a_frame_survives_a_deadline() {
    let pair = pair().await;
    let ((mut send, _r), (_s, mut recv)) = stream(&pair).await;
    let nothing = recv.recv(Duration::from_millis(20)).await;
    assert!(matches!(nothing, Err(StreamError::Deadline { .. })));
    send.send(Epoch(1), &Ping { nonce: 4 }, LONG).await.expect("connected");
    assert_eq!(recv.recv_message::<Ping>(Epoch(1), LONG).await.expect("whole").nonce, 4);
}

#[tokio::test]
async fn streams_are_bounded() {
    let pair = pair_with(EndpointConfig { streams_max: 2, ..EndpointConfig::default() }).await;
    let _open = (pair.dialled.open(LONG).await.expect("one"), pair.dialled.open(LONG).await.expect("two"));
    let e = pair.dialled.open(Duration::from_millis(50)).await.expect_err("three");
    assert!(matches!(e, StreamError::Deadline { .. }), "{e:?}");
}

#[tokio::test]
async fn a_silent_peer_is_lost_at_the_idle_timeout() {
    // The listener's runtime stops being driven, as a stopped process would.
    let ca = ca(1);
    let (server, client) = (member(&ca, Role::Node, "n1"), member(&ca, Role::Node, "n2"));
    let (addr_tx, addr_rx) = std::sync::mpsc::channel();
    let (stop_tx, stop_rx) = std::sync::mpsc::channel::<()>();
    let frozen = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let kept = runtime.block_on(async {
            let listener = Endpoint::bind(ANY_PORT, &server, &[Role::Node]).expect("a free port");
            addr_tx.send(listener.local_addr()).expect("somebody waits");
            let connection = listener.accept().await.expect("the client");
            connection.accept_stream().await.expect("the client's stream");
            (listener, connection)
        });
        let _ = stop_rx.recv();
        drop(kept);
    });
    let addr = addr_rx.recv().expect("bound");
    let config = EndpointConfig {
        idle_timeout: Duration::from_millis(500),
        keep_alive: Duration::from_millis(100),
        ..EndpointConfig::default()
    };
    let dialler = Endpoint::bind_with(ANY_PORT, &client, &[], config).expect("a free port");
    let connection = dialler.connect(addr, Expect::role(Role::Node), LONG).await.expect("let in");
    let start = Instant::now();
    let e = connection.call::<Ping, Ping>(Epoch(0), &Ping { nonce: 0 }, LONG).await.expect_err("frozen");
    assert!(
        matches!(
            e,
            CallError::Lost(transport::ConnectionLost::Silent)
                | CallError::Lost(transport::ConnectionLost::ClosedByPeer { .. })
        ),
        "{e:?}"
    );
    assert!(start.elapsed() < LONG / 2);
    drop(stop_tx);
    frozen.join().expect("no panic");
}

/// What a peer with a certificate, but broken or of another version, may send: raw bytes through quinn.
mod raw {
    use std::sync::Arc;

    use quinn::crypto::rustls::QuicServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    /// What our side makes of `bytes` as the answer on a stream that then ends.
    async fn receive(bytes: Vec<u8>) -> Result<Frame, StreamError> {
        let ca = ca(1);
        let issued = ca.issue(&common::identity_in(ca.cluster(), Role::Node, "n1")).expect("of this cluster");
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("PEM");
        let cert = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .expect("they belong together");
        tls.alpn_protocols = vec![b"shardglm/1".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3");
        let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let listener = quinn::Endpoint::server(server, ANY_PORT).expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let broken = async {
            let connection = listener.accept().await.expect("open").await.expect("a client");
            let mut welcome = connection.open_uni().await.expect("open");
            welcome.write_all(&Frame::bytes_of(Epoch(0), &Ping { nonce: 0 }).expect("short")).await.expect("open");
            welcome.finish().expect("open");
            let (mut send, _recv) = connection.accept_bi().await.expect("open");
            send.write_all(&bytes).await.expect("open");
            send.finish().expect("open");
            let _ = connection.closed().await;
        };
        let client = async {
            let dialler = Endpoint::bind(ANY_PORT, &member(&ca, Role::Node, "n2"), &[]).expect("a free port");
            let connection = dialler.connect(addr, Expect::role(Role::Node), LONG).await.expect("let in");
            let (mut send, mut recv) = connection.open(LONG).await.expect("open");
            send.send(Epoch(0), &Ping { nonce: 0 }, LONG).await.expect("open");
            let got = recv.recv(LONG).await;
            connection.close("done");
            got
        };
        tokio::select! { got = client => got, () = broken => panic!("the client decides") }
    }

    fn header(body_len: u32) -> [u8; HEADER_BYTES] {
        FrameHeader { kind: Kind::Ping, epoch: Epoch(0), body_len }.encode()
    }

    #[tokio::test]
    async fn garbage_and_other_versions_are_named() {
        let e = receive(vec![0xff; 100]).await.expect_err("garbage");
        assert!(matches!(e, StreamError::Frame(FrameError::Magic { .. })), "{e:?}");
        let mut newer = header(8).to_vec();
        newer[4] = u8::try_from(WIRE_VERSION + 7).expect("small");
        let e = receive(newer).await.expect_err("another version");
        assert!(matches!(e, StreamError::Frame(FrameError::Version { .. })), "{e:?}");
    }

    #[tokio::test]
    async fn a_broken_body_is_no_message() {
        let mut bytes = FrameHeader { kind: Kind::Refusal, epoch: Epoch(0), body_len: 32 }.encode().to_vec();
        bytes.extend([0xee; 32]);
        let frame = receive(bytes).await.expect("the envelope holds");
        assert!(matches!(frame.read::<Refusal>(), Err(FrameError::Malformed { kind: Kind::Refusal, .. })));
        assert!(matches!(frame.read::<Ping>(), Err(FrameError::UnexpectedKind { .. })));
    }

    #[tokio::test]
    async fn truncated_frames_say_how_much_came() {
        let e = receive(header(8)[..10].to_vec()).await.expect_err("half a header");
        assert!(matches!(e, StreamError::Truncated { found: 10, expected: HEADER_BYTES }), "{e:?}");
        // A claim of 64 MiB with three bytes behind it costs no memory to find out.
        let mut bytes = header(64 << 20).to_vec();
        bytes.extend([1, 2, 3]);
        let e = receive(bytes).await.expect_err("hardly a body");
        assert!(matches!(e, StreamError::Truncated { found: 3, expected: 67_108_864 }), "{e:?}");
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_by_its_header() {
        let e = receive(header((64 << 20) + 1).to_vec()).await.expect_err("too long");
        assert!(matches!(e, StreamError::Frame(FrameError::TooLong { .. })), "{e:?}");
    }
}

/// Nothing but a reset can end the connection within the test: the peer is silent from its death on, and a silent one is waited for.
#[test]
fn a_peer_that_died_is_lost_as_soon_as_its_successor_at_the_same_address_hears_of_the_connection() {
    let start =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let patient = EndpointConfig {
        idle_timeout: Duration::from_secs(600),
        keep_alive: Duration::from_millis(100),
        ..EndpointConfig::default()
    };
    let ca = ca(1);
    let (server, client) = (member(&ca, Role::Node, "n1"), member(&ca, Role::Node, "n2"));
    let (here, there) = (start(), start());
    let bind = |at, config| Endpoint::bind_with(at, &server, &[Role::Node], config);
    let listener = there.block_on(async { bind(ANY_PORT, patient.clone()).expect("a free port") });
    let addr = listener.local_addr();
    let accepting = there.spawn(async move { (listener.accept().await, listener) });
    let (dialler, dialled) = here.block_on(async {
        let dialler = Endpoint::bind_with(ANY_PORT, &client, &[], patient.clone()).expect("a free port");
        let dialled = dialler.connect(addr, Expect::role(Role::Node), LONG).await.expect("let in");
        (dialler, dialled)
    });
    let accepted = there.block_on(accepting).expect("no panic");
    // Its tasks and its socket go with the runtime, without a word to anybody, as a killed process goes.
    there.shutdown_timeout(Duration::from_secs(5));
    drop(accepted);
    let started = Instant::now();
    here.block_on(async {
        let successor = loop {
            match bind(addr, patient.clone()) {
                Ok(endpoint) => break endpoint,
                Err(e) => assert!(started.elapsed() < LONG, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let lost = tokio::time::timeout(LONG, dialled.closed()).await.expect("it is told");
        assert_eq!(lost.to_string(), "the peer has restarted");
        drop((successor, dialler));
    });
}
