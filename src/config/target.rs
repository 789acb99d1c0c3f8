//! Where the broker is: the AMQP URL taken apart, and its name without what is secret.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use lapin::uri::{AMQPUri, SASLMechanism};
use secrecy::{ExposeSecret, SecretString};

/// What a URL's `heartbeat` may ask for, in seconds. Without heartbeats (0), a
/// host that vanishes would keep its turns for ever.
pub(crate) const HEARTBEATS_S: RangeInclusive<u16> = 1..=60;

/// A broker's virtual host, shown as `host:port/vhost`; never holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub vhost: String,
    /// Not shown: it stands here to name who was refused.
    pub user: String,
    pub tls: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        // As in a URL, so that the default virtual host `/` can be seen.
        let vhost = self.vhost.replace('/', "%2f");
        if host.contains(':') {
            write!(f, "[{host}]:{port}/{vhost}")
        } else {
            write!(f, "{host}:{port}/{vhost}")
        }
    }
}

/// What is wrong with an AMQP URL, said without quoting it: it holds a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    #[error(
        "it has no scheme; expected amqp://user:password@host:port/vhost (the virtual host / is written %2f), or amqps://…"
    )]
    NoScheme,
    #[error("its scheme is {0:?}; expected amqp or amqps")]
    Scheme(String),
    #[error("its heartbeat is {found} s; expected {} to {}", HEARTBEATS_S.start(), HEARTBEATS_S.end())]
    Heartbeat { found: u16 },
    #[error(
        "{0}; expected amqp://user:password@host:port/vhost (the virtual host / is written %2f), or amqps://…"
    )]
    Malformed(String),
}

/// Takes the URL apart.
pub(crate) fn parse(url: &SecretString) -> Result<(AMQPUri, Arc<Target>), UrlError> {
    let text = url.expose_secret().trim();
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
    // Before lapin's parser sees it: two of that one's messages quote the URL.
    if !matches!(scheme.to_ascii_lowercase().as_str(), "amqp" | "amqps") {
        let shown = scheme.chars().all(|c| c.is_ascii_alphanumeric()) && scheme.len() <= 8;
        return Err(UrlError::Scheme(
            if shown { scheme } else { "…" }.to_owned(),
        ));
    }
    // A `/`, `?` or `#` in the password, not encoded, makes the rest of it part of
    // the virtual host, which is shown.
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if rest[authority.len()..].contains('@') {
        let found =
            "an @ comes after a /, ? or #; in a password or virtual host, each is percent-encoded";
        return Err(UrlError::Malformed(found.to_owned()));
    }
    let mut uri: AMQPUri = text.parse().map_err(UrlError::Malformed)?;
    // lapin panics on a longer one.
    if uri.vhost.len() > 255 {
        let found = format!(
            "its virtual host has {} bytes, more than 255",
            uri.vhost.len()
        );
        return Err(UrlError::Malformed(found));
    }
    if let Some(heartbeat) = uri.query.heartbeat
        && !HEARTBEATS_S.contains(&heartbeat)
    {
        return Err(UrlError::Heartbeat { found: heartbeat });
    }
    if let Some(host) = ipv6_host(rest) {
        uri.authority.host = host.to_owned();
    }
    let user = match uri.query.auth_mechanism {
        // The URL's, or lapin's `guest`, plays no part.
        Some(SASLMechanism::External) => "(that of the client certificate)".to_owned(),
        _ => uri.authority.userinfo.username.clone(),
    };
    let target = Target {
        host: uri.authority.host.clone(),
        port: uri.authority.port,
        vhost: uri.vhost.clone(),
        user,
        tls: matches!(uri.scheme, lapin::uri::AMQPScheme::AMQPS),
    };
    Ok((uri, Arc::new(target)))
}

/// The address in `user@[::1]:5672/…`: lapin's parser silently takes `localhost` for it.
fn ipv6_host(rest: &str) -> Option<&str> {
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.strip_prefix('[')?.split(']').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::connect::ConnectError;

    fn target(url: &str) -> Result<Arc<Target>, UrlError> {
        parse(&SecretString::from(url)).map(|(_, target)| target)
    }

    #[test]
    fn a_target_is_shown_without_user_and_password() {
        for (url, shown) in [
            ("amqp://u:s3cret@mq.example:5673/%2f", "mq.example:5673/%2f"),
            ("amqp://mq.example", "mq.example:5672/%2f"),
            (
                "amqps://u:s3cret@mq.example/turns\n",
                "mq.example:5671/turns",
            ),
            ("amqp://u:s3cret@[::1]:5673/turns", "[::1]:5673/turns"),
            ("amqp://u:s3cret@10.0.0.1/turns", "10.0.0.1:5672/turns"),
            ("amqp://mq.example/", "mq.example:5672/"),
        ] {
            assert_eq!(target(url).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn an_empty_virtual_host_is_explained() {
        let missing = |url: &str| {
            let target = target(url).unwrap();
            let detail = "not found".to_owned();
            ConnectError::VhostMissing { target, detail }.to_string()
        };
        assert!(missing("amqp://mq.example/").contains("is written %2f): not found"));
        assert!(!missing("amqp://mq.example/turns").contains("%2f"));
    }

    #[test]
    fn g8_no_error_about_the_url_quotes_it() {
        for url in [
            "",
            "s3cret",
            "u:s3cret@mq.example",
            "http://u:s3cret@mq.example",
            "s3cretword://mq.example",
            "amqp://u:s3cret@mq.example:port/",
            "amqp://u:s3cret@mq.example:99999/",
            "amqp://u:s3cret@[::1/",
            "amqp://u:s3cret%ff@mq.example/",
            "amqp://u:s3cret@mq.example/?heartbeat=often",
            "amqp:u:s3cret@mq.example",
            "amqp://u:1/s3cret@mq.example",
            "amqp://u:1?s3cret@mq.example",
            "amqp://u:1#s3cret@mq.example/v",
        ] {
            let error = target(url).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn an_error_about_the_url_says_what_is_allowed() {
        assert_eq!(
            target("http://mq.example").unwrap_err().to_string(),
            "its scheme is \"http\"; expected amqp or amqps"
        );
        assert_eq!(
            target("amqp://mq.example/%2f?heartbeat=0")
                .unwrap_err()
                .to_string(),
            "its heartbeat is 0 s; expected 1 to 60"
        );
    }
}
