//! `archive`: writes every record of an epoch, with its outcome, to files of `raw`.
//!
//! In: chunks of records with outcomes. Out: batches of rows for the archiver of the process, a thread that compresses them as
//! they come and stores one file per epoch and kind; its answer lists the files. A record whose own epoch is older than the
//! dataflow's was fed from the archive, and is only counted. Time: an epoch is done when the frontier has passed it on every
//! worker of the process. State: a few MiB of rows per worker, and in the archiver the compressed rows of the epochs in flight,
//! of which the committer allows only a few. Failure: it is reported, and ends the job. Restart: an epoch that was not committed
//! is read from Kafka again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use arrow::array::RecordBatch;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use tokio::sync::mpsc::UnboundedSender;

use super::control::{Answers, Inbox};
use super::decode::Decoded;
use super::epoch_watch::EpochWatch;
use super::progress::Progress;
use super::protocol::{Answer, Archived, Outcomes};
use super::route::Router;
use crate::model::{Epoch, Granularity, Outcome};
use crate::process::panics::{caught, caught_in};
use crate::table::raw::{FileWriter, Kind, RawRows};
use crate::table::store::write_file;
use crate::table::{File, Log, TableError};

/// A batch goes to the archiver before it would exceed this many bytes, even if its epoch has not ended.
const BATCH_BYTES: usize = 4 << 20;

/// What workers send to the archiver of their process.
pub enum ToArchiver {
    /// Rows of an epoch.
    Rows(Epoch, Kind, RecordBatch),
    /// A worker has sent all rows of an epoch.
    Done {
        /// The epoch.
        epoch: Epoch,
        /// What the worker has counted in it.
        counts: EpochCounts,
        /// Where the answer goes.
        answers: Answers,
    },
    /// Simulates an unknown bug.
    #[cfg(test)]
    Panic,
}

/// Outcomes of an epoch's records.
#[derive(Default)]
pub struct EpochCounts {
    live: Outcomes,
    fed: Outcomes,
    fed_absorbed: u64,
}

impl EpochCounts {
    fn add(&mut self, other: &EpochCounts) {
        self.live.add(&other.live);
        self.fed.add(&other.fed);
        self.fed_absorbed += other.fed_absorbed;
    }
}

/// Recognizes fed rows that no lane wants any more.
pub struct Absorbed {
    /// Decides which lanes want a record.
    pub router: Router,
    /// The granularity of `total` whose counts must balance.
    pub total: Granularity,
}

/// Builds the operator. `absorbed` recognizes fed rows that no lane wants any more.
pub fn archive<'scope>(
    decoded: StreamVec<'scope, Epoch, Decoded>,
    inbox: Inbox,
    topics: Arc<[String]>,
    absorbed: Absorbed,
    archiver: Sender<ToArchiver>,
    answers: Answers,
    progress: Arc<Progress>,
) {
    let mut rows = Kind::ALL.map(|_| (0, RawRows::new(Arc::clone(&topics))));
    let mut counts: BTreeMap<Epoch, EpochCounts> = BTreeMap::new();
    let mut watch = EpochWatch::default();
    // An archiver that has ended has reported why.
    let send = move |message| drop(archiver.send(message));
    decoded.sink(Pipeline, "raw", move |(input, frontier)| {
        let _span = tracing::trace_span!("raw").entered();
        input.for_each(|capability, chunks| {
            let epoch = *capability.time();
            let EpochCounts { live, fed, fed_absorbed } = counts.entry(epoch).or_default();
            for chunk in chunks.drain(..) {
                for (index, (outcome, event_time)) in chunk.outcomes.iter().enumerate() {
                    let record = chunk.records.get(index);
                    if record.epoch != epoch {
                        count(fed, outcome);
                        if let (Outcome::Counted, Some(event_time)) = (outcome, event_time) {
                            let lanes = absorbed.router.lanes(record.epoch, record.ingested_at, *event_time);
                            *fed_absorbed += u64::from(!lanes.want(absorbed.total));
                        }
                        continue;
                    }
                    count(live, outcome);
                    let kind = Kind::of(&record, outcome, *event_time);
                    let (rows_epoch, rows) = &mut rows[kind as usize];
                    // Checked before the record is added: so a batch is small or a single record, and no column can outgrow its
                    // offsets.
                    let full = rows.bytes() + RawRows::bytes_of(&chunk.records, index) > BATCH_BYTES;
                    if rows.bytes() > 0 && (full || *rows_epoch != epoch) {
                        send(ToArchiver::Rows(*rows_epoch, kind, rows.finish()));
                    }
                    *rows_epoch = epoch;
                    rows.push(&chunk.records, index, outcome, *event_time);
                }
            }
        });
        while let Some(order) = inbox.next() {
            watch.see(&order);
        }
        for epoch in watch.passed(frontier) {
            for (kind, (rows_epoch, rows)) in Kind::ALL.into_iter().zip(&mut rows) {
                if *rows_epoch == epoch && rows.bytes() > 0 {
                    send(ToArchiver::Rows(epoch, kind, rows.finish()));
                }
            }
            let counts = counts.remove(&epoch).unwrap_or_default();
            progress.count(&counts.live);
            send(ToArchiver::Done { epoch, counts, answers: answers.clone() });
        }
    });
}

fn count(outcomes: &mut Outcomes, outcome: &Outcome) {
    match outcome {
        Outcome::Counted => outcomes.counted += 1,
        Outcome::Filtered => outcomes.filtered += 1,
        Outcome::Rejected(rejection) => {
            let reason = rejection.reason.name();
            match outcomes.rejected.get_mut(reason) {
                Some(count) => *count += 1,
                None => drop(outcomes.rejected.insert(reason.to_owned(), 1)),
            }
        }
    }
}

/// The archiver of a process.
pub struct Archiver {
    /// The table `raw`.
    pub log: Log,
    /// Generation and process, for file names.
    pub name: String,
    /// Workers of this process.
    pub workers: usize,
    /// Runs the storing of files.
    pub runtime: tokio::runtime::Handle,
    /// Panics are reported here.
    pub failures: UnboundedSender<Answer>,
}

#[derive(Default)]
struct OpenEpoch {
    writers: BTreeMap<Kind, FileWriter>,
    done: usize,
    counts: EpochCounts,
}

impl Archiver {
    /// Starts the thread; it ends when all senders are dropped.
    ///
    /// # Errors
    /// If the system can not start a thread.
    pub fn start(self) -> std::io::Result<Sender<ToArchiver>> {
        let (sender, receiver) = channel();
        let run = move || {
            if let Err(panic) = caught_in("the archiver", || self.run(&receiver)) {
                // A job that has ended has reported why.
                self.failures.send(Answer::failed(&TableError::Bug(panic))).ok();
            }
        };
        std::thread::Builder::new().name("archiver".to_owned()).spawn(run)?;
        Ok(sender)
    }

    fn run(&self, messages: &Receiver<ToArchiver>) {
        let mut open: BTreeMap<Epoch, OpenEpoch> = BTreeMap::new();
        let mut failed: Option<TableError> = None;
        for message in messages {
            let _span = tracing::trace_span!("archiver").entered();
            match message {
                ToArchiver::Rows(epoch, kind, batch) => {
                    if let Err(error) = write(open.entry(epoch).or_default(), kind, &batch) {
                        failed.get_or_insert(error);
                    }
                }
                ToArchiver::Done { epoch, counts, answers } => {
                    if let Some(error) = &failed {
                        answers.send(Answer::failed(error));
                        continue;
                    }
                    let state = open.entry(epoch).or_default();
                    state.done += 1;
                    state.counts.add(&counts);
                    if state.done == self.workers {
                        let state = open.remove(&epoch).unwrap_or_default();
                        self.finish(epoch, state, answers);
                    }
                }
                #[cfg(test)]
                ToArchiver::Panic => panic!("as a bug would"),
            }
        }
    }

    /// Encodes the rest on this thread, stores the files in the background, and then answers.
    fn finish(&self, epoch: Epoch, state: OpenEpoch, answers: Answers) {
        let name = format!("e{epoch:012}-{}", self.name);
        let encoded = (state.writers.into_iter())
            .filter_map(|(kind, writer)| writer.finish(kind, &name).transpose())
            .collect::<Result<Vec<_>, _>>();
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return answers.send(Answer::failed(&error)),
        };
        let (log, failures) = (self.log.clone(), self.failures.clone());
        let store = async move {
            let mut files: Vec<File> = Vec::new();
            for encoded in encoded {
                write_file(log.store().as_ref(), &encoded.file.path, encoded.bytes.into()).await?;
                files.push(encoded.file);
            }
            Ok::<_, TableError>(files)
        };
        self.runtime.spawn(async move {
            match caught("storing an epoch's files of raw", store).await {
                Ok(Ok(files)) => {
                    let EpochCounts { live, fed, fed_absorbed } = state.counts;
                    answers.send(Answer::Archived(Archived { epoch, files, live, fed, fed_absorbed }));
                }
                Ok(Err(error)) => answers.send(Answer::failed(&error)),
                Err(panic) => drop(failures.send(Answer::failed(&TableError::Bug(panic)))),
            }
        });
    }
}

fn write(open: &mut OpenEpoch, kind: Kind, batch: &RecordBatch) -> Result<(), TableError> {
    let writer = match open.writers.entry(kind) {
        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::btree_map::Entry::Vacant(entry) => entry.insert(FileWriter::new()?),
    };
    writer.write(batch)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::table::Root;

    /// Otherwise the committer would wait for the answer for ever.
    #[test]
    fn the_archivers_panic_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (failures, mut told) = tokio::sync::mpsc::unbounded_channel();
        let log = Log::new(&Root::on(Arc::new(InMemory::new())), "raw");
        let (name, runtime) = ("g1-p0".to_owned(), runtime.handle().clone());
        let sender = Archiver { log, name, workers: 1, runtime, failures }.start().expect("a thread");
        sender.send(ToArchiver::Panic).expect("it runs");
        let Some(Answer::Failed { what, .. }) = told.blocking_recv() else { panic!("it says nothing") };
        assert!(what.contains("the archiver panicked: as a bug would") && what.contains("please report"), "{what}");
    }
}
