//! `source`: reads a worker's records, and emits them at the open epoch.
//!
//! In: records of the archive, as the committer orders them, and of the topic, in turns. Out: chunks of records at the open
//! epoch. Time: one capability, moved forward by each tick; a record belongs to the epoch that is open when it is read. State:
//! only counters of the open epoch. Flow control: a worker that has read its share of `epoch_bytes`, from both together, reads
//! nothing more until the next tick, and the committer ticks only while few epochs are in flight. So what the stages hold of one
//! epoch is bounded, also after a restart. When reading pauses, the queues of the client and of the archive's thread fill up, and
//! the rest stays in the broker and in the store. Failure: it is reported, and the capability is held, because dropping it would
//! look like the end of the input. Restart: reading resumes where `raw` ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::source as source_operator;
use timely::dataflow::{Scope, StreamVec};

use super::control::Inbox;
use super::progress::Progress;
use super::protocol::{Answer, Order, Read};
use crate::model::{Epoch, Records};
use crate::source::feed::{Archive, Fed, Feed};
use crate::source::{RecordSource, SourceError, Stamp, Waker};

/// After this many bytes an activation ends, so that other operators get their turn.
const TURN_BYTES: usize = 2 << 20;

/// What a worker reads from.
pub struct Inputs {
    /// The topic.
    pub topic: Box<dyn RecordSource>,
    /// The archive.
    pub archive: Archive,
}

/// Builds the operator. `open` is called with a waker for it; `answer` sends to the committer; `epoch_bytes` is the worker's
/// share.
pub fn source<'scope>(
    scope: Scope<'scope, Epoch>,
    inbox: Inbox,
    open: impl FnOnce(Waker) -> Result<Inputs, SourceError>,
    answer: impl Fn(Answer) + 'static,
    epoch_bytes: u64,
    progress: Arc<Progress>,
) -> StreamVec<'scope, Epoch, Records> {
    source_operator(scope, "source", |capability, info| {
        let activator = scope.activator_for(std::rc::Rc::clone(&info.address));
        inbox.wake(scope.activator_for(std::rc::Rc::clone(&info.address)));
        let sync = scope.worker().sync_activator_for(info.address.to_vec());
        let worker = scope.worker().index();
        // A worker that has ended needs no waking.
        let inputs = open(Arc::new(move || sync.activate().unwrap_or_default()));
        let mut state = State {
            capability: Some(capability),
            stamp: None,
            inputs: None,
            feed: None,
            reads: true,
            failed: false,
            drained: false,
            epoch_bytes,
            bytes: 0,
            live: 0,
            fed: 0,
        };
        match inputs {
            Ok(inputs) => state.inputs = Some(inputs),
            Err(error) => state.fail(Answer::failed(&error), &answer),
        }
        move |output| {
            let _span = tracing::trace_span!("source").entered();
            while let Some(order) = inbox.next() {
                match order {
                    Order::Tick { closed, ingested_at, read } => {
                        if state.stamp.is_some() {
                            state.close(closed, &answer);
                        }
                        if let Some(capability) = &mut state.capability {
                            capability.downgrade(&(closed + 1));
                        }
                        state.stamp = Some(Stamp { epoch: closed + 1, ingested_at });
                        state.reads = read;
                    }
                    Order::Feed { after, up_to } => {
                        state.feed = state.inputs.as_ref().map(|inputs| inputs.archive.feed(after, up_to));
                    }
                    Order::Stop => state.capability = None,
                    _ => {}
                }
            }
            let mut sent = 0;
            let mut more = true;
            while more && sent < TURN_BYTES && state.is_open() {
                match state.turn(worker, &answer, &progress) {
                    Ok(turn) => {
                        more = turn.more;
                        for records in [turn.fed, turn.read].into_iter().filter(|records| !records.is_empty()) {
                            sent += records.bytes();
                            if let Some(capability) = &state.capability {
                                output.session(capability).give(records);
                            }
                        }
                    }
                    Err(failed) => {
                        state.fail(failed, &answer);
                        break;
                    }
                }
            }
            state.look_for_drain(&answer);
            if more && state.is_open() {
                activator.activate();
            }
        }
    })
}

/// What one turn has read.
#[derive(Default)]
struct Turn {
    fed: Records,
    read: Records,
    /// Whether more may be available at once.
    more: bool,
}

struct State {
    capability: Option<Capability<Epoch>>,
    stamp: Option<Stamp>,
    inputs: Option<Inputs>,
    /// The ordered portion of the archive, until all of it is fed.
    feed: Option<Feed>,
    /// Whether the topic is read in the open epoch.
    reads: bool,
    failed: bool,
    drained: bool,
    epoch_bytes: u64,
    /// Of the open epoch: bytes of all records, records read from the topic, records fed from the archive.
    bytes: u64,
    live: u64,
    fed: u64,
}

impl State {
    fn is_open(&self) -> bool {
        self.capability.is_some() && self.stamp.is_some() && !self.failed
    }

    /// Reads a chunk of the archive and one of the topic, as far as they are available and may be read. If that fails, returns
    /// the answer that reports it.
    fn turn(&mut self, worker: usize, answer: &impl Fn(Answer), progress: &Progress) -> Result<Turn, Answer> {
        let mut turn = Turn::default();
        let Some(stamp) = self.stamp else { return Ok(turn) };
        if self.bytes < self.epoch_bytes
            && let Some(feed) = &mut self.feed
        {
            match feed.take() {
                Ok(Fed::Chunk(records)) => {
                    self.fed += records.len() as u64;
                    progress.fed.fetch_add(records.len() as u64, Ordering::Relaxed);
                    self.fill(stamp, &records, answer);
                    turn.fed = records;
                    turn.more = true;
                }
                Ok(Fed::DownTo(down_to)) => {
                    if down_to == 0 {
                        self.feed = None;
                    }
                    answer(Answer::Fed { worker, down_to, open: stamp.epoch });
                    turn.more = true;
                }
                Ok(Fed::Wait) => {}
                Err(error) => return Err(Answer::failed(&error)),
            }
        }
        if self.reads
            && self.bytes < self.epoch_bytes
            && let Some(inputs) = &mut self.inputs
        {
            turn.more |= inputs.topic.read(stamp, &mut turn.read).map_err(|error| Answer::failed(&error))?;
            self.account(stamp, &turn.read, answer, progress);
        }
        Ok(turn)
    }

    fn account(&mut self, stamp: Stamp, records: &Records, answer: &impl Fn(Answer), progress: &Progress) {
        let count = records.len() as u64;
        if count == 0 {
            return;
        }
        if self.live == 0 {
            answer(Answer::Busy(stamp.epoch));
        }
        self.live += count;
        progress.read.fetch_add(count, Ordering::Relaxed);
        progress.bytes.fetch_add(records.bytes() as u64, Ordering::Relaxed);
        self.fill(stamp, records, answer);
    }

    /// Counts bytes of the open epoch, and reports when the worker's share is used up.
    fn fill(&mut self, stamp: Stamp, records: &Records, answer: &impl Fn(Answer)) {
        self.bytes += records.bytes() as u64;
        if self.bytes >= self.epoch_bytes {
            answer(Answer::Full(stamp.epoch));
        }
    }

    fn close(&mut self, epoch: Epoch, answer: &impl Fn(Answer)) {
        let (positions, at_end) = match &mut self.inputs {
            Some(inputs) => (inputs.topic.take_positions(), inputs.topic.take_at_end() && self.reads),
            None => (Vec::new(), false),
        };
        answer(Answer::Read(Read { epoch, live: self.live, fed: self.fed, positions, at_end }));
        (self.bytes, self.live, self.fed) = (0, 0, 0);
    }

    fn look_for_drain(&mut self, answer: &impl Fn(Answer)) {
        let drained = || self.inputs.as_ref().is_some_and(|inputs| inputs.topic.drained());
        if !self.drained && !self.failed && drained() {
            self.drained = true;
            answer(Answer::Drained);
        }
    }

    fn fail(&mut self, failed: Answer, answer: &impl Fn(Answer)) {
        self.failed = true;
        answer(failed);
    }
}
