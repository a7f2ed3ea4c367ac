//! The header of one safetensors file: 8 bytes of length, a JSON object, then the tensors' bytes without gaps.
//!
//! Not here: reading tensors. Invariant: every entry that comes out lies inside the file, shares no byte with another
//! and has as many bytes as its shape and dtype ask for.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::CheckpointError;

/// Longest header that is believed, bytes.
const HEADER_BYTES_MAX: u64 = 64 << 20;
/// Most dimensions of a tensor.
const DIMS_MAX: usize = 8;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredDtype {
    /// bfloat16, 2 bytes.
    Bf16,
    /// IEEE half, 2 bytes.
    F16,
    /// IEEE single, 4 bytes.
    F32,
    /// Anything else: legal in tensors that nobody reads.
    Other(String),
}

impl StoredDtype {
    fn from_name(name: String) -> Self {
        match name.as_str() {
            "BF16" => Self::Bf16,
            "F16" => Self::F16,
            "F32" => Self::F32,
            _ => Self::Other(name.chars().take(20).collect()),
        }
    }

    /// The name it has in a header.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F32 => "F32",
            Self::Other(name) => name,
        }
    }

    /// Bytes of one element; `None` for a dtype that is not read.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Bf16 | Self::F16 => Some(2),
            Self::F32 => Some(4),
            Self::Other(_) => None,
        }
    }
}

/// One tensor of a header.
#[derive(Debug, Clone)]
pub(super) struct HeaderEntry {
    pub(super) name: String,
    pub(super) dtype: StoredDtype,
    pub(super) shape: Vec<u64>,
    /// From the start of the file.
    pub(super) bytes: Range<u64>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads and checks the header of `path`; gives its entries in file order and the file's size in bytes.
pub(super) fn read(path: &Path) -> Result<(Vec<HeaderEntry>, u64), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(CheckpointError::Truncated { path: path.to_owned(), expected: 8, found: size });
    }
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return Err(CheckpointError::HeaderTooLong { path: path.to_owned(), max: HEADER_BYTES_MAX, found: length });
    }
    if length > size - 8 {
        return Err(CheckpointError::Truncated { path: path.to_owned(), expected: 8 + length, found: size });
    }
    let mut json = Vec::new();
    file.take(length).read_to_end(&mut json).map_err(io)?;
    let RawHeader(raw) = serde_json::from_slice(&json).map_err(|e| CheckpointError::Json {
        path: path.to_owned(),
        expected: "a safetensors header",
        found: e.to_string().chars().take(200).collect(),
    })?;
    let entries = check(path, raw, 8 + length, size)?;
    Ok((entries, size))
}

fn check(
    path: &Path,
    raw: Vec<(String, RawEntry)>,
    data_start: u64,
    size: u64,
) -> Result<Vec<HeaderEntry>, CheckpointError> {
    let mut entries = BTreeMap::new();
    for (name, raw) in raw {
        let (start, end) = raw.data_offsets;
        let dtype = StoredDtype::from_name(raw.dtype);
        let found = end.checked_sub(start);
        let expected = match dtype.bytes() {
            Some(width) => raw.shape.iter().try_fold(width, |n, d| n.checked_mul(*d)),
            None => found,
        };
        if raw.shape.len() > DIMS_MAX || found.is_none() || expected != found {
            return Err(CheckpointError::Size {
                path: path.to_owned(),
                tensor: name,
                dtype: dtype.name().to_owned(),
                shape: raw.shape.into_iter().take(DIMS_MAX).collect(),
                expected: expected.unwrap_or(u64::MAX),
                found: found.unwrap_or(0),
            });
        }
        // Keyed by place, then by name: empty tensors may share a place.
        entries.insert((start, end, name), (dtype, raw.shape));
    }
    let mut at = 0;
    let mut out = Vec::with_capacity(entries.len());
    for ((start, end, name), (dtype, shape)) in entries {
        if start != at {
            return Err(CheckpointError::Offsets { path: path.to_owned(), tensor: name, expected: at, found: start });
        }
        at = end;
        // `start` was checked; a sum past the end of u64 is past the end of any file.
        let bytes = data_start.saturating_add(start)..data_start.saturating_add(end);
        out.push(HeaderEntry { name, dtype, shape, bytes });
    }
    let expected = data_start.saturating_add(at);
    match expected.cmp(&size) {
        std::cmp::Ordering::Equal => Ok(out),
        std::cmp::Ordering::Greater => Err(CheckpointError::Truncated { path: path.to_owned(), expected, found: size }),
        std::cmp::Ordering::Less => {
            Err(CheckpointError::TrailingBytes { path: path.to_owned(), expected, found: size })
        }
    }
}

/// The JSON object as a list: a map would swallow a name that stands twice.
struct RawHeader(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut names = std::collections::BTreeSet::new();
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!("tensor `{name}` twice")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}
