//! The user that agents run as, as this host's system knows it.

use std::ffi::CString;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Uid, getgrouplist};

use crate::config::RunAs;
use crate::guard::confine::User;

#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("there is no user `{0}` on this host")]
    Unknown(String),
    #[error("`{0}` is root, which can read and change everything")]
    Root(String),
    #[error("can't look up user `{name}`")]
    Lookup {
        name: String,
        #[source]
        source: Errno,
    },
}

#[derive(Debug, Clone)]
pub struct Account {
    pub user: User,
    /// What the system's database holds of it; a bare uid may not be there.
    known: Option<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    name: String,
    home: PathBuf,
    shell: PathBuf,
}

impl From<nix::unistd::User> for Known {
    fn from(user: nix::unistd::User) -> Self {
        Self {
            name: user.name,
            home: user.dir,
            shell: user.shell,
        }
    }
}

impl Account {
    /// A name comes with the groups that it has on this host, uid and gid
    /// with no other.
    pub fn find(run_as: &RunAs) -> Result<Self, AccountError> {
        match run_as {
            RunAs::Name(name) => Self::named(name),
            RunAs::Ids { uid, gid } => {
                let found = nix::unistd::User::from_uid(Uid::from_raw(*uid));
                let found = found.map_err(|source| AccountError::Lookup {
                    name: uid.to_string(),
                    source,
                })?;
                Ok(Self {
                    user: User {
                        uid: *uid,
                        gid: *gid,
                        groups: Vec::new(),
                    },
                    known: found.map(Known::from),
                })
            }
        }
    }

    fn named(name: &str) -> Result<Self, AccountError> {
        let failed = |source| AccountError::Lookup {
            name: name.to_owned(),
            source,
        };
        let found = nix::unistd::User::from_name(name).map_err(failed)?;
        let found = found.ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
        if found.uid.is_root() {
            return Err(AccountError::Root(name.to_owned()));
        }
        let c_name = CString::new(name).map_err(|_| failed(Errno::EINVAL))?;
        let groups = getgrouplist(&c_name, found.gid).map_err(failed)?;
        Ok(Self {
            user: User {
                uid: found.uid.as_raw(),
                gid: found.gid.as_raw(),
                groups: groups.into_iter().map(|group| group.as_raw()).collect(),
            },
            known: Some(found.into()),
        })
    }

    /// A variable about the user, so that the worker's own must not
    /// be passed on; `None` inside if the database lacks it.
    pub fn variable(&self, name: &str) -> Option<Option<String>> {
        let text = |path: &PathBuf| path.to_str().map(str::to_owned);
        let known = self.known.as_ref();
        Some(match name {
            "HOME" => known.and_then(|known| text(&known.home)),
            "SHELL" => known.and_then(|known| text(&known.shell)),
            "USER" | "LOGNAME" => known.map(|known| known.name.clone()),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_ids_groups_and_home() {
        let account = Account::find(&RunAs::Name("nobody".into())).unwrap();
        let found = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        assert_eq!(account.user.uid, found.uid.as_raw());
        assert_eq!(account.user.groups, [found.gid.as_raw()]);
        let home = found.dir.to_str().map(str::to_owned);
        assert_eq!(account.variable("HOME"), Some(home));
        assert_eq!(account.variable("USER"), Some(Some("nobody".into())));
        assert_eq!(account.variable("PATH"), None);
    }

    /// The worker's own home is never passed on, not even if no other is known.
    #[test]
    fn g8_ids_without_an_account_have_no_home_and_no_other_group() {
        let ids = RunAs::Ids {
            uid: 3_999_999_999,
            gid: 7,
        };
        let account = Account::find(&ids).unwrap();
        assert!(account.user.groups.is_empty());
        for name in ["HOME", "USER", "LOGNAME", "SHELL"] {
            assert_eq!(account.variable(name), Some(None));
        }
    }

    #[test]
    fn rejects_unknown_and_root_user() {
        let find = |name: &str| Account::find(&RunAs::Name(name.into())).unwrap_err();
        assert!(matches!(find("no-such-user"), AccountError::Unknown(_)));
        assert!(matches!(find("root"), AccountError::Root(_)));
    }
}
