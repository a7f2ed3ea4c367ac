//! What can go wrong, one enum an operation, and how quinn's errors map to them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::frame::Refusal;
use protocol::{Epoch, FrameError};

use crate::tls::{Expect, TlsError};

/// Why an endpoint is not listening.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error("{addr} (UDP) is already in use")]
    InUse {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// Any other reason of the operating system's.
    #[error("cannot listen on {addr} (UDP): {source}")]
    Io {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The identity does not make a TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl BindError {
    pub(crate) fn new(addr: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { addr },
            _ => Self::Io { addr, source },
        }
    }
}

/// Why one side refused the other during the handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// No certificate was shown.
    #[error("no certificate was shown")]
    NoCertificate,
    /// Another CA signed the certificate.
    #[error("the certificate is not of this cluster's CA ({detail})")]
    OtherAuthority {
        /// What the verifier says.
        detail: String,
    },
    /// The certificate is not valid now.
    #[error("the certificate is expired or not valid yet ({detail})")]
    Expired {
        /// What the verifier says.
        detail: String,
    },
    /// The certificate holds, but is of the wrong role, name or cluster.
    #[error("the wrong peer: {detail}")]
    WrongIdentity {
        /// What the verifier says.
        detail: String,
    },
    /// Too many handshakes at once, or the listener is closing.
    #[error("the listener takes no more connections")]
    Busy,
    /// Any other failure of TLS or QUIC, such as no common key exchange.
    #[error("TLS alert or transport error {code:#x} ({detail})")]
    Other {
        /// QUIC's error code.
        code: u64,
        /// What came with it.
        detail: String,
    },
}

impl HandshakeRefusal {
    /// From QUIC's error code, of which 0x100 to 0x1ff are TLS alerts (RFC 9001, 4.8; RFC 8446, 6).
    fn new(code: u64, detail: String) -> Self {
        const BAD_CERTIFICATE: u64 = 0x100 + 42;
        const CERTIFICATE_EXPIRED: u64 = 0x100 + 45;
        const CERTIFICATE_UNKNOWN: u64 = 0x100 + 46;
        const UNKNOWN_CA: u64 = 0x100 + 48;
        const DECRYPT_ERROR: u64 = 0x100 + 51;
        const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;
        match code {
            CERTIFICATE_REQUIRED => Self::NoCertificate,
            // A CA of the same name with another key fails by its signature, not as an unknown issuer.
            UNKNOWN_CA | DECRYPT_ERROR => Self::OtherAuthority { detail },
            CERTIFICATE_EXPIRED => Self::Expired { detail },
            CERTIFICATE_UNKNOWN | BAD_CERTIFICATE => Self::WrongIdentity { detail },
            2 => Self::Busy,
            _ => Self::Other { code, detail },
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there, or no packet can be sent there.
    #[error("{addr} is unreachable: {reason}")]
    Unreachable {
        /// Where.
        addr: SocketAddr,
        /// What the network says.
        reason: String,
    },
    /// We refused the peer.
    #[error("refused {addr}, which should be {}: {reason}", describe(expect))]
    PeerNotAccepted {
        /// Where.
        addr: SocketAddr,
        /// Whom we expected.
        expect: Expect,
        /// Why.
        reason: HandshakeRefusal,
    },
    /// The peer refused us.
    #[error("{addr} refused the handshake: {reason}")]
    Refused {
        /// Where.
        addr: SocketAddr,
        /// Why.
        reason: HandshakeRefusal,
    },
    /// The deadline passed first.
    #[error("no connection to {addr} within {waited:?}")]
    Deadline {
        /// Where.
        addr: SocketAddr,
        /// How long we waited.
        waited: Duration,
    },
    /// The identity does not make a TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn describe(expect: &Expect) -> String {
    match &expect.name {
        Some(name) => format!("{} {name}", expect.role),
        None => format!("any {}", expect.role),
    }
}

impl ConnectError {
    pub(crate) fn new(addr: SocketAddr, expect: &Expect, e: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match e {
            E::TransportError(t) => {
                let reason = HandshakeRefusal::new(t.code.into(), t.reason);
                Self::PeerNotAccepted { addr, expect: expect.clone(), reason }
            }
            E::ConnectionClosed(close) => {
                let detail = String::from_utf8_lossy(&close.reason).into_owned();
                Self::Refused { addr, reason: HandshakeRefusal::new(close.error_code.into(), detail) }
            }
            E::ApplicationClosed(_) => Self::Refused { addr, reason: HandshakeRefusal::Busy },
            other => Self::Unreachable { addr, reason: other.to_string() },
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionLost {
    /// The peer closed it.
    #[error("closed by the peer: {reason}")]
    ClosedByPeer {
        /// What the peer said, cut to 200 characters.
        reason: String,
    },
    /// We closed it.
    #[error("closed by this side")]
    ClosedHere,
    /// The peer went silent for longer than the idle timeout.
    #[error("the peer went silent")]
    Silent,
    /// The peer does not know the connection any more: it restarted.
    #[error("the peer has restarted")]
    Reset,
    /// The handshake failed late: the peer refused us after we had accepted it.
    #[error("the peer refused the handshake: {0}")]
    Refused(HandshakeRefusal),
    /// QUIC itself failed.
    #[error("transport failure: {reason}")]
    Transport {
        /// How.
        reason: String,
    },
}

impl From<quinn::ConnectionError> for ConnectionLost {
    fn from(e: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match e {
            E::ApplicationClosed(close) => {
                Self::ClosedByPeer { reason: String::from_utf8_lossy(&close.reason).chars().take(200).collect() }
            }
            E::ConnectionClosed(close) => {
                let code = u64::from(close.error_code);
                let detail: String = String::from_utf8_lossy(&close.reason).chars().take(200).collect();
                if (0x100..0x200).contains(&code) {
                    Self::Refused(HandshakeRefusal::new(code, detail))
                } else {
                    Self::ClosedByPeer { reason: format!("{} {detail}", close.error_code) }
                }
            }
            E::LocallyClosed => Self::ClosedHere,
            E::TimedOut => Self::Silent,
            E::Reset => Self::Reset,
            other => Self::Transport { reason: other.to_string() },
        }
    }
}

/// Why a stream gave no frame or took none.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The sender gave up, with that code.
    #[error("the peer reset the stream (code {code})")]
    Reset {
        /// The peer's code.
        code: u64,
    },
    /// The receiver wants no more, with that code.
    #[error("the peer stopped the stream (code {code})")]
    Stopped {
        /// The peer's code.
        code: u64,
    },
    /// The sender finished: no further frame comes.
    #[error("the stream has ended")]
    Ended,
    /// The sender finished within a frame.
    #[error("the stream ended after {found} of {expected} bytes of a frame")]
    Truncated {
        /// Bytes that came.
        found: usize,
        /// Bytes that the frame has, or its header.
        expected: usize,
    },
    /// What came is not a frame, or not the one due.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame speaks for an older epoch.
    #[error("frame of epoch {found}, expected at least {expected}")]
    StaleEpoch {
        /// The frame's.
        found: Epoch,
        /// The lowest that is taken.
        expected: Epoch,
    },
    /// A refusal came in place of the frame.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Lost(#[from] ConnectionLost),
    /// The deadline passed first. The stream is of no further use when it was in the middle of a frame.
    #[error("no progress on the stream within {waited:?}")]
    Deadline {
        /// How long we waited.
        waited: Duration,
    },
    /// The stream was finished or reset on this side before.
    #[error("the stream was closed on this side")]
    Closed,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer said no.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection is gone; whether the call had an effect is unknown.
    #[error("connection lost: {0}")]
    Lost(ConnectionLost),
    /// The deadline passed first; whether the call had an effect is unknown.
    #[error("no answer within {waited:?}")]
    Deadline {
        /// How long we waited.
        waited: Duration,
    },
    /// The stream or the answer is broken.
    #[error(transparent)]
    Stream(StreamError),
}

impl From<StreamError> for CallError {
    fn from(e: StreamError) -> Self {
        match e {
            StreamError::Refused(r) => Self::Refused(r),
            StreamError::Lost(l) => Self::Lost(l),
            StreamError::Deadline { waited } => Self::Deadline { waited },
            other => Self::Stream(other),
        }
    }
}
