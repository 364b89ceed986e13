//! What another program does to a table.

use floodmark::table::store::write_file;
use floodmark::table::{Commit, File, Log};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::live::BASE;

/// Commits `change` as another program.
pub(crate) async fn commits(log: Log, change: impl FnOnce(&mut Commit)) {
    let mut state = log.load().await.expect("readable").expect("a table");
    let mut commit = Commit::default();
    change(&mut commit);
    log.commit(&mut state, &commit, "RIVAL", BASE / 1000).await.expect("the rival is alone");
}

/// Replaces all files of a bucket of `counts` with files of other names and the same rows, as a compaction would.
pub(crate) async fn replaced(log: Log, bucket: &str) {
    let state = log.load().await.expect("readable").expect("a table");
    let mut change = Commit::default();
    for file in state.files.values().filter(|file| file.partition["bucket"] == bucket) {
        let path = Path::from(file.path.as_str());
        let bytes = log.store().get(&path).await.expect("there").bytes().await.expect("bytes");
        let copy = File { path: file.path.replace(".parquet", "-compacted.parquet"), ..file.clone() };
        write_file(log.store().as_ref(), &copy.path, bytes).await.expect("written");
        change.remove.push(file.clone());
        change.add.push(copy);
    }
    assert!(!change.add.is_empty(), "there was something to replace");
    commits(log, |commit| *commit = change).await;
}
