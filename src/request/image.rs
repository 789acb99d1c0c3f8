//! The images that come with a prompt.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use super::rejection::{Violations, shown};

pub(super) const MAX_PATH_BYTES: usize = 1024;
const PATH_RULE: &str = "a path inside the workspace: 1 to 1024 bytes, not beginning with /, \
                         no empty part, no . or .. as a part, no NUL";

/// What an image is, by what it starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum MediaType {
    #[serde(rename = "image/png")]
    /// Portable Network Graphics.
    Png,
    #[serde(rename = "image/jpeg")]
    /// JPEG.
    Jpeg,
    #[serde(rename = "image/gif")]
    /// GIF87a or GIF89a.
    Gif,
    #[serde(rename = "image/webp")]
    /// WebP.
    Webp,
}

impl MediaType {
    /// All that codex takes.
    pub const ALL: [Self; 4] = [Self::Png, Self::Jpeg, Self::Gif, Self::Webp];

    /// As it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
        }
    }

    /// What these bytes start as.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| match kind {
            Self::Png => bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
            Self::Jpeg => bytes.starts_with(b"\xff\xd8\xff"),
            Self::Gif => bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a"),
            Self::Webp => bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"),
        })
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An image, or where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Image {
    /// In the request itself.
    Base64 {
        /// As the request says and the data's first bytes confirm.
        media_type: MediaType,
        /// As it came: it takes up less so than as a second copy.
        data: String,
    },
    /// In the workspace, as it is when the turn runs.
    Path {
        /// Relative to the workspace.
        path: ImagePath,
    },
}

impl Image {
    /// Of a block's `source`, with the path `at` in the request.
    pub(super) fn read(at: &str, source: &Value, violations: &mut Violations) -> Option<Self> {
        let text = |field: &str| source.get(field).and_then(Value::as_str);
        let mut violates = |field: &str, found: String, rule: String| {
            violations.add(format!("{at}{field}"), found, rule);
            None
        };
        match text("type") {
            Some("base64") => {
                let named = text("media_type").unwrap_or_default();
                let Some(media_type) = MediaType::ALL.into_iter().find(|of| of.as_str() == named)
                else {
                    let names = MediaType::ALL.map(MediaType::as_str).join(", ");
                    let found = shown(source.get("media_type"));
                    return violates(".media_type", found, format!("one of {names}"));
                };
                let data = text("data").unwrap_or_default();
                let found = |what: String| match data.is_empty() {
                    true => shown(source.get("data")),
                    false => what,
                };
                match decode(data) {
                    Ok(bytes) if MediaType::of(&bytes) == Some(media_type) => {
                        let data = data.to_owned();
                        Some(Self::Base64 { media_type, data })
                    }
                    Ok(bytes) => {
                        let kind = MediaType::of(&bytes)
                            .map_or("no known kind".to_owned(), |of| format!("{of}"));
                        let what = format!("{} bytes of {kind}", bytes.len());
                        violates(".data", found(what), format!("an image of {media_type}"))
                    }
                    Err(error) => {
                        let what = format!("{} characters ({error})", data.len());
                        let rule = "standard base64 with its padding, without line breaks";
                        violates(".data", found(what), rule.to_owned())
                    }
                }
            }
            Some("path") => {
                let path = text("path").and_then(ImagePath::new);
                match path {
                    Some(path) => Some(Self::Path { path }),
                    None => violates(".path", shown(source.get("path")), PATH_RULE.to_owned()),
                }
            }
            _ if source.is_object() => {
                let rule = "\"base64\" or \"path\"".to_owned();
                violates(".type", shown(source.get("type")), rule)
            }
            _ => violates("", shown(Some(source)), "an object".to_owned()),
        }
    }
}

pub(crate) fn decode(base64: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(base64)
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Leads only down from where it starts, as far as names show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagePath(String);

impl ImagePath {
    pub(super) fn new(path: &str) -> Option<Self> {
        let is_name = |part: &str| !matches!(part, "" | "." | "..");
        let sound = path.len() <= MAX_PATH_BYTES && !path.contains('\0');
        (sound && path.split('/').all(is_name)).then(|| Self(path.to_owned()))
    }

    /// The path, relative to the workspace.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders on the way, and the file's name.
    pub fn parts(&self) -> (impl Iterator<Item = &str>, &str) {
        let (folders, name) = self.0.rsplit_once('/').unwrap_or(("", &self.0));
        (folders.split('/').filter(|part| !part.is_empty()), name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_first_bytes() {
        for (bytes, kind) in [
            (&b"\x89PNG\r\n\x1a\nIHDR"[..], Some(MediaType::Png)),
            (b"\xff\xd8\xff\xe0", Some(MediaType::Jpeg)),
            (b"GIF89a", Some(MediaType::Gif)),
            (b"GIF87a", Some(MediaType::Gif)),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some(MediaType::Webp)),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"root:x:0:0:", None),
            (b"<svg/>", None),
            (b"", None),
        ] {
            assert_eq!(MediaType::of(bytes), kind, "{bytes:?}");
        }
    }

    #[test]
    fn g8_no_path_of_an_image_leads_up_or_away() {
        let long = format!("{}x", "a/".repeat(512));
        for path in [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "../x.png",
            "a/../b.png",
            "a/..",
            "a//b.png",
            "./a.png",
            "a/",
            "a/./b",
            "a\0b",
            &long,
        ] {
            assert_eq!(ImagePath::new(path), None, "{path:?}");
        }
        for path in ["a.png", "shots/a b.png", "..a/.b/c..", "--config=x", "é\n"] {
            let read = ImagePath::new(path).unwrap();
            let (folders, name) = read.parts();
            let parts: Vec<&str> = folders.chain([name]).collect();
            assert_eq!(parts.join("/"), path);
        }
    }
}
