//! Where a picture comes from: the text of an `image_url` part.
//!
//! Taken: `data:[<type>][;<attribute>]*;base64,<base64>` (RFC 2397), whatever type it claims, and base64 without a scheme, as
//! GLM's own API takes it; `http(s)` URLs, once what stands there has been fetched. Not here: fetching, and what kind of file it is.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::PictureFault;
use crate::gateway::errors::{ApiError, quote};

/// Longest head of a `data:` URL, bytes: what stands before the comma.
const HEAD_BYTES_MAX: usize = 256;

/// Some clients leave out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One picture as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct PictureSource {
    /// Which part of the request, for errors: `messages[1].content[0].image_url`.
    pub(in crate::gateway) param: String,
    from: From,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// The URL's text.
    Url(String),
    /// What stood at it.
    Fetched(Vec<u8>),
}

impl PictureSource {
    pub(in crate::gateway) fn new(param: String, url: String) -> Self {
        Self { param, from: From::Url(url) }
    }

    /// Whether its file is still elsewhere.
    pub(super) fn is_remote(&self) -> bool {
        let url = self.url().trim_start();
        ["http://", "https://"].iter().any(|scheme| starts_with(url, scheme))
    }

    /// The URL's text; nothing once the file has come.
    pub(super) fn url(&self) -> &str {
        match &self.from {
            From::Url(url) => url,
            From::Fetched(_) => "",
        }
    }

    /// Takes over what stood at the URL.
    pub(super) fn came(&mut self, file: Vec<u8>) {
        self.from = From::Fetched(file);
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`PictureFault::Url`], [`PictureFault::Base64`], [`PictureFault::Empty`].
    pub(super) fn bytes(&self) -> Result<Cow<'_, [u8]>, PictureFault> {
        let url = match &self.from {
            From::Url(url) => url,
            From::Fetched(file) => return Ok(Cow::Borrowed(file)),
        };
        let text = base64_of(url.trim())?;
        let bytes = BASE64.decode(text).map_err(|e| PictureFault::Base64 { reason: e.to_string() })?;
        if bytes.is_empty() { Err(PictureFault::Empty) } else { Ok(Cow::Owned(bytes)) }
    }

    /// An error about this picture.
    pub(in crate::gateway) fn at_fault(&self, fault: PictureFault) -> ApiError {
        ApiError::Picture { param: self.param.clone(), fault }
    }
}

/// Whatever the case.
fn starts_with(url: &str, scheme: &str) -> bool {
    url.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
}

fn base64_of(url: &str) -> Result<&str, PictureFault> {
    let unknown = || PictureFault::Url { found: quote(&url.chars().take(40).collect::<String>()) };
    if starts_with(url, "data:") {
        let comma = url.bytes().take(HEAD_BYTES_MAX).position(|b| b == b',').ok_or_else(unknown)?;
        let encoded = url[..comma].rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64"));
        return if encoded { Ok(&url[comma + 1..]) } else { Err(unknown()) };
    }
    if url.bytes().take(HEAD_BYTES_MAX).any(|b| b == b':') {
        return Err(unknown());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(url: &str) -> Result<Vec<u8>, PictureFault> {
        PictureSource::new("p".to_owned(), url.to_owned()).bytes().map(Cow::into_owned)
    }

    #[test]
    fn the_bytes_of_a_data_url() {
        for url in [
            "data:image/png;base64,aGk=",
            "DATA:;Base64,aGk=",
            "data:image/png;name=a.png;base64,aGk",
            " data:text/plain;base64,aGk=\n",
            "aGk=",
        ] {
            assert_eq!(bytes(url).as_deref(), Ok(b"hi".as_slice()), "{url}");
        }
    }

    #[test]
    fn what_is_no_data_url_is_named() {
        let far = format!("data:image/png;{}base64,aGk=", "x".repeat(300));
        for url in ["data:image/png,hi", "data:image/png;base64", "file:///etc/passwd", "ftp://a/b.png", far.as_str()] {
            assert!(matches!(bytes(url), Err(PictureFault::Url { .. })), "{url}");
        }
        assert!(matches!(bytes("data:;base64,a*k="), Err(PictureFault::Base64 { .. })));
        assert!(bytes("data:;base64,aGk").is_ok());
        assert_eq!(bytes("data:;base64,"), Err(PictureFault::Empty));
        assert_eq!(bytes(""), Err(PictureFault::Empty));
    }
}
