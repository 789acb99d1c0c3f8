//! How a guard hears what to start.

use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::protocol::{FDS, MAX_FILES, MAX_START_BYTES, START, Start};

/// What to start next, or `None` once the worker has closed its end.
pub(super) fn next_start(worker: &mut UnixStream) -> io::Result<Option<(Start, Vec<OwnedFd>)>> {
    loop {
        let mut first = [0];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS + 1 + MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &*worker,
            &mut [IoSliceMut::new(&mut first)],
            &mut ancillary,
            // Closed on exec, or codex would hold the lock's description too.
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(received) if received.bytes == 0 => return Ok(None),
            // An order that crossed with the end of the turn that it was about.
            Ok(_) if first != [START] => {}
            Ok(_) => return Ok(Some((start(worker)?, descriptors(&mut ancillary)))),
            Err(Errno::INTR) => {}
            // It has not read the last report, and needs it no more.
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Just as many as there have to be.
pub(super) fn exactly(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; FDS]> {
    fds.try_into().map_err(|fds: Vec<_>| {
        io::Error::other(format!("expected {FDS} descriptors, got {}", fds.len()))
    })
}

fn descriptors(ancillary: &mut RecvAncillaryBuffer<'_>) -> Vec<OwnedFd> {
    let messages = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    messages.flatten().collect()
}

fn start(worker: &mut UnixStream) -> io::Result<Start> {
    let mut length = [0; 4];
    worker.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_START_BYTES {
        return Err(io::Error::other(format!(
            "a start message of {length} bytes; at most {MAX_START_BYTES} are allowed"
        )));
    }
    let mut json = vec![0; length as usize];
    worker.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
