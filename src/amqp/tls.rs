//! Why TLS with the broker failed, with what to do about it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// The library's own words go along as the error's source.
pub(super) fn told(error: &io::Error) -> &'static str {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        return match hung_up(error) {
            true => {
                "it hung up on the TLS handshake or right after; perhaps it wants a client certificate, or another one (TURN_WORKER_AMQP_CLIENT_CERT_FILE)"
            }
            false => "the TLS handshake failed",
        };
    };
    match error {
        Error::InvalidCertificate(wrong) => certificate(wrong),
        Error::AlertReceived(alert) => refusal(*alert),
        Error::InvalidMessage(_) => "no TLS is spoken on this port (amqps has mostly 5671)",
        Error::PeerIncompatible(_) => "it speaks no TLS that we do (1.2 or 1.3)",
        _ => "the TLS handshake failed",
    }
}

/// Whether what failed on a connection with TLS, before the broker said a
/// word, is TLS's business: it refuses a client certificate after the
/// handshake, and its reason is lost when it hangs up before we have read it.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    hung_up(error) || error.get_ref().is_some_and(|inner| inner.is::<Error>())
}

fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn certificate(wrong: &CertificateError) -> &'static str {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match wrong {
        UnknownIssuer => {
            "its certificate is signed by no authority that is trusted (those in the file that TURN_WORKER_AMQP_CA_FILE names, else the system's)"
        }
        Expired | ExpiredContext { .. } => "its certificate has expired",
        NotValidYet | NotValidYetContext { .. } => {
            "its certificate is not valid yet (are both clocks right?)"
        }
        NotValidForName | NotValidForNameContext { .. } => {
            "its certificate is for another host than the URL names"
        }
        _ => "its certificate can't be trusted",
    }
}

fn refusal(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            "it wants a client certificate: set TURN_WORKER_AMQP_CLIENT_CERT_FILE and TURN_WORKER_AMQP_CLIENT_KEY_FILE"
        }
        // What TLS 1.2 has for that, among other things.
        Alert::HandshakeFailure => {
            "it refused the TLS handshake; perhaps it wants a client certificate (TURN_WORKER_AMQP_CLIENT_CERT_FILE)"
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => {
            "it refused our client certificate, the one in the file that TURN_WORKER_AMQP_CLIENT_CERT_FILE names"
        }
        _ => "it refused the TLS handshake",
    }
}
