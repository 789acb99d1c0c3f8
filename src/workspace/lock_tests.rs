use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use super::testing::{lock, workspace};
use super::*;

/// A process that holds the lock as the guard does, by the description that
/// it inherits, until its standard input closes.
fn holder(lock: &WorkspaceLock) -> Child {
    Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(lock.as_fd().try_clone_to_owned().unwrap())
        .spawn()
        .unwrap()
}

#[test]
fn g3_one_at_a_time_holds_the_lock() {
    let (_tmp, workspace) = workspace();
    let held = lock(&workspace);
    assert!(workspace.try_lock().unwrap().is_none());
    drop(held);
    drop(lock(&workspace));
}

#[test]
fn g3_the_lock_lives_until_a_child_has_closed_it_too() {
    let (_tmp, workspace) = workspace();
    let held = lock(&workspace);
    let mut child = holder(&held);
    drop(held);
    assert!(workspace.try_lock().unwrap().is_none());
    drop(child.stdin.take());
    child.wait().unwrap();
    drop(lock(&workspace));
}

#[test]
fn g3_a_killed_holder_frees_the_lock() {
    let (_tmp, workspace) = workspace();
    let held = lock(&workspace);
    let mut child = holder(&held);
    drop(held);
    assert!(workspace.try_lock().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lock(&workspace));
}

#[test]
fn g3_dropping_the_journal_does_not_unlock_what_a_child_shares() {
    let (_tmp, workspace) = workspace();
    let journal = lock(&workspace).open_journal(None).unwrap();
    let mut child = holder(journal.lock());
    drop(journal);
    assert!(workspace.try_lock().unwrap().is_none());
    drop(child.stdin.take());
    child.wait().unwrap();
}
