//! `floodmark table export`: the newest version of a table as plain Parquet files in Hive folders.
//!
//! ```text
//! TO/20260113T120000Z-1f0c…/counts/granularity=day/period=2026-01/bucket=3/….parquet     one folder for each export
//! TO/latest                        a link to the newest on a disk; on an object store an object that holds its name
//! ```
//!
//! A snapshot is complete before `latest` is replaced, in one atomic step. The previous snapshot stays until the next export, so
//! that its readers can finish. Older ones are deleted, and so are those of exports that were killed. The tables are only read.

use std::path::PathBuf;

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, WriteMultipart};
use serde_json::json;

use super::arguments::{Common, Tables, names_of};
use super::error::TableCommandError;
use crate::table::store::look_at_file;
use crate::table::{File, Log, Root, TableError};
use crate::terminal::{LiveLine, Location, bytes, grouped};

/// How many files are copied at once, and the size above which a file is copied in parts.
const FILES_AT_ONCE: usize = 4;
const PART_BYTES: usize = 8 << 20;

const LATEST: &str = "latest";

/// Options of `floodmark table export`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Each export writes a folder of its own below TO, named after its time. `latest` names the newest \
        one: on a disk it is a symbolic link, on an object store an object that contains the folder's name. It is \
        replaced in one atomic step when the new snapshot is complete, so an export that is killed changes nothing for \
        readers. The previous snapshot is kept until the next export; older ones are deleted. A query that globs \
        through the link while it is replaced can see files of both snapshots: resolve the link first where that \
        matters (readlink -f TO/latest). Run only one export to a target at a time.\n\n\
        DuckDB: SELECT … FROM read_parquet('TO/latest/counts/granularity=*/period=*/bucket=*/*.parquet', \
        hive_partitioning = true, hive_types = {'period': VARCHAR})"
)]
pub struct ExportArgs {
    #[command(flatten)]
    common: Common,

    /// Where to: a folder or a URL; the store's options are those of the job's tables, or come from the environment
    #[arg(long, value_name = "PATH|URL")]
    to: String,

    /// Which tables
    #[arg(long, value_enum, default_value_t = Tables::Counts)]
    table: Tables,
}

pub(super) async fn run(args: &ExportArgs) -> Result<(), TableCommandError> {
    let location = Location::open(&args.common.place).await?;
    let tables = match names_of(args.table, &location) {
        // A path to one table says which one is meant.
        Err(_) if args.table == Tables::Counts => names_of(Tables::All, &location)?,
        tables => tables?,
    };
    let mut sources = Vec::new();
    for table in tables {
        sources.push(location.load(&table).await?);
    }
    let to = Target::open(&args.to, &location).await?;
    let before = to.latest().await?;
    let now = chrono::Utc::now().format("%Y%m%dT%H%M%SZ");
    let id = format!("{now}-{:08x}", rand::random::<u32>());

    let files: Vec<(&Log, &File)> =
        sources.iter().flat_map(|(log, state)| state.files.values().map(move |file| (log, file))).collect();
    let rows: u64 = files.iter().map(|(_, file)| file.rows).sum();
    let size: u64 = files.iter().map(|(_, file)| file.size).sum();
    let count = files.len() as u64;
    let mut line = LiveLine::new("export", Some(rows));
    let mut done = 0;
    let mut copies = futures::stream::iter(files)
        .map(|(log, file)| {
            let path = Path::from(format!("{id}/{}/{}", log.name(), file.path));
            let store = to.root.store();
            async move { copy(log, file, store.as_ref(), &path).await.map(|()| file.rows) }
        })
        .buffer_unordered(FILES_AT_ONCE);
    while let Some(copied) = copies.try_next().await? {
        done += copied;
        line.tick(done, String::new);
    }
    drop(copies);
    line.clear();
    to.point_to(&id).await?;
    to.delete_others(&[Some(id.as_str()), before.as_deref()]).await?;

    let versions: serde_json::Map<_, _> =
        sources.iter().map(|(log, state)| (log.name().to_owned(), json!(state.version))).collect();
    let path = format!("{}/{id}", args.to.trim_end_matches('/'));
    args.common.print(
        || json!({"path": path, "versions": versions, "files": count, "rows": rows, "bytes": size}),
        || {
            let versions: Vec<String> =
                versions.iter().map(|(table, version)| format!("{table} version {version}")).collect();
            let (count, rows, size) = (grouped(count), grouped(rows), bytes(size));
            format!("{}: {count} files of {size} with {rows} rows in {path}", versions.join(", "))
        },
    )
}

async fn copy(log: &Log, file: &File, to: &dyn ObjectStore, path: &Path) -> Result<(), TableCommandError> {
    let from = Path::from(file.path.as_str());
    let reading = |error| match error {
        StoreError::NotFound { .. } => TableCommandError::retry(format!(
            "{from} of table {} was deleted during the export: the export took longer than dead files are kept; export \
             again, or raise settings.dead_files_keep_hours",
            log.name()
        )),
        error => TableError::storage(format!("table {}: reading {from}", log.name()), error).into(),
    };
    let writing = |error| TableCommandError::from(TableError::storage(format!("writing {path}"), error));
    if file.size <= PART_BYTES as u64 {
        let content = look_at_file(log.store().as_ref(), &from).await.map_err(reading)?;
        to.put(path, content.into()).await.map_err(writing)?;
        return Ok(());
    }
    let mut chunks = log.store().get(&from).await.map_err(reading)?.into_stream();
    let mut upload = WriteMultipart::new_with_chunk_size(to.put_multipart(path).await.map_err(writing)?, PART_BYTES);
    while let Some(chunk) = chunks.try_next().await.map_err(reading)? {
        upload.wait_for_capacity(1).await.map_err(writing)?;
        upload.put(chunk);
    }
    upload.finish().await.map(drop).map_err(writing)
}

/// Where an export goes.
struct Target {
    root: Root,
    /// The folder, if it is one on this machine.
    folder: Option<PathBuf>,
}

impl Target {
    async fn open(to: &str, location: &Location) -> Result<Target, TableCommandError> {
        let root = Root::make(to, &location.options)?;
        let folder = root.url().to_file_path().ok().filter(|_| root.url().scheme() == "file");
        if let Some(folder) = &folder {
            if ["_delta_log", "raw/_delta_log", "counts/_delta_log"].iter().any(|log| folder.join(log).is_dir()) {
                return Err(TableCommandError::Usage(format!(
                    "--to {to}: found tables in this folder; expected a folder used only for exports"
                )));
            }
            let latest = folder.join(LATEST);
            if latest.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
                return Err(TableCommandError::Usage(format!(
                    "--to {to}: found {}, which is not a link; expected no such file, or the link of an earlier export",
                    latest.display()
                )));
            }
        }
        Ok(Target { root, folder })
    }

    /// The folder that `latest` names now.
    async fn latest(&self) -> Result<Option<String>, TableCommandError> {
        if let Some(folder) = &self.folder {
            let link = std::fs::read_link(folder.join(LATEST)).ok();
            return Ok(link.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())));
        }
        match look_at_file(self.root.store().as_ref(), &Path::from(LATEST)).await {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).trim().to_owned())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(TableError::storage(format!("reading {LATEST}"), error).into()),
        }
    }

    async fn point_to(&self, id: &str) -> Result<(), TableCommandError> {
        if let Some(folder) = &self.folder {
            // A link can not be changed, but another one can be renamed over it.
            let new = folder.join(format!(".{LATEST}-{id}"));
            let doing = || format!("creating the link {}", folder.join(LATEST).display());
            std::os::unix::fs::symlink(id, &new).map_err(TableCommandError::disk(doing()))?;
            return std::fs::rename(&new, folder.join(LATEST)).map_err(TableCommandError::disk(doing()));
        }
        let put = self.root.store().put(&Path::from(LATEST), format!("{id}\n").into_bytes().into()).await;
        put.map(drop).map_err(|error| TableError::storage(format!("writing {LATEST}"), error).into())
    }

    /// Deletes all exports but these.
    async fn delete_others(&self, keep: &[Option<&str>]) -> Result<(), TableCommandError> {
        let store = self.root.store();
        let listing = |error| TableCommandError::from(TableError::storage("listing earlier exports", error));
        for prefix in store.list_with_delimiter(None).await.map_err(listing)?.common_prefixes {
            let name = prefix.filename().unwrap_or_default().to_owned();
            if !is_export(&name) || keep.contains(&Some(name.as_str())) {
                continue;
            }
            if let Some(folder) = &self.folder {
                let old = folder.join(&name);
                let doing = format!("deleting {}", old.display());
                std::fs::remove_dir_all(&old).map_err(TableCommandError::disk(doing))?;
                continue;
            }
            let paths: Vec<_> =
                store.list(Some(&prefix)).map_ok(|meta| meta.location).try_collect().await.map_err(listing)?;
            let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
            let deleted: Result<Vec<_>, _> = store.delete_stream(paths).try_collect().await;
            deleted.map_err(|error| TableError::storage(format!("deleting the earlier export {name}"), error))?;
        }
        Ok(())
    }
}

/// Whether a folder's name is one that an export gives.
fn is_export(name: &str) -> bool {
    let Some((time, nonce)) = name.split_once('-') else { return false };
    chrono::NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ").is_ok()
        && nonce.len() == 8
        && nonce.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_exports_are_deleted() {
        assert!(is_export("20260113T120000Z-00ff00ff"));
        for name in ["latest", "counts", "20260113T120000Z", "20260113T120000Z-mine", "2026-01-13"] {
            assert!(!is_export(name), "{name}");
        }
    }
}
