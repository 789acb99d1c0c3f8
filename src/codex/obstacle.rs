//! What in a workspace codex must not meet at its start: it would not come to
//! an end of it, and take the host's memory with it.

use std::path::Path;

/// What git writes is one line with a path. codex 0.169.0 reads the whole
/// file of any size to find the repository that it points to.
const MAX_GIT_FILE: u64 = 64 << 10;

/// What is in the way of a turn in `dir`, in words that name the file.
pub(crate) fn find(dir: &Path) -> Option<String> {
    // codex takes the nearest one, over links.
    let (path, found) = dir.ancestors().find_map(|folder| {
        let path = folder.join(".git");
        let found = path.metadata().ok()?;
        Some((path, found))
    })?;
    let oversized = found.is_file() && found.len() > MAX_GIT_FILE;
    oversized.then(|| {
        format!(
            "{} is a file of {} bytes, which codex would read as a whole: it must be a directory, \
             or a file of at most {MAX_GIT_FILE} bytes",
            path.display(),
            found.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_git_file_that_is_too_large_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("acme/site");
        fs::create_dir_all(&workspace).unwrap();
        assert_eq!(find(&workspace), None);
        let git = workspace.join(".git");
        fs::write(&git, "gitdir: /elsewhere\n").unwrap();
        assert_eq!(find(&workspace), None);
        File::create(&git)
            .unwrap()
            .set_len(MAX_GIT_FILE + 1)
            .unwrap();
        let message = find(&workspace).unwrap();
        assert!(message.starts_with(git.to_str().unwrap()), "{message}");
        assert!(message.contains("65537 bytes"), "{message}");

        let large = dir.path().join("large");
        fs::rename(&git, &large).unwrap();
        symlink(&large, &git).unwrap();
        assert!(find(&workspace).is_some(), "over a link");
        fs::remove_file(&git).unwrap();
        symlink("/dev/zero", &git).unwrap();
        assert_eq!(find(&workspace), None, "codex itself refuses devices");
        fs::remove_file(&git).unwrap();
        fs::rename(&large, dir.path().join("acme/.git")).unwrap();
        assert!(find(&workspace).is_some(), "in a folder above");
        fs::create_dir(&git).unwrap();
        assert_eq!(find(&workspace), None, "the nearest one counts");
    }
}
