//! UDP sockets with large buffers. A burst of an all-reduce waits in the receiver's buffer while it computes.

use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::BindError;

/// What is asked of the kernel for each direction, bytes; it may give less (`net.core.rmem_max`, `wmem_max`).
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// A bound, non-blocking UDP socket.
pub(crate) fn bind_udp(addr: SocketAddr) -> Result<UdpSocket, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Where the limit is lower the kernel silently takes the limit, so neither call is worth failing for.
        if let Err(e) =
            socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES).and(socket.set_send_buffer_size(SOCKET_BUFFER_BYTES))
        {
            tracing::debug!(error = %e, "socket buffers stay at the system's default");
        }
        socket.bind(&addr.into())?;
        Ok(UdpSocket::from(socket))
    };
    bind().map_err(|e| BindError::new(addr, e))
}
