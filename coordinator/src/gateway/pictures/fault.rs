//! What can be wrong with one picture of a request, and its stable code.

use sharding::picture::{ResizeError, Size};

/// Why a picture is not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(in crate::gateway) enum PictureFault {
    /// A picture elsewhere, where none is fetched.
    #[error("pictures by http(s) URL are off here; send a data: URL")]
    RemoteOff,
    /// A picture at a host that is not listed, or that does not stand in the public internet.
    #[error("pictures are not fetched from {host}")]
    HostNotAllowed {
        /// Which, cut short.
        host: String,
    },
    /// It could not be fetched.
    #[error("the picture cannot be fetched: {reason}")]
    Remote {
        /// Why.
        reason: String,
    },
    /// Neither a `data:` URL nor bare base64.
    #[error("expected a data: URL with base64, found {found}")]
    Url {
        /// How it begins, cut short.
        found: String,
    },
    /// The text is no base64.
    #[error("the base64 cannot be decoded: {reason}")]
    Base64 {
        /// What the decoder says.
        reason: String,
    },
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// None of the formats, by its first bytes.
    #[error("expected a PNG, JPEG or WebP file")]
    Format,
    /// The header says more pixels than are taken.
    #[error("found {found} pixels, at most {max} in all")]
    TooLarge {
        /// Its size.
        found: Size,
        /// The bound, pixels.
        max: u64,
    },
    /// Its decoder would take more memory than is allowed: a bomb, or a strip.
    #[error("decoding it takes more than {max} bytes")]
    Memory {
        /// The bound, bytes.
        max: u64,
    },
    /// No size suits it.
    #[error(transparent)]
    Size(#[from] ResizeError),
    /// Broken or cut off.
    #[error("the {format} file cannot be decoded: {reason}")]
    Broken {
        /// What its first bytes claim.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// One more than a prompt may have.
    #[error("found {found} pictures, at most {max} in a prompt")]
    TooMany {
        /// How many the request has.
        found: usize,
        /// The bound.
        max: u16,
    },
}

impl PictureFault {
    /// `code` of the error object.
    pub(in crate::gateway) fn code(&self) -> &'static str {
        match self {
            Self::RemoteOff | Self::HostNotAllowed { .. } => "image_url_not_allowed",
            Self::Remote { .. } => "failed_to_download_image",
            Self::Url { .. } => "invalid_image_url",
            Self::Base64 { .. } => "invalid_base64_image",
            Self::Empty => "empty_image_file",
            Self::Format => "unsupported_image_format",
            Self::TooLarge { .. } | Self::Memory { .. } => "image_too_large",
            Self::Size(_) => "invalid_image_size",
            Self::Broken { .. } => "image_parse_error",
            Self::TooMany { .. } => "too_many_images",
        }
    }
}
