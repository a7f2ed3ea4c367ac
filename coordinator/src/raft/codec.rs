//! The one place where Raft's records become bytes, on disk and between coordinators.
//!
//! ```text
//!  0         1                    5
//!  ┌─────────┬────────────────────┬──────────────────────┐
//!  │ version │ crc32 of payload   │ payload (bincode)    │   little endian
//!  └─────────┴────────────────────┴──────────────────────┘
//! ```
//! Not here: what the records mean. Invariant: bytes that were changed since are never taken for a record.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the payloads' layout, of whatever type: bincode names no fields, so that a record of another layout could be
/// misread. 1: first. 2: pictures of a deployment, ids of members that were used.
const VERSION: u8 = 2;
const HEADER_BYTES: usize = 5;
/// Most bytes that decoding one record may take, whatever lengths the record claims.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Why bytes are not the record they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not even a header.
    #[error("record of {found} bytes, expected at least {HEADER_BYTES}")]
    Short {
        /// How many there are.
        found: usize,
    },
    /// Written by another version.
    #[error("record of version {found}, expected {VERSION}: go on with the shardglm that wrote it")]
    Version {
        /// Its version.
        found: u8,
    },
    /// Changed since it was written.
    #[error("record checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// What the header says.
        expected: u32,
        /// What the payload has.
        found: u32,
    },
    /// Whole, but not of the type that was asked for.
    #[error("record of {bytes} bytes cannot be decoded: {reason}")]
    Payload {
        /// The payload's length.
        bytes: usize,
        /// What the decoder says.
        reason: String,
    },
}

/// The record of `value`.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let payload = bincode::serde::encode_to_vec(value, config())
        .expect("records are plain data: no maps of unknown length, no I/O, nothing that can fail");
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.push(VERSION);
    out.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    out.extend_from_slice(&payload);
    out
}

/// Checks and reads a record.
///
/// # Errors
/// [`CodecError`]: what is wrong with the bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (header, payload) =
        bytes.split_first_chunk::<HEADER_BYTES>().ok_or(CodecError::Short { found: bytes.len() })?;
    let [version, crc @ ..] = *header;
    if version != VERSION {
        return Err(CodecError::Version { found: version });
    }
    let (expected, found) = (u32::from_le_bytes(crc), crc32fast::hash(payload));
    if expected != found {
        return Err(CodecError::Checksum { expected, found });
    }
    let wrong = |reason: String| CodecError::Payload { bytes: payload.len(), reason };
    let (value, used) = bincode::serde::decode_from_slice(payload, config()).map_err(|e| wrong(e.to_string()))?;
    if used != payload.len() {
        return Err(wrong(format!("{} bytes are left over", payload.len() - used)));
    }
    Ok(value)
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<RECORD_BYTES_MAX>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{CoordinatorId, Epoch, Generation, ReplicaId};

    use super::*;
    use crate::state::fixtures::{addr, inventory, node, plan, spec};
    use crate::state::{ClusterState, Command, DeploymentCommand, MemberCommand, NodeCommand, ReplicaCommand};

    fn command() -> Command {
        Command::Replica(ReplicaCommand::Lose { replica: ReplicaId(3), epoch: Epoch(300), reason: "a".into() })
    }

    #[test]
    fn golden_bytes_of_a_command() {
        let expected = [2, 85, 203, 23, 103, 2, 3, 3, 251, 44, 1, 1, 97];
        assert_eq!(encode(&command()), expected);
    }

    /// One of every command that changes a fresh state, in an order in which each applies.
    fn commands() -> Vec<Command> {
        let (replica, epoch) = (ReplicaId(0), Epoch(1));
        let register = NodeCommand::Register { node: node(1), incarnation: 7, inventory: inventory(1) };
        let create = ReplicaCommand::Create { deployment: "nano".into(), generation: Generation(1) };
        let form = ReplicaCommand::Form { replica, epoch, plan: plan(&[node(1)]) };
        let ready = ReplicaCommand::CommitReady { replica, epoch, addrs: vec![addr(0, node(1))] };
        let unreadable = DeploymentCommand::Unreadable { name: "other".into(), reason: Some("gone".into()) };
        vec![
            Command::Node(register),
            Command::Deployment(DeploymentCommand::Put { expected: None, spec: Box::new(spec(1, 1)) }),
            Command::Deployment(unreadable),
            Command::Replica(create),
            Command::Replica(form),
            Command::Replica(ready),
            Command::Member(MemberCommand::Admit { id: CoordinatorId(4) }),
        ]
    }

    /// Where this fails, records that are on disks mean something else now: raise [`VERSION`], and say above what changed.
    #[test]
    fn the_layout_of_what_is_stored_is_the_one_of_its_version() {
        let mut state = ClusterState::default();
        let mut all = Vec::new();
        for command in commands() {
            all.extend(encode(&command));
            state.apply(command).expect("each applies");
        }
        let of_state = encode(&state);
        let layout = (VERSION, all.len(), crc32fast::hash(&all), of_state.len(), crc32fast::hash(&of_state));
        assert_eq!(layout, (2, 510, 2_157_317_880, 823, 4_266_281_501));
        assert_eq!(decode::<ClusterState>(&of_state), Ok(state));
    }

    #[test]
    fn a_record_of_another_type_or_version_is_refused() {
        let mut bytes = encode(&7u64);
        assert!(matches!(decode::<String>(&bytes), Err(CodecError::Payload { .. })));
        bytes[0] = 9;
        assert_eq!(decode::<u64>(&bytes), Err(CodecError::Version { found: 9 }));
        assert_eq!(decode::<u64>(&bytes[..4]), Err(CodecError::Short { found: 4 }));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(bit in 0..8u32, at in any::<prop::sample::Index>()) {
            let mut bytes = encode(&command());
            let i = at.index(bytes.len());
            bytes[i] ^= 1 << bit;
            prop_assert!(decode::<Command>(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Command>(&bytes);
            let _ = decode::<crate::state::ClusterState>(&bytes);
        }
    }
}
