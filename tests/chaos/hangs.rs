//! A file system that hangs, and comes back every few seconds: what a turn has left
//! there can't be killed meanwhile.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::hung::HungFolder;

const HANGS_FOR: Duration = Duration::from_secs(4);

pub struct Hangs {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hangs {
    /// Without mounts, no hangs.
    pub fn start(path: &Path) -> Self {
        let (over, is_over) = channel::<()>();
        let path = path.to_owned();
        let thread = thread::spawn(move || {
            while let Some(_hung) = HungFolder::at(&path) {
                if is_over.recv_timeout(HANGS_FOR) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Self {
            over: Some(over),
            thread: Some(thread),
        }
    }
}

/// Then the hang ends.
impl Drop for Hangs {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
