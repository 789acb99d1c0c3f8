//! A stream that passes on what the filter lets through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};

use super::FrameFilter;
use crate::amqp::connect::RepairHook;

/// Lies above TLS. What is written passes unchanged.
pub(in crate::amqp) struct Filtered<S> {
    stream: S,
    filter: FrameFilter,
    on_repair: RepairHook,
}

impl<S> Filtered<S> {
    pub(in crate::amqp) fn new(stream: S, filter: FrameFilter, on_repair: RepairHook) -> Self {
        Self {
            stream,
            filter,
            on_repair,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = &mut *self;
        // Until a frame is whole, or the stream has taken the waker.
        loop {
            let taken = this.filter.take(buf);
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            let stream = Pin::new(&mut this.stream);
            let read = ready!(stream.poll_read(cx, this.filter.space()))?;
            if read == 0 {
                // A frame that is not whole is of no use to lapin.
                return Poll::Ready(Ok(0));
            }
            this.filter
                .filled(read, &mut |frame| (this.on_repair)(frame));
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filtered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
