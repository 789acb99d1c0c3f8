//! Where codex keeps its threads, settings and login.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::workspace::Owner;

/// Which CODEX_HOME a turn gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Homes {
    /// One for all: the agents' CODEX_HOME, or codex's own default.
    Shared {
        /// Set for the agents; nothing if they have it in their environment.
        set: Option<PathBuf>,
        /// Where it is, as far as can be told.
        known: Option<PathBuf>,
    },
    /// Each workspace has its own, made from a template.
    PerWorkspace {
        template: Option<PathBuf>,
        /// Whose it is, if not the worker's.
        owner: Option<Owner>,
    },
}

/// One turn's CODEX_HOME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    own: Option<PathBuf>,
    known: Option<PathBuf>,
}

impl Home {
    /// To be set in the agent's environment.
    pub fn own(&self) -> Option<&Path> {
        self.own.as_deref()
    }

    /// Where codex's own records are to be found.
    pub fn path(&self) -> Option<&Path> {
        self.own.as_deref().or(self.known.as_deref())
    }
}

impl Homes {
    /// The CODEX_HOME of a workspace that would have its own in `folder`;
    /// made if missing. The workspace's lock must be held.
    pub fn of(&self, folder: &Path) -> io::Result<Home> {
        match self {
            Self::Shared { set, known } => Ok(Home {
                own: set.clone(),
                known: known.clone(),
            }),
            Self::PerWorkspace { template, owner } => {
                if !folder.exists() {
                    make(folder, template.as_deref(), *owner)?;
                }
                Ok(Home {
                    own: Some(folder.to_owned()),
                    known: None,
                })
            }
        }
    }
}

/// Beside it first: half a copy must not pass for the whole, and no agent
/// gets at it before it is done.
fn make(home: &Path, template: Option<&Path>, owner: Option<Owner>) -> io::Result<()> {
    let mut new = home.as_os_str().to_owned();
    // No workspace's name ends so.
    new.push("~new");
    let new = PathBuf::from(new);
    if let (Some(above), Some(_)) = (home.parent(), owner) {
        make_passages(above)?;
    }
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match template {
        Some(template) => copy_folder(template, &new)?,
        None => fs::create_dir(&new)?,
    }
    if let Some(owner) = owner {
        fs::set_permissions(&new, Permissions::from_mode(0o700))?;
        give(&new, owner)?;
    }
    fs::rename(&new, home)
}

/// The folders above agents' homes: to be gone through, and nothing else.
fn make_passages(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_passages(above)?;
    }
    match fs::create_dir(folder) {
        // By another process; it is about to do the rest.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    fs::set_permissions(folder, Permissions::from_mode(0o711))
}

/// A folder after what is in it, so that its new owner can't put anything
/// else there meanwhile.
fn give(path: &Path, owner: Owner) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner)?;
        }
    }
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
}

/// Files and folders only: a link could lead anywhere.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g8_each_workspace_gets_a_copy_of_the_template_once() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template");
        fs::create_dir_all(template.join("rules")).unwrap();
        fs::write(template.join("config.toml"), "a = 1").unwrap();
        fs::write(template.join("rules/x"), "x").unwrap();
        let folder = dir.path().join("home");
        let homes = Homes::PerWorkspace {
            template: Some(template),
            owner: None,
        };
        let home = homes.of(&folder).unwrap();
        let own = home.own().unwrap().to_owned();
        assert_eq!(home.path(), Some(&*own));
        assert_eq!(fs::read_to_string(own.join("rules/x")).unwrap(), "x");
        fs::write(own.join("config.toml"), "mine").unwrap();
        homes.of(&folder).unwrap();
        assert_eq!(fs::read_to_string(own.join("config.toml")).unwrap(), "mine");
    }
}
