//! What a replay is: the range, the logic, the versions of both tables that it reads.
//!
//! In: what `prepare` draws up. Out: `replays/<id>/plan.json`, and the folder of everything else that the replay leaves. It is
//! written first, and never changed: whoever submits the same id again goes on with the same replay, even if two do so at the same
//! time. State: none.

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
    /// The stretch.
    pub fn range(&self) -> &Range<TimeUs> {
        let (Asked::EventTimes(range) | Asked::IngestTimes(range)) = self;
        range
    }

    /// Whether rows are chosen by the event time that they have on record.
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
    /// The event times that are recounted, in µs: stretches that do not touch, ascending.
    pub coverage: Vec<Range<TimeUs>>,
    /// Only these customers, sorted; all where there are none.
    pub customers: Option<Vec<String>>,
    /// The logic that it counts with.
    pub logic: Fingerprint,
    /// From which epoch on live counts with this logic; `None` where another is the newest on record: then it is a preview.
    pub before: Option<Epoch>,
    /// As [`Entry::whole_only`].
    pub whole_only: Vec<(Granularity, String)>,
    /// The version of `raw` that is read.
    pub raw_version: u64,
    /// The version of `counts` that is compared with.
    pub counts_version: u64,
    /// The epoch of each lane of [`Lane::ALL`] in it.
    pub lanes: [Epoch; Lane::ALL.len()],
    /// The newest order of a publish or undo in it.
    pub order: i64,
    /// Bytes of files of `raw` in a chunk: what is counted before a killed replay can go on from it.
    pub chunk_bytes: u64,
}

impl Submission {
    /// Where a file of a replay lies.
    pub fn path(id: &str, name: &str) -> String {
        format!("{FOLDER}/{id}/{name}")
    }

    /// The submission of a replay; `None` where there is no such replay.
    ///
    /// # Errors
    /// [`TableError::Storage`]; [`TableError::Corrupt`] when it can not be read.
    pub async fn load(root: &Root, id: &str) -> Result<Option<Submission>, TableError> {
        load_json(root, &Submission::path(id, "plan.json")).await
    }

    /// Writes it, unless the id is taken: then returns what is there.
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

    /// The newest epoch that some lane has: rows of later ones are not published yet.
    pub fn up_to(&self) -> Epoch {
        self.lanes.into_iter().max().unwrap_or(0)
    }

    /// What is counted at all.
    pub fn scope(&self) -> Scope {
        let customers = self.customers.as_ref();
        Scope {
            coverage: self.coverage.clone(),
            customers: customers.map(|all| all.iter().map(|customer| customer.as_bytes().into()).collect()),
        }
    }

    /// What is on record when it is published; `None` for a preview.
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
