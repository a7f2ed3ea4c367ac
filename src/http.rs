//! What the binary's HTTP clients share.
//!
//! Not here: what is asked.

use std::error::Error;
use std::time::Duration;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An HTTPS client that trusts what `tls` trusts and nothing else; each call ends within `timeout`.
///
/// # Errors
/// A client that cannot be built.
pub(crate) fn pinned(tls: rustls::ClientConfig, timeout: Duration) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    Ok(builder.connect_timeout(CONNECT_TIMEOUT).timeout(timeout).build()?)
}

/// The innermost cause: reqwest's own words name the URL again and little else.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn Error = error;
    while let Some(source) = inside(inner) {
        inner = source;
    }
    inner.to_string()
}

/// Whether the server showed a certificate that is not trusted: trying again cannot help.
pub(crate) fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut chain = std::iter::successors(Some(error as &dyn Error), |e| inside(*e));
    chain.any(|e| matches!(e.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

/// What an error is about; an I/O error hides what it wraps from `source`.
fn inside<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}
