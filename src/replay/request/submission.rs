//! The submission of a replay: its range, its logic, and the versions of both tables that it reads.
//!
//! In: what `prepare` has made. Out: `replays/<id>/plan.json`, in the folder of all files of the replay. It is written first and never
//! changed: submitting the same id again continues the same replay, even if two processes do so at the same time. State: none.

use std::ops::Range;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::dataflow::route::Scope;
use crate::ledger::{Entry, Fingerprint};
use crate::model::{Epoch, Granularity, Lane, TimeUs};
use crate::table::store::load_json;
use crate::table::{Root, TableError};

/// The folder of all replays, beside the tables.
pub const FOLDER: &str = "replays";

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Event times in this stretch, in µs.
    EventTimes(Range<TimeUs>),
    /// All windows that rows ingested in this stretch touch, in µs.
    IngestTimes(Range<TimeUs>),
}

impl Asked {
    /// The requested stretch.
    pub fn range(&self) -> &Range<TimeUs> {
        let (Asked::EventTimes(range) | Asked::IngestTimes(range)) = self;
        range
    }

    /// Whether rows are selected by the event time that they have on record.
    pub fn is_by_event_time(&self) -> bool {
        matches!(self, Asked::EventTimes(_))
    }
}

/// A replay as it was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Its id.
    pub id: String,
    /// The job's name.
    pub job: String,
    /// When it was submitted, in ms since 1970.
    pub submitted_ms: i64,
    /// What was asked for.
    pub asked: Asked,
    /// The event times that are recounted, in µs: ascending stretches that do not touch.
    pub coverage: Vec<Range<TimeUs>>,
    /// The only customers that are recounted, sorted; `None` for all.
    pub customers: Option<Vec<String>>,
    /// The logic that it counts with.
    pub logic: Fingerprint,
    /// The epoch from which on live counts with this logic. `None` if another logic is the newest on record: then the replay is a preview.
    pub before: Option<Epoch>,
    /// As [`Entry::whole_only`].
    pub whole_only: Vec<(Granularity, String)>,
    /// The version of `raw` that is read.
    pub raw_version: u64,
    /// The version of `counts` that is compared with the recount.
    pub counts_version: u64,
    /// The epoch of each lane of [`Lane::ALL`] in that version.
    pub lanes: [Epoch; Lane::ALL.len()],
    /// The order of the newest publish or undo in that version.
    pub order: i64,
    /// Bytes of files of `raw` in a chunk. A killed replay continues after the chunks that are done.
    pub chunk_bytes: u64,
}

impl Submission {
    /// The path of a file of a replay.
    pub fn path(id: &str, name: &str) -> String {
        format!("{FOLDER}/{id}/{name}")
    }

    /// Reads the submission of a replay; `None` if there is no such replay.
    ///
    /// # Errors
    /// [`TableError::Storage`]; [`TableError::Corrupt`] when it can not be read.
    pub async fn load(root: &Root, id: &str) -> Result<Option<Submission>, TableError> {
        load_json(root, &Submission::path(id, "plan.json")).await
    }

    /// Writes the submission, unless the id is taken: then the existing one is returned.
    ///
    /// # Errors
    /// As [`Submission::load`].
    pub async fn submit(self, root: &Root) -> Result<Submission, TableError> {
        let path = Submission::path(&self.id, "plan.json");
        let bytes =
            Bytes::from(serde_json::to_vec_pretty(&self).expect("a submission is made of texts, numbers and lists"));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match root.store().put_opts(&Path::from(path.as_str()), bytes.into(), options).await {
            Ok(_) => Ok(self),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                Ok(Submission::load(root, &self.id).await?.unwrap_or(self))
            }
            Err(error) => Err(TableError::storage(format!("writing {path}"), error)),
        }
    }

    /// The newest epoch of any lane: rows of later epochs are not published yet.
    pub fn up_to(&self) -> Epoch {
        self.lanes.into_iter().max().unwrap_or(0)
    }

    /// The event times and customers that are counted.
    pub fn scope(&self) -> Scope {
        let customers = self.customers.as_ref();
        Scope {
            coverage: self.coverage.clone(),
            customers: customers.map(|all| all.iter().map(|customer| customer.as_bytes().into()).collect()),
        }
    }

    /// The entry that is on record once the replay is published; `None` for a preview.
    pub fn entry(&self) -> Option<Entry> {
        Some(Entry {
            id: self.id.clone(),
            coverage: self.coverage.clone(),
            customers: self.customers.clone(),
            logic: self.logic,
            before: self.before?,
            whole_only: self.whole_only.clone(),
        })
    }
}
