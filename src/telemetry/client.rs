//! How exports travel: one HTTP request each, on a connection of its own, in bounded time.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::error::with_sources;
use crate::metrics::Metrics;
use crate::throttle::Throttle;

/// A collector answers with a few bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{0:?} is no URL of a host")]
    NoHost(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("can't connect to {host}")]
    Connect {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the connection to the collector failed")]
    Http(#[from] hyper::Error),
    #[error("the answer can't be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the collector answered with status {0}")]
    Status(u16),
    #[error("the process ends")]
    Ends,
}

/// Why there can be no TLS to the collector.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("OTEL_EXPORTER_OTLP_CERTIFICATE names no file with certificates in PEM")]
    Certificates(#[source] rustls::pki_types::pem::Error),
    #[error("the system has no certificates of authorities")]
    NoAuthorities,
    #[error("TLS can't be set up")]
    SetUp(#[from] rustls::Error),
}

/// Clones share the log.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub runtime: Handle,
    pub timeout: Duration,
    pub tls: Option<Arc<ClientConfig>>,
    pub metrics: Metrics,
    pub log: Arc<Mutex<ExportLog>>,
}

#[async_trait]
impl HttpClient for Client {
    /// Called on a thread of the SDK, which has no runtime.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (limit, tls) = (self.timeout, self.tls.clone());
        let sending = async move {
            let sent = timeout(limit, send(request, tls)).await;
            sent.unwrap_or(Err(SendError::TimedOut(limit)))
        };
        let sent = self.runtime.spawn(sending).await;
        let sent = sent.unwrap_or(Err(SendError::Ends));
        let failure = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(SendError::Status(answer.status().as_u16())),
            Err(_) => None,
        };
        let failure = sent.as_ref().err().or(failure.as_ref());
        self.metrics.telemetry_exported(failure.is_none());
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.exported(Instant::now(), failure);
        drop(log);
        Ok(sent?)
    }
}

/// Logs failures, one a minute at most, and their end.
#[derive(Debug, Default)]
pub(super) struct ExportLog {
    fails: bool,
    throttle: Throttle,
}

impl ExportLog {
    fn exported(&mut self, now: Instant, failure: Option<&SendError>) {
        let failed_before = std::mem::replace(&mut self.fails, failure.is_some());
        match failure {
            Some(error) => {
                if let Some(suppressed) = self.throttle.admit(now) {
                    let error = with_sources(error);
                    tracing::warn!(error, suppressed, "exporting telemetry failed; turns go on");
                }
            }
            None if failed_before => tracing::info!("telemetry is exported again"),
            None => {}
        }
    }
}

/// Trusts the authorities in that file, or the system's. Reads blocking.
pub(super) fn tls(certificates: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match certificates {
        Some(path) => {
            let read = CertificateDer::pem_file_iter(path).map_err(TlsError::Certificates)?;
            for certificate in read {
                roots.add(certificate.map_err(TlsError::Certificates)?)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoAuthorities);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn send(
    request: Request<Bytes>,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Response<Bytes>, SendError> {
    let uri = request.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let no_host = || SendError::NoHost(uri.to_string());
    let is_secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let failed = |source| SendError::Connect {
        host: format!("{host}:{port}"),
        source,
    };
    if host.is_empty() {
        return Err(no_host());
    }
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    match tls.filter(|_| is_secure) {
        None if is_secure => Err(failed(io::Error::other("TLS is not set up"))),
        None => exchange(stream, request).await,
        Some(tls) => {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| no_host())?;
            let stream = TlsConnector::from(tls).connect(name, stream).await;
            exchange(stream.map_err(failed)?, request).await
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Bytes>) -> Result<Response<Bytes>, SendError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(to_host(request)).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(error) => SendError::Answer(error),
        Err(error) => SendError::Answer(error),
    })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// As a server expects it: the path, and the host as a header.
fn to_host(request: Request<Bytes>) -> Request<Full<Bytes>> {
    let (mut head, body) = request.into_parts();
    let host = head.uri.authority().map(|host| host.as_str().to_owned());
    if let Some(host) = host.and_then(|host| host.parse().ok()) {
        head.headers.insert("host", host);
    }
    let path = head.uri.path_and_query();
    if let Some(path) = path.and_then(|path| path.as_str().parse().ok()) {
        head.uri = path;
    }
    Request::from_parts(head, Full::new(body))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Answers one request over TLS, and returns it.
    async fn answer(listener: TcpListener, acceptor: TlsAcceptor) -> String {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"spans") {
            let mut some = [0; 1024];
            let count = stream.read(&mut some).await.unwrap();
            read.extend(&some[..count]);
        }
        let answer = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
        stream.write_all(answer).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn a_request_reaches_a_collector_behind_tls_and_its_answer_comes_back() {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let authority = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(authority.path(), cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(answer(listener, TlsAcceptor::from(Arc::new(config))));
        let request = Request::post(format!("https://localhost:{port}/v1/traces"))
            .header("x-key", "secret")
            .body(Bytes::from_static(b"spans"))
            .unwrap();
        let metrics = Metrics::new(None);
        let client = Client {
            runtime: Handle::current(),
            timeout: Duration::from_secs(60),
            tls: Some(tls(Some(authority.path())).unwrap()),
            metrics: metrics.clone(),
            log: Arc::default(),
        };
        let answer = client.send_bytes(request).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &**answer.body()),
            (503, &b"busy"[..])
        );
        let head = server.await.unwrap();
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let host = format!("host: localhost:{port}\r\n");
        assert!(
            head.contains(&host) && head.contains("x-key: secret\r\n"),
            "{head}"
        );
        // What a collector refuses has failed, too.
        let failed = "turn_worker_telemetry_exports_total{outcome=\"failed\"} 1";
        assert!(metrics.gather_text().unwrap().contains(failed));
    }
}
