//! What becomes of a process when the file system of its workspace root was mounted again.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::workspace::Root;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Completes when the root was mounted again, or with `end`. Everything below the root is reached by
/// folders that are held open, by turns that run, too: so a new process starts from the new mount.
pub(super) async fn watch(root: Root, end: CancellationToken) {
    let remounted = async {
        loop {
            sleep(LOOK).await;
            let looked = root.clone();
            // One that hangs is waited for: there is nothing to restart on.
            let is_remounted = spawn_blocking(move || looked.is_remounted()).await;
            if is_remounted.unwrap_or(false) {
                break;
            }
        }
        tracing::error!(
            root = %root.path().display(),
            "the file system of the workspace root was mounted again, and what this process has opened there \
             is lost; ending, so that it is restarted"
        );
    };
    tokio::select! {
        () = remounted => {}
        () = end.cancelled() => {}
    }
}
