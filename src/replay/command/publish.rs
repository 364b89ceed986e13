//! `replay publish` and `replay undo`: one atomic commit of a replay's changes, or of their opposites.
//!
//! In: a replay's id. Out: the commit, and a sentence that says what was done; progress on stderr. Both commands can be repeated: what is
//! done already is not done again. State: see [`crate::replay::publish`].

use crate::process::Clock;
use crate::replay::error::ReplayError;
use crate::replay::publish::admission::Direction;
use crate::replay::publish::publisher::{Published, Publisher};
use crate::table::Root;
use crate::terminal::{LiveLine, grouped};

/// Publishes or undoes a replay, and shows a live line meanwhile.
///
/// # Errors
/// [`ReplayError`].
pub(super) async fn publish(root: &Root, id: &str, direction: Direction) -> Result<Published, ReplayError> {
    let publisher = Publisher {
        root: root.clone(),
        id: id.to_owned(),
        direction,
        clock: Clock::System,
        budget_bytes: PUBLISH_BYTES,
    };
    let mut line: Option<LiveLine> = None;
    let published = publisher
        .run(|progress| {
            let line = line.get_or_insert_with(|| LiveLine::new("publish", Some(progress.cells_total)));
            line.tick(progress.cells, || format!("{} files", grouped(progress.files)));
        })
        .await?;
    if let Some(line) = line {
        line.clear();
    }
    Ok(published)
}

/// Bytes that updates may take in memory.
const PUBLISH_BYTES: u64 = 256 << 20;

/// A sentence that says what was done.
pub(super) fn sentence(published: &Published, direction: Direction) -> String {
    let Published { id, version, order, cells, files, already } = published;
    let done = match direction {
        Direction::Publish => "published",
        Direction::Undo => "undone",
    };
    if *already {
        return format!("replay {id} is already {done} (order {order}); nothing was changed");
    }
    let (cells, files) = (grouped(*cells), grouped(*files));
    format!("replay {id} is {done}: {cells} cells, {files} files, counts version {version}, order {order}")
}
