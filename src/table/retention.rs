//! How long what is superseded stays, as the table itself says it: other programs' vacuum and checkpoints follow it too.

use std::collections::BTreeMap;

/// The table properties that go with `settings.dead_files_keep_hours`.
pub fn properties(keep_hours: u64) -> BTreeMap<String, String> {
    ["delta.deletedFileRetentionDuration", "delta.logRetentionDuration"]
        .map(|name| (name.to_owned(), format!("interval {keep_hours} hours")))
        .into()
}
