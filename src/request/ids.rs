use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Why a text is no id; reads as the rule that it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It is no turn id.
    #[error("1 to 128 of A-Z a-z 0-9 . _ -")]
    TurnId,
    /// It is no workspace id.
    #[error(
        "1 to 4 segments joined by /, each 1 to 64 of A-Z a-z 0-9 . _ - and beginning with a letter or digit"
    )]
    Workspace,
    /// It is an absolute path that leads elsewhere.
    #[error("a path under the workspace root")]
    OutsideRoot,
}

/// The name of a turn: 1 to 128 of `[A-Za-z0-9._-]`. `.` and `..` are valid
/// ids, so they must not be used as a file name without something before it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TurnId(Arc<str>);

impl TurnId {
    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id's text, without copying it.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromStr for TurnId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if (1..=128).contains(&text.len()) && text.bytes().all(is_id_byte) {
            Ok(Self(text.into()))
        } else {
            Err(IdError::TurnId)
        }
    }
}

/// The name of a workspace: its directory relative to the workspace root, 1
/// to 4 segments. No segment starts with a dot, so that an id can't climb out of
/// the root or meets the worker's own folder in it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct WorkspaceId(Arc<str>);

impl WorkspaceId {
    /// `text` is the id, or an absolute path under one of `roots`. Paths are
    /// compared as they are spelled; the disk is not read.
    pub fn parse(text: &str, roots: &[PathBuf]) -> Result<Self, IdError> {
        if !text.starts_with('/') {
            return text.parse();
        }
        // The longest root is the nearest one: /a/link may be another
        // spelling of /a, and a path under it is a path under both.
        let below = roots
            .iter()
            .filter_map(|root| Path::new(text).strip_prefix(root).ok())
            .min_by_key(|below| below.components().count())
            .ok_or(IdError::OutsideRoot)?;
        let mut segments = Vec::new();
        for component in below.components() {
            match component {
                Component::Normal(name) => segments.push(name.to_str().ok_or(IdError::Workspace)?),
                _ => return Err(IdError::OutsideRoot),
            }
        }
        segments.join("/").parse()
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id's text, without copying it.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The outermost segment first.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for WorkspaceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut segments = 0;
        for segment in text.split('/') {
            segments += 1;
            if segments > 4 || !is_segment(segment) {
                return Err(IdError::Workspace);
            }
        }
        Ok(Self(text.into()))
    }
}

fn is_segment(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().all(is_id_byte)
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The form of a tenant's name, in words.
pub const TENANT_RULE: &str = "1 to 64 of A-Z a-z 0-9 . _ - and beginning with a letter or digit";

/// The same as for a segment of a workspace's name, which may be a tenant, too.
pub fn is_tenant(text: &str) -> bool {
    is_segment(text)
}

pub(crate) const MODEL_NAME_RULE: &str =
    "1 to 128 of A-Z a-z 0-9 . _ : / @ - and not beginning with -";

/// A model's name is an argument of codex: it must not pass for a flag.
pub(crate) fn is_model_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|b| is_id_byte(b) || matches!(b, b':' | b'/' | b'@'))
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|rule: IdError| {
                    de::Error::invalid_value(de::Unexpected::Str(&text), &&*rule.to_string())
                })
            }
        }
    };
}

text_id!(TurnId);
text_id!(WorkspaceId);
