//! An operator's `config.toml`, for what `check` and a starting worker report
//! of it. This module does not decide how codex is run.
//!
//! Workers up to 0.1.0 had codex add an entry there for each workspace, by
//! which it trusts that. Turns ignore such entries now
//! ([`super::workspace_config`]); another codex does not.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Far more than any that a person has written.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    path: PathBuf,
    table: toml::Table,
}

impl ConfigFile {
    /// Returns `None` where there is no such file. An error never quotes the
    /// file: an agent may have made it a link to another.
    pub fn read(home: &Path) -> io::Result<Option<Self>> {
        let path = home.join("config.toml");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!(
                "it has more than {MAX_BYTES} bytes"
            )));
        }
        let table = text
            .parse()
            .map_err(|_| io::Error::other("it is not TOML"))?;
        Ok(Some(Self { path, table }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The trusted folders that are, lie in, or hold the workspace root.
    fn trusted(&self, root: &Path) -> Vec<&Path> {
        let projects = self
            .table
            .get("projects")
            .and_then(|value| value.as_table());
        let is_trusted = |entry: &toml::Value| {
            entry.get("trust_level").and_then(|level| level.as_str()) == Some("trusted")
        };
        let trusted = projects
            .into_iter()
            .flatten()
            .filter(|(_, entry)| is_trusted(entry));
        trusted
            .map(|(path, _)| Path::new(path))
            .filter(|path| path.starts_with(root) || root.starts_with(path))
            .collect()
    }

    /// What an operator does about entries that trust folders of the workspace
    /// root, in words. Returns `None` if there is no such setting.
    pub fn advice(&self, root: &Path) -> Option<String> {
        let trusted = self.trusted(root);
        let first = trusted.first()?;
        Some(format!(
            "{} trusts {} of the folders of workspaces, such as {}: turns ignore that, but codex that is started by hand \
             or by a worker of version 0.1.0 takes programs, rules and MCP servers from there; delete these [projects.\"…\"] tables",
            self.path.display(),
            trusted.len(),
            first.display()
        ))
    }

    /// The variables that providers take keys from.
    pub fn key_variables(&self) -> Vec<&str> {
        let providers = self
            .table
            .get("model_providers")
            .and_then(|value| value.as_table());
        let providers = providers.into_iter().flatten();
        providers
            .filter_map(|(_, provider)| provider.get("env_key")?.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(text: &str) -> ConfigFile {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.toml"), text).unwrap();
        ConfigFile::read(dir.path()).unwrap().unwrap()
    }

    #[test]
    fn trusted_folders_around_the_root_are_found() {
        let config = read(
            r#"
            model = "x"
            [projects."/srv/ws/acme/site"]
            trust_level = "trusted"
            [projects."/srv/ws"]
            trust_level = "trusted"
            [projects."/srv"]
            trust_level = "trusted"
            [projects."/srv/ws/other"]
            trust_level = "untrusted"
            [projects."/srv/ws2"]
            trust_level = "trusted"
            [projects."/srv/ws/odd"]
            trust_level = 3
            "#,
        );
        let trusted = config.trusted(Path::new("/srv/ws"));
        let expected = ["/srv", "/srv/ws", "/srv/ws/acme/site"].map(Path::new);
        assert_eq!(trusted, expected);
        let advice = config.advice(Path::new("/srv/ws")).unwrap();
        assert!(advice.contains("trusts 3 of the folders") && advice.contains("/srv"));
        assert!(read("").trusted(Path::new("/srv")).is_empty());
        assert!(read("projects = 3").trusted(Path::new("/srv")).is_empty());
    }

    #[test]
    fn variables_with_keys_are_found() {
        let config =
            read("[model_providers.a]\nenv_key = \"A_KEY\"\n[model_providers.b]\nname = \"b\"\n");
        assert_eq!(config.key_variables(), ["A_KEY"]);
    }

    #[test]
    fn an_unreadable_file_is_an_error_without_a_quote() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        assert_eq!(ConfigFile::read(dir.path()).unwrap(), None);
        fs::write(&file, "secret = = 1").unwrap();
        let error = ConfigFile::read(dir.path()).unwrap_err().to_string();
        assert_eq!(error, "it is not TOML");
        fs::remove_file(&file).unwrap();
        symlink("/dev/zero", &file).unwrap();
        assert!(ConfigFile::read(dir.path()).is_err());
        fs::remove_file(&file).unwrap();
        let large = fs::File::create(&file).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        assert!(ConfigFile::read(dir.path()).is_err());
        fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert!(
            ConfigFile::read(dir.path()).is_err(),
            "and waits for no writer"
        );
    }
}
