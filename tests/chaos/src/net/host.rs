//! One host: a network namespace whose only card ends in the switch.
//!
//! Neighbours are entered for good: no address resolution crosses the switch, so that a link which is cut in one direction
//! stays open in the other.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tappers::Interface;
use tappers::linux::Tap;

use super::NetError;

/// Where `ip netns` keeps them.
pub(super) const NAMESPACES: &str = "/run/netns";
/// How long killed processes may take to leave a namespace.
const LEAVE: Duration = Duration::from_secs(5);

/// A host's place at the switch, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u8);

impl Port {
    fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.0)
    }

    /// The card's address: the switch knows the port by its last byte.
    pub(super) fn mac(self) -> [u8; 6] {
        [0x02, 0, 0, 0, 0x4d, self.0]
    }

    fn mac_text(self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// One host.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: String,
    port: Port,
}

impl Host {
    /// The namespace with its card up, and the card's other end.
    pub(super) fn create(prefix: &str, name: &str, port: Port, num_hosts: usize) -> Result<(Self, Tap), NetError> {
        let namespace = format!("{prefix}-{name}");
        ip(&["netns", "add", &namespace])?;
        // From here on dropping it removes the namespace.
        let host = Self { name: name.to_owned(), namespace, port };
        let device = format!("{prefix}t{}", port.0);
        let tap = Interface::new(&device).map_err(|e| std::io::Error::other(format!("{device}: {e:?}")));
        let tap = tap.and_then(Tap::new_named).map_err(NetError::Switch)?;
        tap.set_nonblocking(true).map_err(NetError::Switch)?;
        let ns = host.namespace.as_str();
        ip(&["link", "set", &device, "netns", ns, "name", "eth0", "address", &port.mac_text()])?;
        ip(&["-n", ns, "link", "set", "lo", "up"])?;
        ip(&["-n", ns, "addr", "add", &format!("{}/24", port.ip()), "dev", "eth0"])?;
        ip(&["-n", ns, "link", "set", "eth0", "up"])?;
        for other in (1..=num_hosts).filter_map(|p| u8::try_from(p).ok()).map(Port).filter(|p| *p != port) {
            let (at, mac) = (other.ip().to_string(), other.mac_text());
            ip(&["-n", ns, "neigh", "replace", &at, "lladdr", &mac, "dev", "eth0", "nud", "permanent"])?;
        }
        Ok((host, tap))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its place at the switch.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Its address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.port.ip().into()
    }

    /// One of its ports.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// A command that runs `program` on this host; the process id is the program's.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Moves the calling thread to this host: sockets that it opens from now on are the host's.
    ///
    /// # Errors
    /// [`NetError::Enter`].
    pub fn enter(&self) -> Result<(), NetError> {
        let entered = File::open(self.path())
            .and_then(|namespace| Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?));
        entered.map_err(|source| NetError::Enter { host: self.name.clone(), source })
    }

    /// A runtime whose threads are on this host.
    ///
    /// # Errors
    /// [`NetError::Enter`].
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime, NetError> {
        let path = self.path();
        let namespace = File::open(path);
        let failed = |source| NetError::Enter { host: self.name.clone(), source };
        let namespace = namespace.map_err(failed)?;
        let enter = move || {
            let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            // A client on the wrong host would measure nothing at all.
            moved.expect("a namespace that is held open can be entered");
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("on-host").enable_all().on_thread_start(enter).build().map_err(failed)
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.namespace)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        remove(&self.namespace);
    }
}

/// Kills what runs in a namespace and removes it; best effort, since it runs while things fall apart.
pub(super) fn remove(namespace: &str) {
    let started = Instant::now();
    while started.elapsed() < LEAVE {
        let Ok(listed) = run_ip(&["netns", "pids", namespace]) else { break };
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let pids: Vec<Pid> = text.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect();
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            // Gone already is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = ip(&["netns", "del", namespace]);
}

fn run_ip(args: &[&str]) -> std::io::Result<Output> {
    Command::new("ip").args(args).stdin(Stdio::null()).output()
}

/// Runs `ip`.
pub(super) fn ip(args: &[&str]) -> Result<(), NetError> {
    let failed = |said: String| NetError::Command { command: format!("ip {}", args.join(" ")), said };
    let output = run_ip(args).map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
