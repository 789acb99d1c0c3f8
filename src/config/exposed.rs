use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::table::Setting;

const READ_BY_OTHERS: u32 = 0o004;
const ENTERED_BY_OTHERS: u32 = 0o001;

/// A file with a secret that others than its owner and group can read. A
/// group's right is left to the operator: it is how a service gets its file.
#[derive(Debug)]
pub struct Exposed {
    setting: &'static Setting,
    path: PathBuf,
}

impl Exposed {
    pub(super) fn find(setting: &'static Setting, path: &Path) -> Option<Self> {
        // A file that can't be looked at is reported by the code that reads it.
        let real = path.canonicalize().ok()?;
        let readable = allows(&real, READ_BY_OTHERS);
        let reachable = real
            .ancestors()
            .skip(1)
            .all(|folder| allows(folder, ENTERED_BY_OTHERS));
        (readable && reachable).then(|| Self {
            setting,
            path: path.to_owned(),
        })
    }
}

fn allows(path: &Path, bit: u32) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & bit != 0)
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, path } = self;
        write!(
            f,
            "{} names {}, which holds a secret and can be read by every user of this host; `chmod o-r` takes that away",
            setting.variable(),
            path.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::super::table::AMQP_URL_FILE;
    use super::*;

    #[test]
    fn g8_a_secret_is_exposed_where_file_and_folders_are_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        write(&path, "").unwrap();
        // Temporary files in a folder of the user's own are not exposed.
        let above = folder.path().canonicalize().unwrap();
        let open = above
            .ancestors()
            .skip(1)
            .all(|folder| allows(folder, ENTERED_BY_OTHERS));
        for (of_folder, of_file, exposed) in [
            (0o755, 0o644, true),
            (0o711, 0o604, true),
            (0o755, 0o640, false),
            (0o755, 0o600, false),
            (0o700, 0o644, false),
        ] {
            set_permissions(&path, Permissions::from_mode(of_file)).unwrap();
            set_permissions(folder.path(), Permissions::from_mode(of_folder)).unwrap();
            let found = Exposed::find(&AMQP_URL_FILE, &path);
            assert_eq!(
                found.is_some(),
                exposed && open,
                "{of_folder:o} {of_file:o}"
            );
        }
        assert!(Exposed::find(&AMQP_URL_FILE, &folder.path().join("none")).is_none());
    }
}
