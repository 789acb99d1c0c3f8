//! The images of a request, read for codex.

use super::NotStarted;
use crate::codex::engine::Image as Read;
use crate::request::{Image, ImagePath, MAX_IMAGE_BYTES, MediaType, decode};
use crate::workspace::{ImageError, StateError, Workspace};

/// Why the images can't be used.
pub(super) enum NoImages {
    /// For good, in words.
    Unusable(String),
    /// For now.
    NotRead(NotStarted),
}

/// Each as it is now: what was opened is what codex gets, even if the agent changes the
/// workspace meanwhile.
pub(super) fn read(images: &[Image], workspace: &Workspace) -> Result<Vec<Read>, NoImages> {
    let mut left = MAX_IMAGE_BYTES;
    let mut all = Vec::new();
    for image in images {
        let image = match image {
            Image::Base64 { media_type, data } => Read {
                media_type: *media_type,
                // It was looked at when the request was read.
                bytes: decode(data).map_err(|error| NoImages::Unusable(error.to_string()))?,
            },
            Image::Path { path } => file(path, workspace, left)?,
        };
        left = left.saturating_sub(image.bytes.len());
        all.push(image);
    }
    Ok(all)
}

fn file(path: &ImagePath, workspace: &Workspace, left: usize) -> Result<Read, NoImages> {
    let unusable = |why: String| {
        NoImages::Unusable(format!("the image {} can't be used: {why}", path.as_str()))
    };
    let bytes = match workspace.read_image(path, left as u64) {
        Ok(bytes) => bytes,
        Err(ImageError::Unusable(why)) => return Err(unusable(why)),
        Err(ImageError::Disk(error)) => {
            return Err(NoImages::NotRead(StateError::from(error).into()));
        }
    };
    let Some(media_type) = MediaType::of(&bytes) else {
        let known = MediaType::ALL.map(MediaType::as_str).join(", ");
        return Err(unusable(format!("it does not start as any of {known}")));
    };
    Ok(Read { media_type, bytes })
}
