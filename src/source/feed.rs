//! Feeds records from the archive to one worker after a restart: those that lanes have not absorbed.
//!
//! In: files of `raw`, and the epochs to feed, portion by portion as the committer orders them. Out: the rows of a portion, as
//! records that carry their own epoch and `ingested_at`; and, between them, down to which epoch all rows were given. Ordering:
//! the newest epoch first, so that fast lanes are ready first. State: one file's bytes and a few chunks. The channel bounds them:
//! files are read no faster than the worker takes the chunks. Failure: it is reported to the source operator, which holds its
//! capability. Restart: what to feed is decided again from the tables.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use futures::executor::block_on;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::Waker;
use crate::model::{Epoch, Records};
use crate::process::panics::{caught_in, of_task};
use crate::table::store::read_file;
use crate::table::{File, Log, State, TableError, raw};

/// Chunks that may wait for the worker.
const CHUNKS_WAITING: usize = 4;

/// What a restart feeds: rows of epochs `after + 1 ..= up_to`.
#[derive(Clone, Debug)]
pub struct FeedPlan {
    log: Log,
    rows: FeedRows,
}

/// The same without access to the table, to be sent to the other processes of the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FeedRows {
    files: Vec<FeedFile>,
    after: Epoch,
    up_to: Epoch,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct FeedFile {
    least: Epoch,
    greatest: Epoch,
    file: File,
}

impl FeedPlan {
    /// A plan to feed the rows of epochs `after + 1 ..= up_to`: the live files of `raw` that hold such rows, newest first.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] if a file's statistics do not say its epochs.
    pub fn new(log: Log, raw: &State, after: Epoch, up_to: Epoch) -> Result<FeedPlan, TableError> {
        let mut files = Vec::new();
        if after < up_to {
            for file in raw.files.values() {
                let (least, greatest) = raw::epochs_of(file)?;
                if least <= up_to && greatest > after {
                    files.push(FeedFile { least, greatest, file: file.clone() });
                }
            }
            files.sort_by_key(|file| std::cmp::Reverse(file.greatest));
        }
        Ok(FeedPlan::of(log, FeedRows { files, after, up_to }))
    }

    /// A plan to feed these rows of the table with this log.
    pub fn of(log: Log, rows: FeedRows) -> FeedPlan {
        FeedPlan { log, rows }
    }

    /// The rows.
    pub fn rows(&self) -> &FeedRows {
        &self.rows
    }

    /// Number of files to read.
    pub fn files(&self) -> usize {
        self.rows.files.len()
    }

    /// Epochs, ascending, with their numbers of rows. All rows of a file that holds several epochs are listed under its newest.
    pub fn epochs(&self) -> BTreeMap<Epoch, u64> {
        let mut epochs = BTreeMap::new();
        for FeedFile { greatest, file, .. } in &self.rows.files {
            *epochs.entry((*greatest).min(self.rows.up_to)).or_default() += file.rows;
        }
        epochs
    }

    /// A worker's share of the rows of epochs `after + 1 ..= up_to`: each file goes to the worker that has the fewest rows so
    /// far.
    fn share(&self, worker: usize, workers: usize, after: Epoch, up_to: Epoch) -> FeedPlan {
        let (after, up_to) = (after.max(self.rows.after), up_to.min(self.rows.up_to));
        let mut rows = vec![0; workers];
        let mut files = Vec::new();
        for file in self.rows.files.iter().filter(|file| file.least <= up_to && file.greatest > after) {
            let least = (0..workers).min_by_key(|worker| rows[*worker]).unwrap_or(worker);
            rows[least] += file.file.rows;
            if least == worker {
                files.push(file.clone());
            }
        }
        FeedPlan::of(self.log.clone(), FeedRows { files, after, up_to })
    }
}

/// A worker's access to the archive.
pub struct Archive {
    /// What all workers are fed.
    pub plan: FeedPlan,
    /// The worker's number, and how many workers there are.
    pub worker: (usize, usize),
    /// Runs storage requests.
    pub runtime: tokio::runtime::Handle,
    /// Wakes the worker.
    pub waker: Waker,
}

impl Archive {
    /// Starts to read the worker's share of the rows of epochs `after + 1 ..= up_to`.
    pub fn feed(&self, after: Epoch, up_to: Epoch) -> Feed {
        let (worker, workers) = self.worker;
        let share = self.plan.share(worker, workers, after, up_to);
        let (sender, receiver) = sync_channel(CHUNKS_WAITING);
        if share.files() == 0 {
            // Reported at once, without a thread. The channel has room and its receiver exists, so this does not fail.
            sender.send(Message::DownTo(0)).ok();
            return Feed { receiver };
        }
        let (handle, waker) = (self.runtime.clone(), Waker::clone(&self.waker));
        self.runtime.spawn_blocking(move || {
            let read = caught_in("the feed from the archive", || share.read(&handle, &sender, &waker));
            if let Err(error) = read.unwrap_or_else(|panic| Err(TableError::Bug(panic))) {
                // If the worker is gone, nobody needs this message.
                sender.send(Message::Failed(error)).ok();
            }
            drop(sender);
            waker();
        });
        Feed { receiver }
    }
}

impl FeedPlan {
    fn read(
        &self,
        runtime: &tokio::runtime::Handle,
        sender: &SyncSender<Message>,
        waker: &Waker,
    ) -> Result<(), TableError> {
        let FeedRows { files, after, up_to } = &self.rows;
        for FeedFile { greatest, file, .. } in files {
            if sender.send(Message::DownTo(*greatest)).is_err() {
                return Ok(());
            }
            waker();
            let path = Path::from(file.path.as_str());
            let (log, of) = (self.log.clone(), path.clone());
            let reading = runtime.spawn(async move { read_file(log.store().as_ref(), &of).await });
            let read = match block_on(reading) {
                Ok(read) => read,
                // The job is ending, and nobody waits for the rest.
                Err(error) if error.is_cancelled() => return Ok(()),
                Err(error) => return Err(TableError::Bug(of_task("reading the archive", error))),
            };
            let bytes = read.map_err(|error| TableError::reading("raw", &path, error))?;
            for records in raw::read_records(file, bytes, *after, *up_to)? {
                if sender.send(Message::Chunk(records?)).is_err() {
                    return Ok(());
                }
                waker();
            }
        }
        // If the worker is gone, nobody needs this message.
        sender.send(Message::DownTo(0)).ok();
        Ok(())
    }
}

enum Message {
    Chunk(Records),
    DownTo(Epoch),
    Failed(TableError),
}

/// One worker's share of a portion, being read.
pub struct Feed {
    receiver: Receiver<Message>,
}

/// What a [`Feed`] has now.
pub enum Fed {
    /// Records.
    Chunk(Records),
    /// Nothing yet; the waker will be called.
    Wait,
    /// All rows of later epochs of the portion were given; 0 means all of the portion.
    DownTo(Epoch),
}

impl Feed {
    /// What comes next, if it is available.
    ///
    /// # Errors
    /// The error that reading failed with.
    pub fn take(&mut self) -> Result<Fed, TableError> {
        match self.receiver.try_recv() {
            Ok(Message::Chunk(records)) => Ok(Fed::Chunk(records)),
            Ok(Message::DownTo(epoch)) => Ok(Fed::DownTo(epoch)),
            Ok(Message::Failed(error)) => Err(error),
            Err(TryRecvError::Empty) => Ok(Fed::Wait),
            Err(TryRecvError::Disconnected) => {
                Err(TableError::Bug("the thread that reads the archive has ended; see the log above".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::table::Root;

    /// While the store is away, a file is requested again and again. If the job ends meanwhile, the thread ends in order.
    #[test]
    fn reading_ends_with_the_runtime() {
        let options = [
            ("endpoint", "http://127.0.0.1:1"),
            ("allow_http", "true"),
            ("access_key_id", "a"),
            ("secret_access_key", "b"),
            ("region", "us-east-1"),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let root = Root::open("s3://bucket/tables", &options).expect("it works");
        let file = File {
            path: "e000000000001.parquet".to_owned(),
            size: 1,
            rows: 1,
            partition: Default::default(),
            stats: String::new(),
        };
        let rows = FeedRows { files: vec![FeedFile { least: 1, greatest: 1, file }], after: 0, up_to: 1 };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("it works");
        let (waker, wakes) = channel();
        let archive = Archive {
            plan: FeedPlan::of(Log::new(&root, "raw"), rows),
            worker: (0, 1),
            runtime: runtime.handle().clone(),
            waker: Arc::new(move || waker.send(()).expect("it works")),
        };
        let mut feed = archive.feed(0, 1);
        wakes.recv().expect("it works");
        assert!(matches!(feed.take(), Ok(Fed::DownTo(1))));
        runtime.shutdown_background();
        wakes.recv().expect("a last wake, from a thread that did not panic");
        assert!(feed.take().is_err(), "it is not the end of the rows");
    }

    /// Each file of a portion has one reader, and no worker reads much more than another.
    #[test]
    fn a_portion_is_shared_out() {
        let root = Root::open("memory://", &Default::default()).expect("it works");
        let file = |least, greatest, rows| FeedFile {
            least,
            greatest,
            file: File {
                path: format!("{least}-{greatest}"),
                size: 1,
                rows,
                partition: Default::default(),
                stats: String::new(),
            },
        };
        // Newest first: two files for each epoch, a large one and a small one, and then a file with several epochs.
        let mut files: Vec<_> =
            (6..=9).rev().flat_map(|epoch| [file(epoch, epoch, 100), file(epoch, epoch, 3)]).collect();
        files.push(file(2, 6, 50));
        let plan = FeedPlan::of(Log::new(&root, "raw"), FeedRows { files, after: 3, up_to: 9 });
        assert_eq!(plan.epochs(), BTreeMap::from([(6, 153), (7, 103), (8, 103), (9, 103)]));
        for (after, up_to, rows, most) in [(3, 9, 462, 256), (3, 5, 50, 50), (5, 7, 256, 153), (7, 8, 103, 100)] {
            let shares = [0, 1].map(|worker| plan.share(worker, 2, after, up_to));
            let paths =
                |share: &FeedPlan| share.rows.files.iter().map(|file| file.file.path.clone()).collect::<Vec<_>>();
            let of = shares.each_ref().map(|share| share.rows.files.iter().map(|file| file.file.rows).sum::<u64>());
            assert_eq!(of.iter().sum::<u64>(), rows, "{after} to {up_to}: {:?}", shares.each_ref().map(paths));
            assert!(of.iter().all(|rows| *rows <= most), "{after} to {up_to}: {of:?}");
            assert_eq!((shares[0].rows.after, shares[1].rows.up_to), (after, up_to));
        }
    }
}
