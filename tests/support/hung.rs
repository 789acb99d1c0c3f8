//! A file system that hangs: a lookup of a name in it waits in the system,
//! beyond the reach of SIGKILL, until the value is dropped.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "not every test needs it, and a test fails by panicking"
)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::not_tested::not_tested;

/// A command of a turn that leaves a process there, and its pid in `pid`, once it hangs.
pub fn leave(folder: &Path, pid: &Path) -> String {
    let (folder, asked, pid) = (
        folder.display(),
        folder.with_extension("asked"),
        pid.display(),
    );
    format!(
        "run sh -c 'echo $$ > {pid}.new; mv {pid}.new {pid}; exec cat {folder}/x' >/dev/null 2>&1 & \
         until [ -e {} ]; do sleep 0.01; done",
        asked.display()
    )
}

#[derive(Debug)]
pub struct HungFolder {
    path: PathBuf,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl HungFolder {
    /// Returns `None`, and prints that, if mounting is impossible here.
    pub fn at(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open("/dev/fuse");
        let mounted = opened.ok().filter(|fuse| mount(fuse, path));
        let Some(fuse) = mounted else {
            not_tested("a file system that hangs: nothing can be mounted here");
            return None;
        };
        let over = Arc::new(AtomicBool::new(false));
        let server = thread::spawn({
            let (over, asked) = (Arc::clone(&over), path.with_extension("asked"));
            move || serve(fuse, &over, &asked)
        });
        Some(Self {
            path: path.to_owned(),
            over,
            server: Some(server),
        })
    }
}

impl Drop for HungFolder {
    fn drop(&mut self) {
        let path = CString::new(self.path.to_str().unwrap()).unwrap();
        #[expect(unsafe_code, reason = "no library of ours mounts")]
        // SAFETY: the path is a string that ends with a zero.
        let _ = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        // With its descriptor, the connection is aborted, and all who wait go on.
        self.over.store(true, Ordering::SeqCst);
        let _ = self.server.take().unwrap().join();
    }
}

fn mount(fuse: &File, path: &Path) -> bool {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        fuse.as_raw_fd()
    );
    let options = CString::new(options).unwrap();
    #[expect(unsafe_code, reason = "no library of ours mounts")]
    // SAFETY: all are strings that end with a zero.
    let failed = unsafe {
        libc::mount(
            c"hung".as_ptr(),
            path.as_ptr(),
            c"fuse".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    failed == 0
}

/// Answers the greeting, and takes all other requests without an answer.
fn serve(mut fuse: File, over: &AtomicBool, asked: &Path) {
    const LOOKUP: u32 = 1;
    const INIT: u32 = 26;
    let mut request = vec![0; 1 << 20];
    while !over.load(Ordering::SeqCst) {
        let brief = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let _ = poll(&mut [PollFd::new(&fuse, PollFlags::IN)], Some(&brief));
        let Ok(read) = fuse.read(&mut request) else {
            continue;
        };
        if read >= 16 && request[4..8] == LOOKUP.to_ne_bytes() {
            // From now on, the process that has asked can't be killed.
            drop(File::create(asked).unwrap());
        }
        if read >= 16 && request[4..8] == INIT.to_ne_bytes() {
            // A header of 16 bytes, and the version, with which the rest may be zero but for
            // the size of a write.
            let mut answer = vec![0; 16 + 64];
            let length = u32::try_from(answer.len()).unwrap();
            answer[..4].copy_from_slice(&length.to_ne_bytes());
            answer[8..16].copy_from_slice(&request[8..16]);
            answer[16..20].copy_from_slice(&7_u32.to_ne_bytes());
            answer[20..24].copy_from_slice(&31_u32.to_ne_bytes());
            answer[36..40].copy_from_slice(&4096_u32.to_ne_bytes());
            fuse.write_all(&answer).unwrap();
        }
    }
}
