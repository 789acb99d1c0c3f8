//! The folders in which codex watches for a user's and a host's skills.
//!
//! An app-server watches `$HOME/.agents/skills` and `/etc/codex/skills` for as long as it lives. Of one that is
//! missing, it watches the nearest folder above that exists, and is woken by each file opened in there
//! (codex 0.171.0). Each program that starts opens a file in `/etc`, and each login shell one in `$HOME`: with 64
//! servers waiting, a start of `true` took 7 ms of CPU time more.

use std::fs;
use std::io;
use std::path::Path;

use crate::guard::confine::{User, as_user};

/// Of the host, for all users.
const SYSTEM_SKILLS: &str = "/etc/codex/skills";
/// Of a user, below `$HOME`.
const USER_SKILLS: &str = ".agents/skills";

/// Makes the folder of a user's skills below an existing `home`.
///
/// # Errors
///
/// If the agents' user may not make it.
pub(crate) fn make_user_folder(home: &Path, user: Option<&User>) -> io::Result<()> {
    if !home.is_dir() {
        // The agents' commands are to find out.
        return Ok(());
    }
    let folder = home.join(USER_SKILLS);
    let make = || fs::create_dir_all(&folder);
    match user {
        None => make(),
        Some(user) => as_user(user, make)?,
    }
}

/// The folder that is missing on this host, so that app-servers watch all of `/etc`; `None` if they don't.
pub fn missing_system_folder() -> Option<&'static Path> {
    let folder = Path::new(SYSTEM_SKILLS);
    let above = folder.parent()?;
    (!above.is_dir()).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_folder_is_made_once_and_only_below_a_home() {
        let dir = tempfile::tempdir().unwrap();
        make_user_folder(&dir.path().join("gone"), None).unwrap();
        assert!(!dir.path().join("gone").exists());
        make_user_folder(dir.path(), None).unwrap();
        fs::write(dir.path().join(".agents/skills/mine"), "kept").unwrap();
        make_user_folder(dir.path(), None).unwrap();
        assert!(dir.path().join(".agents/skills/mine").exists());
    }
}
