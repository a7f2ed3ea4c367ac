//! Addresses for a cluster on one machine: public ones that must be free, and ephemeral ones for the rest.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use crate::cli::Failure;

/// `count` public addresses from `listen` up, each of them free now.
///
/// # Errors
/// Exit 3 naming the address that is not free, exit 2 when ports run out.
pub(super) fn public(listen: SocketAddr, count: u16) -> Result<Vec<SocketAddr>, Failure> {
    if listen.port() == 0 || listen.port().checked_add(count - 1).is_none() {
        let error = anyhow::anyhow!("--listen {listen}: {count} ports from {} on do not exist", listen.port());
        return Err(Failure::usage(error));
    }
    let addrs: Vec<SocketAddr> = (0..count).map(|i| SocketAddr::new(listen.ip(), listen.port() + i)).collect();
    for addr in &addrs {
        free_tcp(*addr)?;
    }
    Ok(addrs)
}

/// Whether an address can be listened on.
///
/// # Errors
/// Exit 3 naming it.
pub(super) fn free_tcp(addr: SocketAddr) -> Result<(), Failure> {
    TcpListener::bind(addr).map(drop).map_err(|e| in_use(addr, &e))
}

/// As [`free_tcp`], of a UDP address.
///
/// # Errors
/// Exit 3 naming it.
pub(super) fn free_udp(addr: SocketAddr) -> Result<(), Failure> {
    UdpSocket::bind(addr).map(drop).map_err(|e| in_use(addr, &e))
}

fn in_use(addr: SocketAddr, error: &std::io::Error) -> Failure {
    Failure::refused(anyhow::anyhow!("cannot listen on {addr}: {error}"))
}

/// `count` pairs of an internal (UDP) and an admin (TCP) address with ports of the system's choice. All are held until
/// the last is chosen, so that they differ.
///
/// # Errors
/// A system without free ports.
pub(super) fn ephemeral(ip: IpAddr, count: usize) -> anyhow::Result<Vec<(SocketAddr, SocketAddr)>> {
    let any = SocketAddr::new(ip, 0);
    let held: Vec<(UdpSocket, TcpListener)> =
        (0..count).map(|_| Ok((UdpSocket::bind(any)?, TcpListener::bind(any)?))).collect::<std::io::Result<_>>()?;
    held.iter().map(|(udp, tcp)| Ok((udp.local_addr()?, tcp.local_addr()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = held.local_addr().expect("bound");
        let failure = public(addr, 1).expect_err("in use");
        assert!(failure.to_string().contains(&addr.to_string()), "{failure}");
        assert_eq!(failure.exit(), crate::cli::Exit::Refused);
    }

    #[test]
    fn ports_past_the_last_are_a_usage_error() {
        let failure = public("127.0.0.1:65535".parse().expect("an address"), 2).expect_err("no such port");
        assert_eq!(failure.exit(), crate::cli::Exit::Usage);
    }

    #[test]
    fn ephemeral_addresses_differ() {
        let pairs = ephemeral(IpAddr::from([127, 0, 0, 1]), 3).expect("free ports");
        let udp: std::collections::BTreeSet<_> = pairs.iter().map(|p| p.0).collect();
        let tcp: std::collections::BTreeSet<_> = pairs.iter().map(|p| p.1).collect();
        assert_eq!((udp.len(), tcp.len()), (3, 3));
    }
}
