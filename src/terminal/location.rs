//! The tables that a command is pointed at: by a job file, a folder of tables or one table, as a path or a URL.
//!
//! In: `JOB|PATH|URL` of a command line; without a job file the store's options come from the environment. Out: the opened folder
//! of the tables, and the job where one was given. Nothing is written and no folder is made. Errors say what was expected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::job::{Job, JobError};
use crate::process::{Exit, HasExit};
use crate::table::{Log, Root, State, TableError};

const EXPECTED: &str =
    "expected a job file, the folder of a job's tables raw and counts, one of them, or a URL such as s3://bucket/path";

/// Tables that a command line names.
pub struct Location {
    /// The folder of the tables.
    pub root: Root,
    /// The job, where one was given.
    pub job: Option<Job>,
    /// Options of the store.
    pub options: BTreeMap<String, String>,
    /// The table, if only one was named.
    pub table: Option<String>,
}

/// Why the tables that a command line names can not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// The job file.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The store, or a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nothing is there, or something that is no table.
    #[error("{0}")]
    Unexpected(String),
}

impl HasExit for LocationError {
    fn exit(&self) -> Exit {
        match self {
            LocationError::Job(error) => error.exit(),
            LocationError::Table(error) => error.exit(),
            LocationError::Unexpected(_) => Exit::Configuration,
        }
    }
}

impl Location {
    /// Opens what a command line names. A path to a file, or one that ends in `.toml`, names a job.
    ///
    /// # Errors
    /// [`LocationError`].
    pub async fn open(named: &str) -> Result<Location, LocationError> {
        let path: PathBuf = match named.split_once("://") {
            Some(("file", path)) => {
                let decoded = url::Url::parse(named).ok().and_then(|url| url.to_file_path().ok());
                decoded.unwrap_or_else(|| path.into())
            }
            Some(_) => return Location::of_url(named).await,
            None => named.into(),
        };
        if path.is_file() || named.ends_with(".toml") {
            let job = Job::load(&path)?;
            let root = Root::open(&job.tables.url, &job.tables.options)?;
            let options = job.tables.options.clone();
            return Ok(Location { root, job: Some(job), options, table: None });
        }
        let path = std::fs::canonicalize(path).map_err(|error| {
            LocationError::Unexpected(format!("{named}: found nothing there ({error}); {EXPECTED}"))
        })?;
        let has_log = |folder: &Path| folder.join("_delta_log").is_dir();
        let open = |folder: &Path, table| {
            let root = Root::open(&folder.to_string_lossy(), &BTreeMap::new())?;
            Ok(Location { root, job: None, options: environment(), table })
        };
        if has_log(&path)
            && let (Some(folder), Some(name)) = (path.parent(), path.file_name())
        {
            return open(folder, Some(name.to_string_lossy().into_owned()));
        }
        if has_log(&path.join("raw")) || has_log(&path.join("counts")) {
            return open(&path, None);
        }
        Err(LocationError::Unexpected(format!("{named}: found a folder without tables; {EXPECTED}")))
    }

    async fn of_url(named: &str) -> Result<Location, LocationError> {
        if url::Url::parse(named).is_ok_and(|url| url.password().is_some()) {
            let what =
                "found a password in the URL; set it in the environment (AWS_SECRET_ACCESS_KEY …) or in a job file";
            return Err(TableError::Invalid(what.to_owned()).into());
        }
        let options = environment();
        let url = named.trim_end_matches('/');
        // A table itself has a log right below it.
        if let Some((folder, name)) = url.rsplit_once('/').filter(|(folder, _)| !folder.ends_with('/')) {
            let root = Root::open(folder, &options)?;
            let listing = Log::new(&root, name).list(None).await?;
            if !listing.commits.is_empty() || !listing.checkpoints.is_empty() {
                return Ok(Location { root, job: None, options, table: Some(name.to_owned()) });
            }
        }
        Ok(Location { root: Root::open(url, &options)?, job: None, options, table: None })
    }

    /// The newest version of a table.
    ///
    /// # Errors
    /// [`LocationError`], also when there is no such table.
    pub async fn load(&self, table: &str) -> Result<(Log, State), LocationError> {
        let log = Log::new(&self.root, table);
        match log.load().await? {
            Some(state) => Ok((log, state)),
            None => Err(LocationError::Unexpected(format!(
                "{}: found no table {table}; {EXPECTED}. A job creates its tables when it runs for the first time: \
                 floodmark run JOB",
                self.root.url()
            ))),
        }
    }
}

/// The options of object stores that are set in the environment. A store ignores those that it does not know.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| {
            ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)) && !value.is_empty()
        })
        .map(|(name, value)| (name.to_lowercase(), value))
        .collect()
}
