//! `source` of a replay: reads a worker's files of the archive, one chunk after the other.
//!
//! In: files of `raw`, read by a separate thread. Out: records, each with its outcome on arrival. Time: `chunk << 32 | step`, where a step
//! is [`STEP_BYTES`] of one worker, so that little is sorted at once. State: a few batches of rows. Flow control: a worker is at most
//! [`STEPS_AHEAD`] steps ahead of what all workers have gathered. Failure: it is reported to the run, which ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use timely::dataflow::operators::generic::operator::source as source_operator;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::Activator;

use super::chunks::{Chunk, start_of};
use crate::dataflow::route::Scope as Range;
use crate::model::{Epoch, Records};
use crate::process::panics::caught_in;
use crate::replay::request::versions::fetch_kept;
use crate::table::{File, Log, TableError, raw};

/// Bytes of records in a step.
const STEP_BYTES: usize = 64 << 20;

/// Steps that may be under way.
const STEPS_AHEAD: usize = 2;

/// Bytes sent per activation, so that other operators get their turn.
const TURN_BYTES: usize = 2 << 20;

/// Batches of rows that may wait for the worker.
const BATCHES_WAITING: usize = 4;

/// What a worker reads.
pub struct ToRead {
    /// The archive.
    pub log: Log,
    /// Its files, by chunk; chunks ascend.
    pub files: Vec<(Chunk, Vec<File>)>,
    /// The names of the topics that records refer to.
    pub topics: Arc<[String]>,
    /// The newest epoch to read: rows of later ones are in no lane.
    pub up_to: Epoch,
    /// If set, only rows are read whose event time on record is in range or missing; `None` reads all, for event times that may have
    /// changed.
    pub prunes: Option<Arc<Range>>,
}

enum FromReader {
    Begin(Chunk),
    Records(Records),
    End,
    Failed(TableError),
}

impl ToRead {
    fn open(self, runtime: &tokio::runtime::Handle, wake: impl Fn() + Send + 'static) -> Receiver<FromReader> {
        let (sender, receiver) = sync_channel(BATCHES_WAITING);
        let handle = runtime.clone();
        runtime.spawn_blocking(move || {
            let read = caught_in("reading the archive", || self.read(&handle, &sender, &wake));
            let end = match read.unwrap_or_else(|panic| Err(TableError::Bug(panic))) {
                Ok(()) => FromReader::End,
                Err(error) => FromReader::Failed(error),
            };
            // A worker that has ended does not need the end.
            sender.send(end).ok();
            drop(sender);
            wake();
        });
        receiver
    }

    fn read(
        self,
        runtime: &tokio::runtime::Handle,
        sender: &SyncSender<FromReader>,
        wake: &impl Fn(),
    ) -> Result<(), TableError> {
        let prunes = self.prunes.clone();
        let up_to = self.up_to;
        for (chunk, files) in self.files {
            if sender.send(FromReader::Begin(chunk)).is_err() {
                return Ok(());
            }
            wake();
            for file in files {
                let fetched = runtime.block_on(fetch_kept(&self.log, &file.path))?;
                let prunes = prunes.clone();
                let keep = move |epoch, time: Option<i64>| {
                    epoch <= up_to && prunes.as_ref().is_none_or(|range| time.is_none_or(|time| range.covers(time)))
                };
                for records in raw::read_arrived(&file, &fetched, Arc::clone(&self.topics), keep)? {
                    let records = records?;
                    if !records.is_empty() && sender.send(FromReader::Records(records)).is_err() {
                        return Ok(());
                    }
                    wake();
                }
            }
        }
        Ok(())
    }
}

/// The time up to which all workers have gathered: set by `gather`, which wakes the source.
#[derive(Clone, Default)]
pub struct Gathered(Rc<RefCell<(Epoch, Option<Activator>)>>);

impl Gathered {
    /// Sets that everything before `epoch` is gathered.
    pub fn set(&self, epoch: Epoch) {
        let mut inner = self.0.borrow_mut();
        if inner.0 < epoch {
            inner.0 = epoch;
            if let Some(source) = &inner.1 {
                source.activate();
            }
        }
    }
}

/// Builds the operator. `fail` is called with the error; `read` counts rows.
pub fn source<'scope>(
    scope: Scope<'scope, Epoch>,
    to_read: ToRead,
    runtime: &tokio::runtime::Handle,
    gathered: Gathered,
    fail: impl Fn(TableError) + 'static,
    read: Arc<AtomicU64>,
) -> StreamVec<'scope, Epoch, Records> {
    source_operator(scope, "source", |capability, info| {
        let activator = scope.activator_for(Rc::clone(&info.address));
        gathered.0.borrow_mut().1 = Some(scope.activator_for(Rc::clone(&info.address)));
        let sync = scope.worker().sync_activator_for(info.address.to_vec());
        // A worker that has ended does not need to be woken.
        let receiver = to_read.open(runtime, move || sync.activate().unwrap_or_default());
        let mut capability = Some(capability);
        let mut steps = VecDeque::new();
        let mut step_bytes = 0;
        move |output| {
            let _span = tracing::trace_span!("source").entered();
            let mut sent = 0;
            while let Some(held) = &mut capability {
                while steps.front().is_some_and(|step| *step < gathered.0.borrow().0) {
                    steps.pop_front();
                }
                if sent >= TURN_BYTES {
                    activator.activate();
                    return;
                }
                if steps.len() > STEPS_AHEAD {
                    return;
                }
                match receiver.try_recv() {
                    Ok(FromReader::Begin(chunk)) => {
                        // A replay that continues skips chunks: the first ones, and possibly some in between.
                        steps.push_back(*held.time());
                        held.downgrade(&start_of(chunk));
                        step_bytes = 0;
                    }
                    Ok(FromReader::Records(records)) => {
                        read.fetch_add(records.len() as u64, Ordering::Relaxed);
                        sent += records.bytes();
                        step_bytes += records.bytes();
                        output.session(held).give(records);
                        if step_bytes >= STEP_BYTES {
                            steps.push_back(*held.time());
                            let next = held.time() + 1;
                            held.downgrade(&next);
                            step_bytes = 0;
                        }
                    }
                    Ok(FromReader::Failed(error)) => {
                        // The capability stays held: dropping it would look like the end of the archive.
                        fail(error);
                        return;
                    }
                    Ok(FromReader::End) => capability = None,
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Disconnected) => {
                        fail(TableError::Bug("the thread that reads the archive ended without a result".to_owned()));
                        return;
                    }
                }
            }
        }
    })
}
