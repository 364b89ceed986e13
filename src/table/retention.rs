//! How long superseded files and the log are kept, as a property of the table, so that other programs' vacuum and checkpoints
//! follow it too. Pure.

use std::collections::BTreeMap;

use super::state::State;

const DEAD_FILES: &str = "delta.deletedFileRetentionDuration";
const LOG: &str = "delta.logRetentionDuration";

/// The table properties for `settings.dead_files_keep_hours`.
pub fn properties(keep_hours: u64) -> BTreeMap<String, String> {
    [DEAD_FILES, LOG].map(|name| (name.to_owned(), format!("interval {keep_hours} hours"))).into()
}

/// The hours in a table's properties, if they are written as [`properties`] writes them.
pub fn keep_hours(state: &State) -> Option<u64> {
    state.properties.get(DEAD_FILES)?.strip_prefix("interval ")?.strip_suffix(" hours")?.parse().ok()
}
