//! What a replay would read and touch, and whether it may be made at all.
//!
//! In: the job, what was asked for, the newest versions of both tables. Out: a [`Submission`] and a [`Plan`]. Nothing is written.
//! What can not be answered exactly is refused here: a range that cuts windows, an event time or a customer that the logics
//! on record find elsewhere, rows that the archive no longer holds.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::ReplayError;
use super::dataset::Partly;
use super::shape::{Lies, Present, Shape, lies};
use super::source::Chunk;
use super::submission::{Asked, Submission};
use super::times;
use super::touched::Look;
use crate::dataflow::route::Scope;
use crate::job::{COUNTING, FieldSpec, Format, Job, Logic};
use crate::ledger::{self, Entry, Fingerprint, Known, Ledger, LogicText, Orders};
use crate::model::{Epoch, Granularity, TimeUs, Zone, rfc3339};
use crate::table::raw::{self, Kind};
use crate::table::{File, Log, Root, State, TableError, counts};

/// Bytes of files of `raw` in a chunk.
pub const CHUNK_BYTES: u64 = 1 << 30;

const DAY_US: TimeUs = 86_400_000_000;

/// Rows that one worker recounts in a second: only for an estimate.
const ROWS_PER_SECOND: u64 = 100_000;

/// Both tables, at the versions of a replay.
pub struct Tables {
    /// The archive.
    pub raw: (Log, State),
    /// The counts.
    pub counts: (Log, State),
}

impl Tables {
    /// The newest versions.
    ///
    /// # Errors
    /// [`ReplayError::NoTable`]; [`TableError`].
    pub async fn newest(root: &Root) -> Result<Tables, ReplayError> {
        // counts first: raw is never behind it.
        let counts = newest(root, "counts").await?;
        Ok(Tables { raw: newest(root, "raw").await?, counts })
    }

    /// The versions of a submission.
    ///
    /// # Errors
    /// [`ReplayError::Gone`] when they are no longer kept; [`TableError`].
    pub async fn of(root: &Root, submission: &Submission) -> Result<Tables, ReplayError> {
        let load = async |name: &'static str, version| {
            let log = Log::new(root, name);
            match log.load_at(version).await? {
                Some(state) => Ok((log, state)),
                None => Err(ReplayError::Gone { id: submission.id.clone(), table: name, version }),
            }
        };
        Ok(Tables {
            counts: load("counts", submission.counts_version).await?,
            raw: load("raw", submission.raw_version).await?,
        })
    }
}

async fn newest(root: &Root, table: &'static str) -> Result<(Log, State), ReplayError> {
    let log = Log::new(root, table);
    match log.load().await? {
        Some(state) => Ok((log, state)),
        None => Err(ReplayError::NoTable { url: root.url().to_string(), table }),
    }
}

/// What counts now: the logics of all epochs before a replay's, and of published replays that it overlaps.
pub struct Counting {
    logics: Vec<(Logic, Vec<(Granularity, String)>)>,
    /// Whether code of another number took customers out of lines: it read lists of proxies and users' names in another way.
    customers_of_older_lines: bool,
}

impl Counting {
    /// For a replay of these rows.
    ///
    /// # Errors
    /// [`ReplayError::LogicGone`] when a logic's text can not be read; [`TableError`].
    pub async fn of(root: &Root, counts: &State, submission: &Submission) -> Result<Counting, ReplayError> {
        let read = async |fingerprint: Fingerprint| match ledger::text(root, fingerprint).await? {
            Ok(text) => Ok(text),
            Err(why) => Err(ReplayError::LogicGone { fingerprint, why }),
        };
        let (mut logics, mut customers_of_older_lines) = (Vec::new(), false);
        let mut add = |text: LogicText, whole_only| {
            customers_of_older_lines |= text.counting != COUNTING
                && text.logic.format == Format::AccessLog
                && !matches!(text.logic.customer, FieldSpec::Constant(_));
            logics.push((text.logic, whole_only));
        };
        let before = submission.before.unwrap_or(Epoch::MAX);
        let ledger = Ledger::of(counts);
        let on_record: BTreeSet<Fingerprint> = ledger.logics.range(..before).map(|(_, logic)| *logic).collect();
        for fingerprint in on_record {
            add(read(fingerprint).await?, Vec::new());
        }
        let ours = Entry {
            id: submission.id.clone(),
            coverage: submission.coverage.clone(),
            customers: submission.customers.clone(),
            logic: submission.logic,
            before,
            whole_only: Vec::new(),
        };
        for entry in ledger::entries(root, counts).await? {
            if entry.overlaps(&ours) {
                add(read(entry.logic).await?, entry.whole_only);
            }
        }
        Ok(Counting { logics, customers_of_older_lines })
    }

    /// What a replay with `ours` does to each dimension.
    pub fn shape(&self, ours: &Logic) -> Shape {
        let present = self.logics.iter().map(|(logic, whole_only)| Present { logic, whole_only });
        Shape::new(ours, &present.collect::<Vec<_>>())
    }

    fn time_is_same(&self, ours: &Logic) -> bool {
        self.logics.iter().all(|(logic, _)| logic.time_rule() == ours.time_rule())
    }

    fn customer_is_same(&self, ours: &Logic) -> bool {
        !self.customers_of_older_lines
            && self.logics.iter().all(|(logic, _)| logic.customer_rule() == ours.customer_rule())
    }
}

/// What a replay reads and touches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The range, as stretches of event time.
    pub ranges: Vec<[String; 2]>,
    /// Files of `raw` to read.
    pub raw_files: u64,
    /// Their size.
    pub raw_bytes: u64,
    /// Their rows: an upper bound of those that are decoded.
    pub raw_rows: u64,
    /// First and last epoch of those files.
    pub epochs: Option<[Epoch; 2]>,
    /// Live files of `counts` in range.
    pub counts_files: u64,
    /// Their size.
    pub counts_bytes: u64,
    /// Windows that lie only partly in the range.
    pub partly: Vec<Partly>,
    /// Whether it can be published: live counts with its logic.
    pub can_be_published: bool,
    /// Seconds that it may take.
    pub estimate_seconds: u64,
}

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The id; made up where there is none.
    pub id: String,
    /// The range.
    pub asked: Asked,
    /// Only these customers.
    pub customers: Option<Vec<String>>,
    /// Bytes of files in a chunk.
    pub chunk_bytes: u64,
}

/// A replay that may be made.
pub struct Prepared {
    /// The tables that it reads.
    pub tables: Tables,
    /// What is to be submitted.
    pub submission: Submission,
    /// What it does to each dimension.
    pub shape: Shape,
}

/// Checks a request, and draws up what is to be submitted.
///
/// # Errors
/// [`ReplayError`] when it can not be answered exactly.
pub async fn prepare(job: &Job, root: &Root, request: Request, now_ms: i64) -> Result<Prepared, ReplayError> {
    let tables = Tables::newest(root).await?;
    let counts = &tables.counts.1;
    let buckets = counts::buckets(counts)?;
    if buckets != job.tables.buckets {
        return Err(ReplayError::Refused(format!(
            "tables.buckets = {}, but the table was made with {buckets}; put {buckets} into the job file",
            job.tables.buckets
        )));
    }
    let range = match &request.asked {
        Asked::EventTimes(range) | Asked::IngestTimes(range) => range.clone(),
    };
    check_order(&range)?;
    check_whole(&tables.raw.1, &request.asked)?;
    let mut customers = request.customers;
    if let Some(customers) = &mut customers {
        customers.sort_unstable();
        customers.dedup();
    }
    let logic = Fingerprint::of(&job.logic);
    let before = Ledger::of(counts).newest().filter(|(_, newest)| *newest == logic).map(|(from, _)| from);
    let mut submission = Submission {
        id: request.id,
        job: job.name.clone(),
        submitted_ms: now_ms,
        coverage: vec![range.clone()],
        asked: request.asked,
        customers,
        logic,
        before,
        whole_only: Vec::new(),
        raw_version: tables.raw.1.version,
        counts_version: counts.version,
        lanes: counts::lane_epochs(counts),
        order: Orders::of(counts).newest(),
        chunk_bytes: request.chunk_bytes,
    };
    let shape = match &submission.asked {
        Asked::EventTimes(range) => {
            let counting = Counting::of(root, counts, &submission).await?;
            if !counting.time_is_same(&job.logic) {
                return Err(ReplayError::Refused(
                    "the job finds the event time elsewhere than the logic on record does: a row that moves over the edge of a range \
                     of event times would be lost or doubled; choose the rows by when they were ingested: --ingest-from, --ingest-to"
                        .to_owned(),
                ));
            }
            let shape = counting.shape(&job.logic);
            check_range(range, &shape)?;
            shape
        }
        Asked::IngestTimes(range) => {
            // Which windows it touches is not known yet: all that counts anywhere is looked at.
            submission.coverage = std::iter::once(TimeUs::MIN..TimeUs::MAX).collect();
            let counting = Counting::of(root, counts, &submission).await?;
            let shape = counting.shape(&job.logic);
            submission.coverage =
                touched(job, root, &tables, &submission, range.clone(), &counting, shape.base()).await?;
            shape
        }
    };
    if submission.customers.is_some() && !Counting::of(root, counts, &submission).await?.customer_is_same(&job.logic) {
        return Err(ReplayError::Refused(
            "the job finds the customer elsewhere than the logic on record does: a row may move from one customer to another; \
             leave --customers out"
                .to_owned(),
        ));
    }
    submission.whole_only = shape.whole_only();
    Ok(Prepared { tables, submission, shape })
}

/// The windows that rows ingested in `range` touch.
async fn touched(
    job: &Job,
    root: &Root,
    tables: &Tables,
    submission: &Submission,
    range: Range<TimeUs>,
    counting: &Counting,
    base: Granularity,
) -> Result<Vec<Range<TimeUs>>, ReplayError> {
    let ours = &job.logic;
    let (raw_log, raw_state) = &tables.raw;
    let mut others = Vec::new();
    // Where the time is found alike, code of any number reads the same one: see COUNTING.
    let reads_as_ours = async |logic: Fingerprint| {
        let text = ledger::text(root, logic).await?;
        Ok::<_, TableError>(text.is_ok_and(|text| text.logic.time_rule() == ours.time_rule()))
    };
    for entry in ledger::entries(root, &tables.counts.1).await? {
        if reads_as_ours(entry.logic).await? {
            continue;
        }
        match ledger::known(root, entry.logic).await? {
            Known::Logic(logic) => others.push(*logic),
            Known::Gone(why) => return Err(ReplayError::LogicGone { fingerprint: entry.logic, why }),
        }
    }
    let ledger = Ledger::of(&tables.counts.1);
    let mut as_ours = BTreeSet::new();
    for fingerprint in ledger.logics.values() {
        if reads_as_ours(*fingerprint).await? {
            as_ours.insert(*fingerprint);
        }
    }
    let look = Look {
        log: raw_log.clone(),
        files: raw_state.files.values().cloned().collect(),
        up_to: submission.lanes.into_iter().max().unwrap_or(0),
        ingested: range,
        ours: Arc::new(ours.clone()),
        others: others.into(),
        base,
    };
    let windows = look.windows().await?;
    if !counting.time_is_same(ours) {
        look.check(&windows, move |epoch| ledger.at(epoch).is_some_and(|logic| as_ours.contains(&logic))).await?;
    }
    Ok(windows)
}

/// The archive holds all rows of the range.
fn check_whole(raw: &State, asked: &Asked) -> Result<(), ReplayError> {
    let held: u64 = raw.files.values().map(|file| file.rows).sum();
    let archived = raw.txn(raw::ROWS) as u64;
    if archived <= held {
        return Ok(());
    }
    let mut dates: Vec<_> =
        raw.files.values().filter_map(|file| Some(file.partition.get("ingest_date")?.as_str())).collect();
    dates.sort_unstable();
    let since = dates.first().and_then(|first| times::parse(first).ok());
    let held_from = match asked {
        // An event time is at most a day after the moment at which its record was ingested.
        Asked::EventTimes(range) => since.map(|since| (since + DAY_US, range.start)),
        Asked::IngestTimes(range) => since.map(|since| (since, range.start)),
    };
    match held_from {
        Some((from, start)) if start >= from => Ok(()),
        _ => Err(ReplayError::Refused(format!(
            "raw lacks {} of the {archived} rows that were archived: it holds what was ingested on {}; a range can begin at {}, or \
             put the rows back from a copy",
            archived - held,
            match dates.as_slice() {
                [first, .., last] => format!("{first} to {last}"),
                [only] => (*only).to_owned(),
                [] => "no day".to_owned(),
            },
            held_from.map_or_else(|| "no time".to_owned(), |(from, _)| rfc3339(from))
        ))),
    }
}

/// A range has a beginning and a later end.
fn check_order(range: &Range<TimeUs>) -> Result<(), ReplayError> {
    if range.start < range.end {
        return Ok(());
    }
    Err(ReplayError::Usage(format!(
        "the range ends at {}, which is not after its start {}: the start is inclusive, the end exclusive",
        rfc3339(range.end),
        rfc3339(range.start)
    )))
}

/// A range is whole windows of every dimension's base.
fn check_range(range: &Range<TimeUs>, shape: &Shape) -> Result<(), ReplayError> {
    let base = shape.base();
    let start = base.window_start(range.start, Zone::Utc);
    let floor = base.window_start(range.end, Zone::Utc);
    let end = if floor == range.end { floor } else { base.window_end(floor, Zone::Utc) };
    if (start, end) == (range.start, range.end) {
        return Ok(());
    }
    let of =
        |(name, dimension): (&String, &super::shape::DimensionShape)| (dimension.base == base).then(|| name.clone());
    let names: Vec<String> = shape.dimensions.iter().filter_map(of).collect();
    Err(ReplayError::Usage(format!(
        "the range {} to {} cuts a window: {} can be recounted by whole {base}s; the nearest range of whole windows is \
         --from {} --to {}",
        rfc3339(range.start),
        rfc3339(range.end),
        names.join(", "),
        rfc3339(start),
        rfc3339(end)
    )))
}

impl Prepared {
    /// What it would read and touch.
    ///
    /// # Errors
    /// [`TableError`] when statistics can not be read.
    pub fn plan(&self, workers: usize) -> Result<Plan, TableError> {
        let files = raw_files(&self.tables.raw.1, &self.submission)?;
        let mut epochs: Option<[Epoch; 2]> = None;
        for file in &files {
            let (least, greatest) = raw::epochs_of(file)?;
            let [first, last] = epochs.get_or_insert([least, greatest]);
            (*first, *last) = (least.min(*first), greatest.max(*last));
        }
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        let (mut counts_files, mut counts_bytes) = (0, 0);
        for file in self.tables.counts.1.files.values() {
            let segment = counts::segment_of(file)?;
            let meets = |range: &Range<TimeUs>| range.start < segment.period_end() && segment.period_start < range.end;
            if self.submission.coverage.iter().any(meets) {
                counts_files += 1;
                counts_bytes += file.size;
            }
        }
        Ok(Plan {
            ranges: self.submission.coverage.iter().map(|range| [rfc3339(range.start), rfc3339(range.end)]).collect(),
            raw_files: files.len() as u64,
            raw_bytes: files.iter().map(|file| file.size).sum(),
            raw_rows: rows,
            epochs,
            counts_files,
            counts_bytes,
            partly: partly(&self.submission.coverage, &self.shape),
            can_be_published: self.submission.before.is_some(),
            estimate_seconds: rows.div_ceil(ROWS_PER_SECOND * workers.max(1) as u64),
        })
    }
}

/// The windows that lie only partly in the range, and which dimensions stay as they are in them.
pub fn partly(coverage: &[Range<TimeUs>], shape: &Shape) -> Vec<Partly> {
    let mut found = BTreeSet::new();
    for granularity in Granularity::ALL {
        let concerns = |dimension: &&super::shape::DimensionShape| {
            dimension.parts.iter().any(|part| part.granularity == granularity)
                || dimension.whole_only.contains(&granularity)
        };
        if !shape.dimensions.values().any(|dimension| concerns(&dimension)) {
            continue;
        }
        for range in coverage {
            // Only the windows that hold an edge.
            for edge in [range.start, range.end - 1] {
                let start = granularity.window_start(edge, Zone::Utc);
                if lies(coverage, granularity, start) == Lies::Partly {
                    let left_alone = (shape.dimensions.iter())
                        .filter(|(_, dimension)| dimension.whole_only.contains(&granularity))
                        .map(|(name, _)| name.clone());
                    found.insert(Partly {
                        granularity,
                        window_start: rfc3339(start),
                        window_end: rfc3339(granularity.window_end(start, Zone::Utc)),
                        left_alone: left_alone.collect(),
                    });
                }
            }
        }
    }
    found.into_iter().collect()
}

/// The files of `raw` whose rows may be in range: first those apart, then the rest by epoch.
///
/// # Errors
/// [`TableError::Corrupt`] when statistics can not be read.
pub fn raw_files(raw: &State, submission: &Submission) -> Result<Vec<File>, TableError> {
    let up_to = submission.lanes.into_iter().max().unwrap_or(0);
    let by_event_time = matches!(submission.asked, Asked::EventTimes(_));
    let mut files = Vec::new();
    for file in raw.files.values() {
        let (least, _) = raw::epochs_of(file)?;
        let times = raw::event_times_of(file)?;
        let meets = |(first, last): (TimeUs, TimeUs)| {
            submission.coverage.iter().any(|range| range.start <= last && first < range.end)
        };
        // A row without an event time on record may have one now.
        let may_be_in_range = times.nulls > 0 || times.range.is_none_or(meets);
        if least <= up_to && (may_be_in_range || !by_event_time) {
            files.push((Kind::of_file(file) == Some(Kind::Main), least, file.clone()));
        }
    }
    files.sort_by(|a, b| (a.0, a.1, &a.2.path).cmp(&(b.0, b.1, &b.2.path)));
    Ok(files.into_iter().map(|(_, _, file)| file).collect())
}

/// Cuts files into chunks: a killed replay goes on after the last whole one.
pub fn chunks(files: Vec<File>, chunk_bytes: u64) -> Vec<(Chunk, Vec<File>)> {
    let mut chunks: Vec<(Chunk, Vec<File>)> = Vec::new();
    let mut bytes = 0;
    for file in files {
        if bytes >= chunk_bytes || chunks.is_empty() {
            chunks.push((chunks.len() as Chunk, Vec::new()));
            bytes = 0;
        }
        bytes += file.size;
        if let Some((_, files)) = chunks.last_mut() {
            files.push(file);
        }
    }
    chunks
}

/// What is counted at all.
pub fn scope(submission: &Submission) -> Scope {
    let customers = submission.customers.as_ref();
    Scope {
        coverage: submission.coverage.clone(),
        customers: customers.map(|all| all.iter().map(|customer| customer.as_bytes().into()).collect()),
    }
}
