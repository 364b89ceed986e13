//! How long what is superseded stays, as the table itself says it: other programs' vacuum and checkpoints follow it too.

use std::collections::BTreeMap;

use super::state::State;

const DEAD_FILES: &str = "delta.deletedFileRetentionDuration";
const LOG: &str = "delta.logRetentionDuration";

/// The table properties that go with `settings.dead_files_keep_hours`.
pub fn properties(keep_hours: u64) -> BTreeMap<String, String> {
    [DEAD_FILES, LOG].map(|name| (name.to_owned(), format!("interval {keep_hours} hours"))).into()
}

/// What a table says of itself, where it is said as [`properties`] says it.
pub fn keep_hours(state: &State) -> Option<u64> {
    state.properties.get(DEAD_FILES)?.strip_prefix("interval ")?.strip_suffix(" hours")?.parse().ok()
}
