//! Pictures by `http(s)` URL: fetched from hosts that an admin has listed, and from nowhere else.
//!
//! Each name is resolved here and its addresses are checked before one of them is connected to, also after a redirect, so a
//! listed name that points inside leads nowhere. Off where no host is listed. Invariant: a request's fetched files are no
//! larger together than its body might be.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, Url};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::public::is_public;
use super::{PictureFault, PictureSource};
use crate::gateway::errors::{ApiError, quote};

/// Longest that all pictures of a request may take to come.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest that a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most redirects of one picture.
const REDIRECTS_MAX: usize = 3;

/// Whether an address may be connected to.
type Rule = fn(IpAddr) -> bool;

/// A way to the listed hosts.
#[derive(Debug)]
pub(in crate::gateway) struct Remote {
    hosts: Arc<Hosts>,
    client: Client,
}

/// Why there is no way to them.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No trusted certificates.
    #[error("certificates: {0}")]
    Tls(#[from] rustls::Error),
    /// No client.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

impl Remote {
    /// To `hosts`, each a name, with a port where it is not the scheme's own. `None` for none.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub(in crate::gateway) fn new(hosts: &[String]) -> Result<Option<Self>, RemoteError> {
        if hosts.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()?
            .with_no_client_auth();
        Self::over(hosts, tls, is_public).map(Some)
    }

    fn over(hosts: &[String], tls: ClientConfig, rule: Rule) -> Result<Self, RemoteError> {
        let listed = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let hosts = Arc::new(Hosts { listed, rule });
        let redirects = hosts.clone();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(Policy::custom(move |attempt| redirects.follow(attempt)))
            .dns_resolver(Arc::new(Resolver(rule)))
            .build()?;
        Ok(Self { hosts, client })
    }

    /// Fetches those of a request's pictures that are not in the request itself, of at most `bytes_max` together.
    ///
    /// # Errors
    /// [`ApiError::Picture`], [`ApiError::Deadline`].
    ///
    /// # Cancel safety
    /// Dropping the future ends what is under way; pictures that have come stay.
    pub(in crate::gateway) async fn fetch(
        this: Option<&Self>,
        sources: &mut [PictureSource],
        bytes_max: usize,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), ApiError> {
        let until = deadline.min(Instant::now() + TIMEOUT);
        let mut left = bytes_max;
        for source in sources.iter_mut().filter(|source| source.is_remote()) {
            let Some(remote) = this else { return Err(source.at_fault(PictureFault::RemoteOff)) };
            let fetched = tokio::time::timeout_at(until.into(), remote.one(source.url(), left)).await;
            let file = match fetched {
                Ok(file) => file.map_err(|fault| source.at_fault(fault))?,
                Err(_) if until == deadline => return Err(ApiError::Deadline { timeout }),
                Err(_) => {
                    let reason = format!("it did not come within {} s", TIMEOUT.as_secs());
                    return Err(source.at_fault(PictureFault::Remote { reason }));
                }
            };
            left -= file.len();
            source.came(file);
        }
        Ok(())
    }

    async fn one(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>, PictureFault> {
        let url = Url::parse(url).map_err(|e| PictureFault::Remote { reason: e.to_string() })?;
        self.hosts.check(&url)?;
        let failed = |e: reqwest::Error| PictureFault::Remote { reason: innermost(&e) };
        let mut response = self.client.get(url).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(PictureFault::Remote { reason: format!("its server answers {}", response.status()) });
        }
        let too_long =
            PictureFault::Remote { reason: format!("more than {bytes_max} bytes are left of the request's limit") };
        if announced(&response) > bytes_max as u64 {
            return Err(too_long);
        }
        let mut file = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            if file.len() + bytes.len() > bytes_max {
                return Err(too_long);
            }
            file.extend_from_slice(&bytes);
        }
        if file.is_empty() { Err(PictureFault::Empty) } else { Ok(file) }
    }
}

fn announced(response: &Response) -> u64 {
    response.content_length().unwrap_or(0)
}

/// What may be asked.
#[derive(Debug)]
struct Hosts {
    /// In lower case.
    listed: Vec<String>,
    rule: Rule,
}

impl Hosts {
    /// Whether a URL is of a listed host. An address in place of a name meets no resolver, so it is checked here.
    fn check(&self, url: &Url) -> Result<(), PictureFault> {
        let host = url.host_str().unwrap_or_default();
        let named = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if !plain || !self.listed.contains(&named) || address.is_ok_and(|address| !(self.rule)(address)) {
            return Err(PictureFault::HostNotAllowed { host: quote(&named) });
        }
        Ok(())
    }

    fn follow(&self, attempt: Attempt<'_>) -> reqwest::redirect::Action {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error(PictureFault::Remote { reason: format!("more than {REDIRECTS_MAX} redirects") });
        }
        match self.check(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(fault) => attempt.error(fault),
        }
    }
}

/// Resolves a name to addresses of which every one may be connected to.
#[derive(Debug)]
struct Resolver(Rule);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rule = self.0;
        Box::pin(async move {
            // The port is the URL's.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.iter().any(|address| !rule(address.ip())) {
                return Err(PictureFault::HostNotAllowed { host: quote(name.as_str()) }.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The innermost cause: the outer ones name the URL and little else.
fn innermost(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// A server on this machine, until it is dropped.
    struct Server {
        port: u16,
        _tasks: JoinSet<()>,
    }

    impl Server {
        /// Answers every request by what `answer` makes of its path, and ends the connection.
        async fn new(answer: fn(&str) -> String) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    let told = answer(head.split(' ').nth(1).unwrap());
                    // Whoever has read enough may have gone.
                    let _ = stream.write_all(told.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
            Self { port, _tasks: tasks }
        }
    }

    fn answer(path: &str) -> String {
        let to = |place: &str| format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n");
        match path {
            "/picture" => "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\npicture".to_owned(),
            "/moved" => to("/picture"),
            "/round" => to("/round"),
            "/away" => to("http://127.0.0.2/picture"),
            "/inside" => to("ftp://127.0.0.1/picture"),
            "/long" => "HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n".to_owned(),
            "/endless" => format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(4096)),
            "/cut" => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npic".to_owned(),
            "/empty" => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
            _ => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        }
    }

    fn remote(hosts: &[String], rule: Rule) -> Remote {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        Remote::over(hosts, tls, rule).unwrap()
    }

    async fn fetch(remote: &Remote, url: &str) -> Result<Vec<u8>, String> {
        tokio::time::timeout(TIMEOUT, remote.one(url, 1000)).await.unwrap().map_err(|fault| fault.to_string())
    }

    #[tokio::test]
    async fn a_listed_host_is_asked_within_its_bounds() {
        let server = Server::new(answer).await;
        let host = format!("LOCALHOST:{}", server.port);
        let remote = remote(&[host], |_| true);
        let ask = async |path: &str| fetch(&remote, &format!("http://localhost:{}{path}", server.port)).await;
        assert_eq!(ask("/picture").await.as_deref(), Ok(b"picture".as_slice()));
        assert_eq!(ask("/moved").await.as_deref(), Ok(b"picture".as_slice()));
        for (path, reason) in [
            ("/round", "more than 3 redirects"),
            ("/away", "not fetched from 127.0.0.2"),
            ("/inside", "not fetched from 127.0.0.1"),
            ("/long", "more than 1000 bytes"),
            ("/endless", "more than 1000 bytes"),
            ("/cut", "cannot be fetched"),
            ("/empty", "empty"),
            ("/nowhere", "404"),
        ] {
            let error = ask(path).await.expect_err(path);
            assert!(error.contains(reason), "{path}: {error}");
        }
    }

    #[tokio::test]
    async fn a_host_that_is_not_listed_or_not_public_is_not_asked() {
        let server = Server::new(|path| panic!("asked for {path}")).await;
        let port = server.port;
        let listed =
            [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}"), "a.example".into()];
        let public = remote(&listed, is_public);
        for url in [
            format!("http://localhost:{port}/"),
            format!("http://127.0.0.1:{port}/"),
            // The same address, otherwise written.
            format!("http://2130706433:{port}/"),
            format!("http://[::1]:{port}/"),
            format!("http://localhost:{}/", port - 1),
            "http://user@a.example/".to_owned(),
            "http://a.example.b/".to_owned(),
            "https://a.example:8443/".to_owned(),
        ] {
            let error = fetch(&public, &url).await.expect_err(&url);
            assert!(error.contains("not fetched from"), "{url}: {error}");
        }
        let asked = PictureSource::new("p".to_owned(), "HTTPS://a.example/".to_owned());
        let off = Remote::fetch(None, &mut [asked], 1, Instant::now() + TIMEOUT, TIMEOUT).await;
        assert_eq!(off.unwrap_err().to_string(), "`p`: pictures by http(s) URL are off here; send a data: URL");
    }
}
