use std::io::Read;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::table::{AMQP_URL, AMQP_URL_FILE, Setting};
use super::target;

/// A URL is far shorter; what is longer is another file.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// Where the broker's URL comes from. It holds a password, so it is a secret.
#[derive(Debug, Clone)]
pub enum Broker {
    Url(SecretString),
    File(PathBuf),
}

/// Why there is no usable URL.
#[derive(Debug, thiserror::Error)]
pub enum BrokerUrlError {
    #[error("{} names {}, which can't be read", AMQP_URL_FILE.variable(), path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} names {}, which holds {found}, expected {}", AMQP_URL_FILE.variable(), path.display(), AMQP_URL.allowed)]
    Unusable { path: PathBuf, found: String },
    #[error("{} is set, but the URL of {} starts with amqp://, which is without TLS; write amqps://", .tls.variable(), .url.variable())]
    NoTls {
        url: &'static Setting,
        tls: &'static Setting,
    },
}

impl Broker {
    /// The URL to connect to now. A file is reread each time, and may end
    /// with a line break; it is read blocking, and is small.
    pub fn url(&self) -> Result<SecretString, BrokerUrlError> {
        let path = match self {
            Self::Url(url) => return Ok(url.clone()),
            Self::File(path) => path,
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
            .map_err(|source| BrokerUrlError::Unreadable {
                path: path.clone(),
                source,
            })?;
        parse(text.trim()).ok_or_else(|| BrokerUrlError::Unusable {
            path: path.clone(),
            found: redacted(text.trim()),
        })
    }

    /// The setting that counts, for messages.
    pub fn setting(&self) -> &'static Setting {
        match self {
            Self::Url(_) => &AMQP_URL,
            Self::File(_) => &AMQP_URL_FILE,
        }
    }
}

pub(super) fn parse(text: &str) -> Option<SecretString> {
    // The client takes an IPv6 address for no host at all, and connects to
    // localhost.
    let url = SecretString::from(text);
    let is_url = target::parse(&url).is_ok() && !text.contains('[');
    is_url.then_some(url)
}

/// Of a URL that [`parse`] took.
pub(super) fn has_tls(url: &SecretString) -> bool {
    target::parse(url).is_ok_and(|(_, target)| target.tls)
}

/// The URL for people: anything that may be a password, or a part of one that was
/// not encoded, is left out. What looks like no URL may be anything at all.
pub(super) fn redacted(url: &str) -> String {
    let scheme = ["amqp", "amqps", "http", "https"]
        .into_iter()
        .find(|scheme| url.split_once("://").is_some_and(|(s, _)| s == *scheme));
    match (scheme, url.rsplit_once('@')) {
        (Some(scheme), Some((_, host))) => format!("\"{scheme}://***@{}\"", host.escape_debug()),
        (Some(scheme), None) => format!("\"{scheme}://…\""),
        (None, _) => format!("a text of {} characters", url.chars().count()),
    }
}

impl Broker {
    /// The URL without its credentials.
    pub fn shown(&self) -> String {
        match self {
            // Quotes are for sentences; this is a field of its own.
            Self::Url(url) => redacted(url.expose_secret()).replace('"', ""),
            Self::File(path) => format!("the URL in {}", path.display()),
        }
    }
}
