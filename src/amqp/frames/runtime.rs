//! lapin's view of tokio, in which a TCP stream is one of ours.
//!
//! lapin takes the type of its stream from the runtime that it is given. It is
//! handed a stream that is connected, so this one never connects.

use std::future::ready;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio, TokioRuntime};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::AsyncTcpStream;

use super::FrameFilter;
use super::stream::Filtered;
use crate::amqp::connect::RepairHook;

/// TCP, or TLS over it.
type Unfiltered = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

pub(in crate::amqp) type FilteringRuntime = Runtime<RuntimeParts<Tokio, FilteringReactor>>;

/// The current runtime twice: to connect with, and for lapin.
pub(in crate::amqp) fn current() -> (TokioRuntime, FilteringRuntime) {
    let reactor = FilteringReactor(Tokio::current());
    let filtering = Runtime::new(RuntimeParts::new(Tokio::current(), reactor));
    (Runtime::tokio_current(), filtering)
}

/// A connected stream as lapin takes it from [`FilteringRuntime`].
pub(in crate::amqp) fn filtered(
    stream: Unfiltered,
    frame_max: u32,
    on_repair: RepairHook,
) -> AsyncTcpStream<Filtered<Unfiltered>> {
    AsyncTcpStream::Plain(Filtered::new(
        stream,
        FrameFilter::new(frame_max),
        on_repair,
    ))
}

#[derive(Debug, Clone)]
pub(in crate::amqp) struct FilteringReactor(Tokio);

impl Reactor for FilteringReactor {
    type TcpStream = Filtered<Unfiltered>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        _addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        ready(Err(io::Error::other("expected a connected stream")))
    }
}
