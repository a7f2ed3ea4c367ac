//! What the binary's HTTP clients share.
//!
//! Not here: what is asked.

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
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
