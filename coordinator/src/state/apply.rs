//! The one entrance to change: dispatches a command to its family. The families check first and change after.

use super::{Applied, ClusterState, Command, Refused};

mod deployment;
mod member;
mod node;
mod replica;

impl ClusterState {
    /// Applies `command`, or refuses it and changes nothing.
    ///
    /// # Errors
    /// [`Refused`]: the precondition that does not hold.
    pub fn apply(&mut self, command: Command) -> Result<Applied, Refused> {
        match command {
            Command::Node(c) => node::apply(self, c),
            Command::Deployment(c) => deployment::apply(self, c),
            Command::Replica(c) => replica::apply(self, c),
            Command::Member(c) => member::apply(self, c),
        }
    }
}
