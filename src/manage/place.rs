//! Where the tables are that a command is about: a job file, a folder of tables or one table, as a path or a URL.

use std::collections::BTreeMap;
use std::path::Path;

use super::{ManageError, Tables};
use crate::job::{Job, Settings};
use crate::table::{Log, Root, State};

const EXPECTED: &str =
    "expected a job file, the folder of a job's tables raw and counts, one of them, or a URL as s3://bucket/path";

/// Tables that a command line names.
pub(crate) struct Place {
    /// The folder of the tables.
    pub(crate) root: Root,
    /// The job's, where one was given.
    pub(super) settings: Option<Settings>,
    /// Options of the store.
    pub(super) options: BTreeMap<String, String>,
    /// The only table that was named.
    table: Option<String>,
}

impl Place {
    pub(crate) async fn open(place: &str) -> Result<Place, ManageError> {
        let path = match place.split_once("://") {
            Some(("file", path)) => Path::new(path),
            Some(_) => return Place::of_url(place).await,
            None => Path::new(place),
        };
        if path.is_file() {
            let job = Job::load(path)?;
            let root = Root::open(&job.tables.url, &job.tables.options)?;
            return Ok(Place { root, settings: Some(job.settings), options: job.tables.options, table: None });
        }
        let path = std::fs::canonicalize(path)
            .map_err(|error| ManageError::Place(format!("{place}: found nothing there ({error}); {EXPECTED}")))?;
        let has_log = |folder: &Path| folder.join("_delta_log").is_dir();
        let open = |folder: &Path, table| {
            let root = Root::open(&folder.to_string_lossy(), &BTreeMap::new())?;
            Ok(Place { root, settings: None, options: environment(), table })
        };
        if has_log(&path)
            && let (Some(folder), Some(name)) = (path.parent(), path.file_name())
        {
            return open(folder, Some(name.to_string_lossy().into_owned()));
        }
        if has_log(&path.join("raw")) || has_log(&path.join("counts")) {
            return open(&path, None);
        }
        Err(ManageError::Place(format!("{place}: found a folder without tables; {EXPECTED}")))
    }

    async fn of_url(place: &str) -> Result<Place, ManageError> {
        let options = environment();
        let url = place.trim_end_matches('/');
        // A table itself has a log right below it.
        if let Some((folder, name)) = url.rsplit_once('/').filter(|(folder, _)| !folder.ends_with('/')) {
            let root = Root::open(folder, &options)?;
            let listing = Log::new(&root, name).list(None).await?;
            if !listing.commits.is_empty() || !listing.checkpoints.is_empty() {
                return Ok(Place { root, settings: None, options, table: Some(name.to_owned()) });
            }
        }
        Ok(Place { root: Root::open(url, &options)?, settings: None, options, table: None })
    }

    /// Names of the tables, of those that were asked for.
    pub(super) fn tables(&self, wanted: Tables) -> Result<Vec<String>, ManageError> {
        let names: &[&str] = match wanted {
            Tables::Raw => &["raw"],
            Tables::Counts => &["counts"],
            Tables::All => &["raw", "counts"],
        };
        match &self.table {
            Some(table) if wanted == Tables::All || names == [table] => Ok(vec![table.clone()]),
            Some(table) => Err(ManageError::Usage(format!(
                "--table {} and a path to table {table}: leave one of them out",
                names.join(", ")
            ))),
            None => Ok(names.iter().map(|name| (*name).to_owned()).collect()),
        }
    }

    /// The newest version of a table.
    pub(super) async fn load(&self, table: &str) -> Result<(Log, State), ManageError> {
        let log = Log::new(&self.root, table);
        match log.load().await? {
            Some(state) => Ok((log, state)),
            None => Err(ManageError::Place(format!(
                "{}: found no table {table} there; {EXPECTED}. A job makes its tables when it is run first: floodmark run JOB",
                self.root.url()
            ))),
        }
    }
}

/// Options of object stores in the environment. What a store does not know it leaves aside.
pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| {
            ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)) && !value.is_empty()
        })
        .map(|(name, value)| (name.to_lowercase(), value))
        .collect()
}
