//! Where codex keeps its threads, settings and login.

use std::path::{Path, PathBuf};
use std::{fs, io};

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
    /// Each workspace has its own, beside its records, made from a template.
    PerWorkspace { template: Option<PathBuf> },
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

const FOLDER: &str = "codex-home";

impl Homes {
    /// The CODEX_HOME of the workspace whose records are in `state_dir`; made
    /// if missing. The workspace's lock must be held.
    pub fn of(&self, state_dir: &Path) -> io::Result<Home> {
        match self {
            Self::Shared { set, known } => Ok(Home {
                own: set.clone(),
                known: known.clone(),
            }),
            Self::PerWorkspace { template } => {
                let home = state_dir.join(FOLDER);
                if !home.exists() {
                    // Copied beside it first: half a copy must not pass for the whole.
                    let new = state_dir.join(format!("{FOLDER}.new"));
                    match fs::remove_dir_all(&new) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                    match template {
                        Some(template) => copy_folder(template, &new)?,
                        None => fs::create_dir(&new)?,
                    }
                    fs::rename(&new, &home)?;
                }
                Ok(Home {
                    own: Some(home),
                    known: None,
                })
            }
        }
    }
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
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let homes = Homes::PerWorkspace {
            template: Some(template),
        };
        let home = homes.of(&state).unwrap();
        let own = home.own().unwrap().to_owned();
        assert_eq!(home.path(), Some(&*own));
        assert_eq!(fs::read_to_string(own.join("rules/x")).unwrap(), "x");
        fs::write(own.join("config.toml"), "mine").unwrap();
        homes.of(&state).unwrap();
        assert_eq!(fs::read_to_string(own.join("config.toml")).unwrap(), "mine");
    }
}
