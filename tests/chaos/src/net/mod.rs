//! Hosts with addresses of their own and a network between them that can be made as bad as wanted.
//!
//! ```text
//!  namespace sg<pid>x<n>-NAME                         this process
//!  ┌──────────────────────┐   TAP: what leaves eth0   ┌─────────────────────────────┐
//!  │ eth0 10.77.0.<port>  │ ◀────────────────────────▶│ switch thread, port <port>  │
//!  └──────────────────────┘                           │ `Weather`: each direction   │
//!                                                     └─────────────────────────────┘
//! ```
//! Not here: what runs on the hosts. Invariant: namespaces go with the [`Net`], and those of a process that was killed go
//! when the next one starts.

mod host;
mod orphans;
mod switch;
mod weather;

use std::sync::Arc;

pub use host::{Host, Port};
use switch::Switch;
pub use weather::{LinkState, Weather};

/// Why there are no hosts, or why something about them failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Namespaces need root.
    #[error("hosts are network namespaces, which takes root (this is user {0})")]
    NotRoot(u32),
    /// No TAP devices.
    #[error("/dev/net/tun cannot be opened: {0}")]
    NoTap(std::io::Error),
    /// A command failed.
    #[error("`{command}` failed: {said}")]
    Command {
        /// With its arguments.
        command: String,
        /// What it printed, or why it did not run.
        said: String,
    },
    /// A TAP device or the switch's thread.
    #[error("the switch: {0}")]
    Switch(#[source] std::io::Error),
    /// Entering a host's namespace.
    #[error("cannot enter host {host}: {source}")]
    Enter {
        /// Which.
        host: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Hosts on one switch.
#[derive(Debug)]
pub struct Net {
    // In the order of dropping: nobody sends into a switch that is gone.
    hosts: Vec<Host>,
    switch: Switch,
}

impl Net {
    /// Whether this machine can have hosts.
    ///
    /// # Errors
    /// Why not, for a test to skip loudly with.
    pub fn possible() -> Result<(), NetError> {
        let user = rustix::process::geteuid();
        if !user.is_root() {
            return Err(NetError::NotRoot(user.as_raw()));
        }
        std::fs::File::open("/dev/net/tun").map(drop).map_err(NetError::NoTap)?;
        host::ip(&["-V"])
    }

    /// Hosts of these names on a switch whose chance is drawn from `seed`.
    ///
    /// # Errors
    /// [`NetError`]; what was made until then is gone again.
    pub fn new(names: &[&str], seed: u64) -> Result<Self, NetError> {
        Self::possible()?;
        orphans::remove();
        let prefix = orphans::prefix();
        let (mut hosts, mut taps) = (Vec::new(), Vec::new());
        for (i, name) in names.iter().enumerate() {
            let port = Port(u8::try_from(i + 1).unwrap_or(u8::MAX));
            let (host, tap) = Host::create(&prefix, name, port, names.len())?;
            hosts.push(host);
            taps.push(tap);
        }
        Ok(Self { hosts, switch: Switch::start(taps, seed)? })
    }

    /// A host by name.
    ///
    /// # Panics
    /// For a name that was not given to [`Self::new`].
    #[must_use]
    #[track_caller]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|h| h.name() == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// All of them, by port.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The state of every link, to be changed at any time.
    #[must_use]
    pub fn weather(&self) -> Arc<Weather> {
        self.switch.weather()
    }
}
