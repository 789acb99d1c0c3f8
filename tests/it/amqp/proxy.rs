//! A TCP proxy before the broker that can be frozen, and that can speak for it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

pub struct Proxy {
    /// The URL, through the proxy.
    pub url: String,
    frozen: watch::Sender<bool>,
    /// Where the last client listens.
    client: Arc<Mutex<Option<OwnedWriteHalf>>>,
}

impl Proxy {
    pub async fn before(url: &str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (broker, vhost) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (frozen, is_frozen) = watch::channel(false);
        let client = Arc::new(Mutex::new(None));
        tokio::spawn(accept(
            listener,
            broker.to_owned(),
            is_frozen,
            Arc::clone(&client),
        ));
        Self {
            url: format!("{user}@{address}/{vhost}"),
            frozen,
            client,
        }
    }

    /// The broker's words come no more.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Sends the client a `connection.blocked`, as at a memory alarm.
    pub async fn block(&self) {
        self.speak(&[0, 10, 0, 60, 3, b'm', b'e', b'm']).await;
    }

    pub async fn unblock(&self) {
        self.speak(&[0, 10, 0, 61]).await;
    }

    /// A method frame on channel 0. Only while the broker is silent.
    async fn speak(&self, method: &[u8]) {
        let mut frame = vec![1, 0, 0];
        frame.extend(u32::try_from(method.len()).unwrap().to_be_bytes());
        frame.extend(method);
        frame.push(0xCE);
        let mut client = self.client.lock().await;
        client.as_mut().unwrap().write_all(&frame).await.unwrap();
    }
}

async fn accept(
    listener: TcpListener,
    broker: String,
    frozen: watch::Receiver<bool>,
    client: Arc<Mutex<Option<OwnedWriteHalf>>>,
) {
    loop {
        let (inward, _) = listener.accept().await.unwrap();
        let outward = TcpStream::connect(&broker).await.unwrap();
        let (mut from_client, to_client) = inward.into_split();
        let (mut from_broker, mut to_broker) = outward.into_split();
        *client.lock().await = Some(to_client);
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_broker).await });
        let client = Arc::clone(&client);
        let mut frozen = frozen.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = from_broker.read(&mut buffer).await.unwrap_or(0);
                if frozen.wait_for(|frozen| !frozen).await.is_err() || length == 0 {
                    break;
                }
                let mut client = client.lock().await;
                let Some(to_client) = client.as_mut() else {
                    break;
                };
                if to_client.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        });
    }
}
