//! Keeps the files of a workspace from configuring codex, unless the
//! operator allows it.
//!
//! codex reads `.codex/` (settings, MCP servers, rules) in the directory that
//! it runs in and in those above, and believes it if that directory is
//! *trusted*. Both engines decide that by the table `projects`; with
//! `app-server`, a `thread/start` that may write even makes a new entry. An
//! argument outranks every entry that is in a file, and where there is an
//! entry, codex makes no entry.
//!
//! Some of this is not behind that trust: codex itself runs `git status` in
//! the workspace, and git runs the filter programs that `.git/config` names.

use std::collections::BTreeSet;
use std::path::Path;

use toml::Value;

/// Whether codex takes configuration from the workspace that it runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkspaceConfig {
    Ignored,
    Trusted,
}

/// Arguments that decide whether codex believes the configuration in
/// `workspace`, under each of its `paths`, and that it trusts no folder above.
pub(crate) fn trust(config: WorkspaceConfig, paths: &[&Path]) -> [String; 2] {
    let above = paths.iter().flat_map(|path| path.ancestors().skip(1));
    let mut projects = toml::Table::new();
    for folder in above.collect::<BTreeSet<_>>() {
        projects.insert(text(folder), level("untrusted"));
    }
    for path in paths {
        let believed = match config {
            WorkspaceConfig::Ignored => "untrusted",
            WorkspaceConfig::Trusted => "trusted",
        };
        projects.insert(text(path), level(believed));
    }
    set("projects", Value::Table(projects))
}

/// Paths of workspaces are UTF-8, see [`crate::workspace::Root::open`].
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn level(word: &str) -> Value {
    let entry = ("trust_level".to_owned(), Value::String(word.to_owned()));
    Value::Table(toml::Table::from_iter([entry]))
}

/// Arguments for a setting that outranks those in codex's files.
fn set(key: &str, value: Value) -> [String; 2] {
    ["-c".to_owned(), format!("{key}={value}")]
}

/// Arguments that give a variable that value in the agent's commands, and
/// leave codex itself its own. Merged with what a `config.toml` sets there,
/// unlike a list such as `exclude`, which would replace the operator's.
///
/// The name must be one of a variable, as [`crate::config`] takes it.
pub(crate) fn command_variable(name: &str, value: &str) -> [String; 2] {
    let key = format!("shell_environment_policy.set.{name}");
    set(&key, Value::String(value.to_owned()))
}

const GIT_COUNT: &str = "GIT_CONFIG_COUNT";

/// Keeps the `git status` that codex runs by itself from starting programs: it
/// ends at a setting that no `git status` accepts, before it looks at a file.
/// The agent's own git does not see it, thanks to the arguments that are
/// returned. Git has no switch for filter programs alone.
pub(crate) fn without_git_status(env: &mut Vec<(String, String)>) -> Option<[String; 2]> {
    let known = env.iter().find(|(name, _)| name == GIT_COUNT);
    let count = match known {
        Some((_, count)) if !count.is_empty() => count.clone(),
        _ => "0".to_owned(),
    };
    // Git itself fails at any other count.
    let next: usize = count.parse().ok()?;
    let ours = [
        (format!("GIT_CONFIG_KEY_{next}"), "status.short"),
        (
            format!("GIT_CONFIG_VALUE_{next}"),
            "switched off by turn-worker for codex itself",
        ),
        (GIT_COUNT.to_owned(), &(next + 1).to_string()),
    ];
    env.retain(|(name, _)| ours.iter().all(|(own, _)| own != name));
    env.extend(ours.map(|(name, value)| (name, value.to_owned())));
    Some(command_variable(GIT_COUNT, &count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As codex splits and reads an argument of `-c`.
    fn read(args: &[String; 2]) -> (String, Value) {
        assert_eq!(args[0], "-c");
        let (key, value) = args[1].split_once('=').unwrap();
        let read: toml::Table = toml::from_str(&format!("x = {value}")).unwrap();
        (key.to_owned(), read["x"].clone())
    }

    fn levels(config: WorkspaceConfig, paths: &[&str]) -> Vec<(String, String)> {
        let paths: Vec<&Path> = paths.iter().map(Path::new).collect();
        let (key, value) = read(&trust(config, &paths));
        assert_eq!(key, "projects");
        let level = |entry: &Value| entry["trust_level"].as_str().unwrap().to_owned();
        let table = value.as_table().unwrap();
        table.iter().map(|(k, v)| (k.clone(), level(v))).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_workspace_and_all_folders_above_are_untrusted() {
        let untrusted = ["/", "/a", "/a/b", "/x", "/x/y"].map(|path| (path, "untrusted"));
        assert_eq!(
            levels(WorkspaceConfig::Ignored, &["/a/b", "/x/y"]),
            pairs(&untrusted)
        );
    }

    #[test]
    fn where_workspaces_are_trusted_the_folders_above_are_not() {
        let expected = [
            ("/", "untrusted"),
            ("/a", "untrusted"),
            ("/a/b", "trusted"),
            ("/a/b/c", "trusted"),
        ];
        let found = levels(WorkspaceConfig::Trusted, &["/a/b/c", "/a/b"]);
        assert_eq!(found, pairs(&expected));
    }

    #[test]
    fn any_path_is_read_back_as_it_is() {
        for name in [
            "plain",
            "a b",
            "a.b",
            "a=b",
            "[x]",
            "{a,b}",
            "#c",
            "quote\"s",
            "it's",
            "'''",
            "\"\"\"",
            "back\\slash",
            "\\u0041",
            "line\nfeed",
            "\ttab",
            "\u{7f}\u{1}",
            "é漢𝄞",
            "\u{202e}",
            "-c",
        ] {
            let path = format!("/{name}");
            let found = levels(WorkspaceConfig::Ignored, &[&path]);
            assert!(found.contains(&(path, "untrusted".into())), "{found:?}");
        }
    }

    #[test]
    fn a_commands_variable_is_a_key_of_its_own() {
        assert_eq!(
            command_variable("CODEX_API_KEY", ""),
            ["-c", "shell_environment_policy.set.CODEX_API_KEY=\"\""]
        );
    }

    #[test]
    fn git_status_fails_in_codex_and_not_in_commands() {
        let mut env = pairs(&[("PATH", "/bin")]);
        let args = without_git_status(&mut env).unwrap();
        assert_eq!(
            args[1],
            "shell_environment_policy.set.GIT_CONFIG_COUNT=\"0\""
        );
        let value = "switched off by turn-worker for codex itself";
        let expected = [
            ("PATH", "/bin"),
            ("GIT_CONFIG_KEY_0", "status.short"),
            ("GIT_CONFIG_VALUE_0", value),
            ("GIT_CONFIG_COUNT", "1"),
        ];
        assert_eq!(env, pairs(&expected));
    }

    #[test]
    fn the_operators_git_settings_stay() {
        let operators = [
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "user.name"),
            ("GIT_CONFIG_VALUE_0", "Ada"),
        ];
        let mut env = pairs(&operators);
        let args = without_git_status(&mut env).unwrap();
        assert!(args[1].ends_with("=\"1\""), "{args:?}");
        let of = |name: &str| {
            let found: Vec<&str> = (env.iter().filter(|(set, _)| set == name))
                .map(|(_, value)| value.as_str())
                .collect();
            found.join("|")
        };
        assert_eq!(of("GIT_CONFIG_COUNT"), "2");
        assert_eq!(of("GIT_CONFIG_VALUE_0"), "Ada");
        assert_eq!(of("GIT_CONFIG_KEY_1"), "status.short");

        let mut broken = pairs(&[("GIT_CONFIG_COUNT", "many")]);
        assert_eq!(without_git_status(&mut broken), None);
        assert_eq!(broken, pairs(&[("GIT_CONFIG_COUNT", "many")]));
    }
}
