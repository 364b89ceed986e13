//! Finds what a killed process left half stored in a folder of this machine.
//!
//! In: a table's folder. Out: files whose name is that of a data file with `#` and a number: a file has such a name until it is
//! complete. Stores over HTTP never show such rests, and no listing of a folder does. What was written to lately may still be
//! under way. State: none. Failure: a folder that cannot be read is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// When it was last written to, in ms since 1970.
    pub(super) since_ms: i64,
}

/// The rests below a table's folder that nobody has written to since `before_ms`.
pub(super) fn find(folder: &Path, before_ms: i64) -> Vec<Rest> {
    let mut rests = Vec::new();
    let mut folders: Vec<PathBuf> =
        entries(folder).filter(|(path, _)| is_partition(path)).map(|(path, _)| path).collect();
    while let Some(folder) = folders.pop() {
        for (path, entry) in entries(&folder) {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let written = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let since_ms = written.map_or(i64::MAX, |time| time.as_millis() as i64);
            if is_rest(&path) && since_ms <= before_ms {
                rests.push(Rest { path, bytes: metadata.len(), since_ms });
            }
        }
    }
    rests
}

fn entries(folder: &Path) -> impl Iterator<Item = (PathBuf, fs::DirEntry)> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| (entry.path(), entry))
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_partition(path: &Path) -> bool {
    let name = name(path);
    name.starts_with("granularity=") || name.starts_with("ingest_date=")
}

fn is_rest(path: &Path) -> bool {
    let number = name(path).split_once(".parquet#").map_or("", |(_, number)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn half_stored_files_that_nobody_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = SystemTime::now();
        let make = |path: &str, age: u64| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, "abc").expect("written");
            let file = fs::File::options().append(true).open(&path).expect("opened");
            file.set_modified(now - Duration::from_secs(age)).expect("set");
            path
        };
        let old = make("granularity=day/period=2026-01/bucket=1/a.parquet#1", 100);
        for (path, age) in [
            ("granularity=day/period=2026-01/bucket=1/b.parquet#12", 1),
            ("granularity=day/period=2026-01/bucket=1/a.parquet", 100),
            ("granularity=day/period=2026-01/bucket=1/a.parquet#x", 100),
            ("granularity=day/period=2026-01/bucket=1/a.txt#1", 100),
            ("backup/a.parquet#1", 100),
            ("a.parquet#1", 100),
        ] {
            make(path, age);
        }
        let since =
            |age: u64| (now - Duration::from_secs(age)).duration_since(UNIX_EPOCH).expect("later").as_millis() as i64;
        let found = find(folder.path(), since(50));
        assert_eq!(found, [Rest { path: old, bytes: 3, since_ms: since(100) }]);
        assert!(find(&folder.path().join("gone"), since(0)).is_empty());
    }
}
