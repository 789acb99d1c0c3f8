mod damage;
mod index;
mod life;
mod rotation;

use std::path::PathBuf;

use super::{CHECKPOINT, JOURNAL, OLD};
use crate::workspace::Workspace;

fn path(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.state_dir().join(name)
}

fn read(workspace: &Workspace, name: &str) -> Vec<u8> {
    std::fs::read(path(workspace, name)).unwrap()
}

fn write(workspace: &Workspace, name: &str, bytes: &[u8]) {
    std::fs::write(path(workspace, name), bytes).unwrap();
}

/// A whole line around any JSON.
fn sealed(json: &str) -> Vec<u8> {
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}
