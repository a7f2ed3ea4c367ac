//! Why a `config.json` or `preprocessor_config.json` is not of a model that can be served. Every message is one line and names the key, what was
//! expected and what was found.

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not JSON, or not an object.
    #[error("{file}: expected a JSON object, found {found}")]
    NotAnObject {
        /// The file.
        file: &'static str,
        /// The parser's complaint or the kind of value.
        found: String,
    },
    /// An architecture that is not known.
    #[error("config.json: `architectures`: expected one of {expected}, found {found}")]
    UnknownArchitecture {
        /// The ones that are served.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A known architecture that this version does not serve.
    #[error("config.json: `architectures`: {architecture} is not served yet, expected one of {expected}")]
    NotServed {
        /// Its name.
        architecture: &'static str,
        /// The ones that are served.
        expected: &'static str,
    },
    /// A key that must be there is not.
    #[error("{file}: `{key}` is missing, expected {expected}")]
    Missing {
        /// The file.
        file: &'static str,
        /// The key, with its parents.
        key: String,
        /// What should stand there.
        expected: String,
    },
    /// A key holds a value of the wrong kind, out of range, or at odds with another key.
    #[error("{file}: `{key}`: expected {expected}, found {found}")]
    Invalid {
        /// The file.
        file: &'static str,
        /// The key, with its parents.
        key: String,
        /// What should stand there.
        expected: String,
        /// What stands there, shortened.
        found: String,
    },
}
