//! A RabbitMQ that speaks TLS, with certificates made for the occasion. All
//! tests share it: it wants a client certificate where its `rabbitmq.conf`
//! makes it listen, and has two more listeners besides.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};

use serde_json::json;

use crate::support::broker::Broker;
use crate::support::ports::free_ports;

/// Of the user with all rights, who is also named by a certificate.
pub const PASSWORD: &str = "s3cret";

/// Of the node's three listeners, in its folder.
const PORTS: &str = "ports.json";

/// A setting, named without its prefix.
pub type Set = (&'static str, String);

pub struct Node {
    pub broker: Broker,
    /// Wants a client certificate.
    pub strict: u16,
    /// Wants no certificate.
    pub lenient: u16,
    /// Wants no certificate, and has a certificate that has expired.
    pub expired: u16,
    dir: PathBuf,
}

impl Node {
    /// The first call starts it, which takes seconds.
    pub async fn get() -> &'static Self {
        tokio::task::spawn_blocking(Self::started).await.unwrap()
    }

    /// The same, for a thread that may wait.
    pub fn started() -> &'static Self {
        static NODE: OnceLock<Node> = OnceLock::new();
        NODE.get_or_init(Self::start)
    }

    fn start() -> Self {
        let broker = Broker::of_the_run("tls", |broker| {
            let ports = free_ports();
            broker.launch_configured(
                "rabbitmq_auth_mechanism_ssl",
                |folder| {
                    write_certificates(folder);
                    fs::write(folder.join(PORTS), json!(ports).to_string()).unwrap();
                    documented_conf()
                        .replace("/etc/rabbitmq/tls", "@DIR@")
                        .replace("5671", &format!("127.0.0.1:{}", ports[0]))
                },
                Some("tls"),
            );
            configure(broker, ports);
        });
        let dir = broker.dir().to_owned();
        let ports = fs::read(dir.join(PORTS)).unwrap();
        let [strict, lenient, expired] = serde_json::from_slice(&ports).unwrap();
        Self {
            broker,
            strict,
            lenient,
            expired,
            dir,
        }
    }

    pub fn url(&self, port: u16) -> String {
        format!("amqps://worker:{PASSWORD}@localhost:{port}/%2f")
    }

    /// The path of what [`write_certificates`] wrote.
    pub fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// The authority that the node's own certificate is of.
    pub fn ca(&self) -> Set {
        ("AMQP_CA_FILE", self.file("ca.pem"))
    }

    pub fn client(&self, name: &str) -> [Set; 2] {
        [
            ("AMQP_CLIENT_CERT_FILE", self.file(&format!("{name}.pem"))),
            (
                "AMQP_CLIENT_KEY_FILE",
                self.file(&format!("{name}-key.pem")),
            ),
        ]
    }
}

/// Makes it listen without asking for a certificate, too, and makes the user.
fn configure(broker: &Broker, [_, lenient, expired]: [u16; 3]) {
    let listen = |port: u16, name: &str| {
        format!(
            "rabbit_networking:start_ssl_listener({{\"127.0.0.1\", {port}}}, \
             [{{certfile, File(\"{name}.pem\")}}, {{keyfile, File(\"{name}-key.pem\")}}], 1)"
        )
    };
    let all = "<<\".*\">>";
    broker.ctl(&[
        "eval",
        &format!(
            "File = fun(Name) -> filename:join(os:getenv(\"HOME\"), Name) end, {}, {}, \
             rabbit_auth_backend_internal:add_user(<<\"worker\">>, <<\"{PASSWORD}\">>, <<\"test\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"worker\">>, <<\"/\">>, {all}, {all}, {all}, <<\"test\">>).",
            listen(lenient, "server"),
            listen(expired, "expired"),
        ),
    ]);
}

/// What operators are asked to write.
fn documented_conf() -> String {
    let text = include_str!("../../../docs/OPERATIONS.md");
    let (_, block) = text.split_once("```ini\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

fn write_certificates(dir: &Path) {
    let localhost = |params: &mut CertificateParams| {
        let name = "localhost".try_into().unwrap();
        params.subject_alt_names.push(SanType::DnsName(name));
    };
    let ours = Authority::new(dir, "ca");
    ours.sign(dir, "server", localhost);
    ours.sign(dir, "expired", |params| {
        localhost(params);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    ours.sign(dir, "worker", |_| {});
    Authority::new(dir, "other-ca").sign(dir, "stranger", |_| {});
}

struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// Writes `NAME.pem`.
    fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        Self(Issuer::new(params, key))
    }

    /// Writes `NAME.pem` and `NAME-key.pem`.
    fn sign(&self, dir: &Path, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
