//! Why a checkpoint directory is refused. Every message is one line.

use std::path::PathBuf;

use crate::spec::SpecError;

/// Why a checkpoint directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be opened, read or mapped.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is not a model that can be served.
    #[error("{}: {source}", dir.display())]
    Spec {
        /// The checkpoint directory.
        dir: PathBuf,
        /// What is wrong.
        source: Box<SpecError>,
    },
    /// A file that must be there is not.
    #[error("{}: expected {expected}, found no such file", dir.display())]
    MissingFile {
        /// The checkpoint directory.
        dir: PathBuf,
        /// The file's name, or the choice of names.
        expected: &'static str,
    },
    /// A file larger than anything legitimate.
    #[error("{}: expected at most {max} bytes, found {found}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, bytes.
        max: u64,
        /// Its size, bytes.
        found: u64,
    },
    /// A JSON file that does not parse or lacks what it must hold.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// The parser's complaint, or what stands there.
        found: String,
    },
    /// A length of a header that cannot be.
    #[error("{}: header: expected at most {max} bytes, found a header of {found}", path.display())]
    HeaderTooLong {
        /// The file.
        path: PathBuf,
        /// The bound, bytes.
        max: u64,
        /// What the file claims, bytes.
        found: u64,
    },
    /// The file ends before its header says.
    #[error("{}: truncated: expected {expected} bytes, found {found}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The file goes on after its last tensor.
    #[error("{}: expected {expected} bytes by its header, found {found}", path.display())]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// Two tensors share bytes, or nobody owns some.
    #[error("{}: tensor `{tensor}`: expected its bytes to start at {expected}, found {found}", path.display())]
    Offsets {
        /// The file.
        path: PathBuf,
        /// The tensor whose place is wrong.
        tensor: String,
        /// Where the one before it ends, bytes after the header.
        expected: u64,
        /// Where it starts, bytes after the header.
        found: u64,
    },
    /// A tensor whose number of bytes does not follow from its shape and dtype.
    #[error("{}: tensor `{tensor}`: expected {expected} bytes for {dtype} {shape:?}, found {found}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype as stored.
        dtype: String,
        /// Its shape as stored.
        shape: Vec<u64>,
        /// Bytes by shape and dtype.
        expected: u64,
        /// Bytes by its offsets.
        found: u64,
    },
    /// A tensor that stands twice.
    #[error("tensor `{tensor}`: expected once, found in {} and in {}", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// The file that has it first.
        first: PathBuf,
        /// The file that has it again.
        second: PathBuf,
    },
    /// The index names a weight file that cannot be one.
    #[error("{}: tensor `{tensor}`: expected a weight file beside the index, found `{found}`", index.display())]
    IndexFile {
        /// The index.
        index: PathBuf,
        /// A tensor that should be in it.
        tensor: String,
        /// What the index names, shortened.
        found: String,
    },
    /// The index places a tensor in a file that does not have it.
    #[error("tensor `{tensor}`: expected in {} by the index, found no such tensor there", path.display())]
    NotInFile {
        /// The tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
    },
    /// A tensor that the model needs.
    #[error("{}: tensor `{tensor}`: expected shape {expected:?}, found no such tensor", dir.display())]
    MissingTensor {
        /// The checkpoint directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape by the configuration.
        expected: Vec<u32>,
    },
    /// A layer beyond those that the configuration counts.
    #[error("{}: tensor `{tensor}`: expected {layers} layers by config.json, found layer {found}", dir.display())]
    ExtraLayer {
        /// The checkpoint directory.
        dir: PathBuf,
        /// One of its tensors.
        tensor: String,
        /// Layers by the configuration.
        layers: u32,
        /// The layer's number, from 0.
        found: u32,
    },
    /// A shape that does not fit the configuration.
    #[error("{}: tensor `{tensor}`: expected shape {expected:?} by config.json, found {found:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape by the configuration.
        expected: Vec<u32>,
        /// Its shape as stored.
        found: Vec<u64>,
    },
    /// A dtype that is not read.
    #[error("{}: tensor `{tensor}`: expected dtype BF16, F16 or F32, found {found}", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype as stored.
        found: String,
    },
    /// A tokenizer or a stop id of another model.
    #[error(
        "{}: a tokenizer that does not match: expected ids below vocab_size {vocab_size}, found {found} ({token})",
        path.display()
    )]
    TokenizerMismatch {
        /// The file that has the id.
        path: PathBuf,
        /// The model's vocabulary.
        vocab_size: u32,
        /// The id.
        found: u64,
        /// Whose id it is.
        token: String,
    },
    /// A directory whose name or path is not text.
    #[error("{}: expected a directory with a name in UTF-8", dir.display())]
    Name {
        /// The checkpoint directory.
        dir: PathBuf,
    },
    /// A file that changed its size between two looks.
    #[error("{}: changed while it was read: expected {expected} bytes, found {found}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its size when its header was read, bytes.
        expected: u64,
        /// Its size when it was mapped, bytes.
        found: u64,
    },
}
