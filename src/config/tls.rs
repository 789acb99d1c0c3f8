use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::table::{AMQP_CA_FILE, AMQP_CLIENT_CERT_FILE, AMQP_CLIENT_KEY_FILE, Setting};

/// A system's whole bundle of authorities has a quarter of that.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The files for TLS to the broker. All are reread at every connect, so
/// that they can be rotated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The only authorities that are trusted; without it, the system's are.
    pub ca: Option<PathBuf>,
    /// What we show a broker that asks who we are.
    pub client: Option<ClientFiles>,
}

/// A certificate, with those that it rests on, and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why TLS can't be used. No part of a file's content is reported.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} names {}, which can't be read", .setting.variable(), path.display())]
    Unreadable {
        setting: &'static Setting,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} names {}, which {found}; expected {}", .setting.variable(), path.display(), .setting.allowed)]
    Unusable {
        setting: &'static Setting,
        path: PathBuf,
        found: String,
    },
    #[error("the system has no certificates of authorities; {} can name the broker's", AMQP_CA_FILE.variable())]
    NoSystemAuthorities(#[source] io::Error),
    #[error("TLS can't be set up")]
    SetUp(#[source] io::Error),
}

impl TlsFiles {
    /// The first of its settings that is set.
    pub fn set_by(&self) -> Option<&'static Setting> {
        match self {
            Self { ca: Some(_), .. } => Some(&AMQP_CA_FILE),
            Self {
                client: Some(_), ..
            } => Some(&AMQP_CLIENT_CERT_FILE),
            _ => None,
        }
    }

    /// What connects by these files as they are now. Reads them blocking.
    pub fn connector(&self) -> Result<RustlsConnector, TlsError> {
        let trusting = match &self.ca {
            Some(path) => {
                RustlsConnectorConfig::default().with_parsable_certificates(authorities(path)?)
            }
            None => RustlsConnectorConfig::new_with_native_certs()
                .map_err(TlsError::NoSystemAuthorities)?,
        };
        let Some(ClientFiles { certificate, key }) = &self.client else {
            return trusting
                .connector_with_no_client_auth()
                .map_err(TlsError::SetUp);
        };
        let chain = certificates(&AMQP_CLIENT_CERT_FILE, certificate)?;
        trusting
            .connector_with_single_cert(chain, private_key(key)?)
            .map_err(|error| TlsError::Unusable {
                setting: &AMQP_CLIENT_KEY_FILE,
                path: key.clone(),
                found: format!(
                    "does not go with the certificate in {} ({error})",
                    certificate.display()
                ),
            })
    }
}

fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = certificates(&AMQP_CA_FILE, path)?;
    // Tried one by one, since the connector leaves out what it can't use.
    let mut tried = RootCertStore::empty();
    for (index, certificate) in all.iter().enumerate() {
        tried.add(certificate.clone()).map_err(|error| {
            let number = index + 1;
            unusable(
                &AMQP_CA_FILE,
                path,
                format!("has a certificate, number {number}, that can't be used ({error})"),
            )
        })?;
    }
    Ok(all)
}

fn certificates(
    setting: &'static Setting,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(setting, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(unusable(setting, path, "holds no certificate")),
        Ok(all) => Ok(all),
        Err(error) => Err(unusable(setting, path, damaged(&error))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let setting = &AMQP_CLIENT_KEY_FILE;
    let text = read(setting, path)?;
    if is_encrypted(&text) {
        return Err(unusable(
            setting,
            path,
            "holds a key that is encrypted with a password (`openssl pkey` decrypts it)",
        ));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(setting, path, "holds no private key"),
        error => unusable(setting, path, damaged(&error)),
    })
}

/// As PKCS #8 says it, and as openssl's older form does.
fn is_encrypted(text: &[u8]) -> bool {
    [
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----".as_slice(),
        b"Proc-Type: 4,ENCRYPTED",
    ]
    .iter()
    .any(|mark| memchr::memmem::find(text, mark).is_some())
}

/// Without the library's words, which may quote what the file holds.
fn damaged(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "ends in the middle of a PEM section",
        pem::Error::Base64Decode(_) => "has a PEM section that is no base64",
        _ => "is no sound PEM file",
    }
}

fn read(setting: &'static Setting, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Unreadable {
            setting,
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

fn unusable(setting: &'static Setting, path: &Path, found: impl Into<String>) -> TlsError {
    TlsError::Unusable {
        setting,
        path: path.to_owned(),
        found: found.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }

        fn told(&self, files: &TlsFiles) -> String {
            crate::error::with_sources(&files.connector().unwrap_err())
        }
    }

    #[test]
    fn a_file_that_cant_be_used_is_named_with_its_setting_and_what_is_wrong() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (cert.pem(), signing_key.serialize_pem());
        let certificate = folder.file("cert", &cert);

        let cut = &cert[..cert.len() / 2];
        let no_base64 = cert.replacen('\n', "\n?", 2);
        let no_certificate = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let second_is_wrong = format!("{cert}{no_certificate}");
        for (name, text, found) in [
            ("empty", "", "holds no certificate"),
            ("a-key", &key, "holds no certificate"),
            ("no-text", "\u{0}\u{1}", "holds no certificate"),
            ("cut", cut, "ends in the middle of a PEM section"),
            ("no-base64", &no_base64, "that is no base64"),
            ("second", &second_is_wrong, "number 2, that can't be used"),
        ] {
            let path = folder.file(name, text);
            let told = folder.told(&TlsFiles {
                ca: Some(path.clone()),
                client: None,
            });
            let prefix = format!("TURN_WORKER_AMQP_CA_FILE names {}, which ", path.display());
            assert!(told.starts_with(&prefix), "{told}");
            assert!(told.contains(found), "{name}: {told}");
            assert!(told.contains("expected a path to certificates"), "{told}");
        }
        let missing = folder.0.path().join("missing");
        let told = folder.told(&TlsFiles {
            ca: Some(missing),
            client: None,
        });
        assert!(
            told.contains("missing, which can't be read: No such file"),
            "{told}"
        );

        let other_key = KeyPair::generate().unwrap().serialize_pem();
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\naGVsbG8=\n-----END RSA PRIVATE KEY-----\n";
        for (name, text, found) in [
            ("no-key", cert.as_str(), "holds no private key"),
            ("encrypted", &encrypted, "encrypted with a password"),
            ("older", older, "encrypted with a password"),
            ("other", &other_key, "does not go with the certificate in"),
        ] {
            let path = folder.file(name, text);
            let told = folder.told(&TlsFiles {
                ca: Some(certificate.clone()),
                client: Some(ClientFiles {
                    certificate: certificate.clone(),
                    key: path.clone(),
                }),
            });
            let prefix = format!(
                "TURN_WORKER_AMQP_CLIENT_KEY_FILE names {}, which ",
                path.display()
            );
            assert!(told.starts_with(&prefix), "{told}");
            assert!(told.contains(found), "{name}: {told}");
        }
    }

    #[test]
    fn certificate_and_key_may_lie_in_one_file() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let both = format!("{}{}", signing_key.serialize_pem(), cert.pem());
        let path = folder.file("both", &both);
        let files = TlsFiles {
            ca: Some(path.clone()),
            client: Some(ClientFiles {
                certificate: path.clone(),
                key: path,
            }),
        };
        files.connector().unwrap();
    }
}
