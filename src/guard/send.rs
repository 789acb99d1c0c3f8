//! How a guard gets what to start.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use tokio::net::unix::OwnedWriteHalf;

use super::Tag;
use super::handle::GuardSpec;
use super::protocol::{FDS, MAX_FILES, MAX_START_BYTES, START, Start};

/// How long a guard may take to make room for more orders.
const START_LIMIT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// As it goes over the socket, without the descriptors.
pub(super) fn start_message(spec: &GuardSpec<'_>) -> io::Result<Vec<u8>> {
    let mut env = spec.env.clone();
    env.extend(spec.tag.iter().flat_map(Tag::variables));
    let json = serde_json::to_vec(&Start {
        program: spec.program.clone(),
        args: spec.args.clone(),
        env,
        user: spec.user.clone(),
        limits: spec.limits,
        files: spec.files.iter().map(|arg| arg.flag.to_owned()).collect(),
        is_server: spec.bell.is_some(),
        kill_timeout: spec.kill_timeout,
        lock_lost_after: spec.lock_lost_after,
        mark: spec.tag.as_ref().map(Tag::mark),
    })?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|length| *length <= MAX_START_BYTES)
        .ok_or_else(|| {
            io::Error::other(format!(
                "arguments and environment have {} bytes; at most {MAX_START_BYTES} are allowed",
                json.len()
            ))
        })?;
    let mut message = vec![START];
    message.extend(length.to_be_bytes());
    message.extend(json);
    Ok(message)
}

/// Blocks while the socket's buffer is full, which the guard empties at once.
pub(super) fn send_start(
    socket: &OwnedWriteHalf,
    message: &[u8],
    spec: &GuardSpec<'_>,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
) -> io::Result<()> {
    let socket = socket.as_ref().as_fd();
    let always: [BorrowedFd<'_>; FDS] = [
        spec.lock,
        spec.unkillable,
        spec.dir,
        spec.stdin.as_fd(),
        stdout.as_fd(),
        stderr.as_fd(),
    ];
    let bell = spec.bell.as_ref().map(AsFd::as_fd);
    let files = spec.files.iter().map(|arg| arg.file.as_fd());
    let fds: Vec<_> = always.into_iter().chain(bell).chain(files).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS + 1 + MAX_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    // The buffer is empty, so this never waits. Only the first byte: the process that
    // reads it gets the descriptors, however much it reads of the rest.
    sendmsg(
        socket,
        &[IoSlice::new(&message[..1])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    send_all(socket, &message[1..])
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut room = [PollFd::new(&socket, PollFlags::OUT)];
                match poll(&mut room, Some(&START_LIMIT)) {
                    Ok(0) => return Err(Errno::TIMEDOUT.into()),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
