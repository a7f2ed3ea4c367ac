//! The group's UDP socket: segmentation offload both ways, raw non-blocking calls while spinning, readiness for sleeping.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Buffers that one receive call fills; each takes one datagram or one run of them (GRO).
const RECV_BATCH: usize = 8;
/// Bytes of each: the largest run.
const RECV_BYTES: usize = 64 << 10;
/// Most bytes of one send call: the largest UDP payload over IPv4, less a margin for IPv6.
const SEND_BYTES_MAX: usize = 65_000;

pub(super) struct GroupSocket {
    io: UdpSocket,
    state: UdpSocketState,
    buffer: Vec<u8>,
    local_addr: SocketAddr,
    /// What a burst of all peers may fill, bytes.
    recv_buffer_bytes: usize,
}

impl GroupSocket {
    /// To be called on the runtime that will wait for it.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let recv_buffer_bytes = state.recv_buffer_size(UdpSockRef::from(&socket))?;
        let local_addr = socket.local_addr()?;
        let io = UdpSocket::from_std(socket)?;
        Ok(Self { io, state, buffer: vec![0; RECV_BATCH * RECV_BYTES], local_addr, recv_buffer_bytes })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    pub(super) fn recv_buffer_bytes(&self) -> usize {
        self.recv_buffer_bytes
    }

    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Datagrams of `mtu` bytes that one send may carry.
    pub(super) fn segments(&self, mtu: u16) -> usize {
        (SEND_BYTES_MAX / usize::from(mtu)).clamp(1, self.state.max_gso_segments())
    }

    /// Hands over what one receive call brings, a datagram at a time; whether there was anything.
    pub(super) fn receive(&mut self, mut each: impl FnMut(&RecvMeta, &[u8])) -> io::Result<bool> {
        let mut metas = [RecvMeta::default(); RECV_BATCH];
        let received = {
            let mut chunks = self.buffer.chunks_exact_mut(RECV_BYTES);
            let mut slices: [IoSliceMut<'_>; RECV_BATCH] = std::array::from_fn(|_| {
                IoSliceMut::new(chunks.next().expect("the buffer has RECV_BATCH chunks of RECV_BYTES"))
            });
            match self.state.recv(UdpSockRef::from(&self.io), &mut slices, &mut metas) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // A peer's port is closed; QUIC's own timers decide what that means.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
                Err(e) => return Err(e),
            }
        };
        for (meta, run) in metas.iter().zip(self.buffer.chunks_exact(RECV_BYTES)).take(received) {
            run[..meta.len].chunks(meta.stride.max(1)).for_each(|datagram| each(meta, datagram));
        }
        Ok(true)
    }

    /// Sends one run; whether the kernel took it. Other failures count as a lost packet, which QUIC repeats: too large for
    /// the path (a probe of its MTU), no route for the moment.
    pub(super) fn send(&self, transmit: &quinn_proto::Transmit, bytes: &[u8]) -> bool {
        let transmit = Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|e| quinn_udp::EcnCodepoint::from_bits(e as u8)),
            contents: &bytes[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        match self.state.try_send(UdpSockRef::from(&self.io), &transmit) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => {
                tracing::debug!(peer = %transmit.destination, bytes = transmit.contents.len(), error = %e, "packet not sent");
                true
            }
            Ok(()) => true,
        }
    }

    /// Forgets the runtime's cached readiness. To be called after a raw call said "would block" and before [`Self::ready`]:
    /// the raw calls do not keep it, and a stale one would end every sleep at once. What arrives in between is reported
    /// again, since the kernel's queue is edge-triggered and was not asked meanwhile.
    fn forget_readiness(&self) {
        for interest in [Interest::READABLE, Interest::WRITABLE] {
            let _ = self.io.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }

    /// Waits until there is something to receive, or room to send where that is wanted.
    pub(super) async fn ready(&self, to_send: bool) -> io::Result<()> {
        self.forget_readiness();
        let interest = if to_send { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.io.ready(interest).await.map(drop)
    }
}
