//! Feeds records from the archive to one worker: what lanes have not absorbed, after a restart.
//!
//! In: files of `raw`, newest epoch first. Out: the rows above one epoch and up to another, as records that carry their own epoch
//! and `ingested_at`, and down to which epoch all were given, so that fast lanes are ready first. State: one file's bytes and a few chunks, bounded by the channel. Failure: said to the source operator,
//! which holds its capability.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use futures::executor::block_on;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::Waker;
use crate::model::{Epoch, Records};
use crate::panics::{caught_in, of_task};
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

/// The same without the way to the table, for the other processes of the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FeedRows {
    /// With their greatest epoch.
    files: Vec<(Epoch, File)>,
    after: Epoch,
    up_to: Epoch,
}

impl FeedPlan {
    /// The live files of `raw` that hold such rows, newest first.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] when a file's statistics do not say its epochs.
    pub fn new(log: Log, raw: &State, after: Epoch, up_to: Epoch) -> Result<FeedPlan, TableError> {
        let mut files = Vec::new();
        if after < up_to {
            for file in raw.files.values() {
                let (least, greatest) = raw::epochs_of(file)?;
                if least <= up_to && greatest > after {
                    files.push((greatest, file.clone()));
                }
            }
            files.sort_by_key(|(greatest, _)| std::cmp::Reverse(*greatest));
        }
        Ok(FeedPlan::of(log, FeedRows { files, after, up_to }))
    }

    /// These rows of the table with that log.
    pub fn of(log: Log, rows: FeedRows) -> FeedPlan {
        FeedPlan { log, rows }
    }

    /// The rows.
    pub fn rows(&self) -> &FeedRows {
        &self.rows
    }

    /// Files to read.
    pub fn files(&self) -> usize {
        self.rows.files.len()
    }

    /// Starts to read a worker's share.
    pub fn open(&self, worker: usize, workers: usize, runtime: &tokio::runtime::Handle, waker: Waker) -> Feed {
        let FeedRows { files, after, up_to } = &self.rows;
        let files = files.iter().enumerate().filter(|(index, _)| index % workers == worker);
        let files = files.map(|(_, file)| file.clone()).collect();
        let (sender, receiver) = sync_channel(CHUNKS_WAITING);
        let share = FeedPlan::of(self.log.clone(), FeedRows { files, after: *after, up_to: *up_to });
        if share.files() == 0 {
            // Known at once: what waits for the feed need not wait for a thread. The channel has room, and its receiver is here.
            sender.send(Message::DownTo(0)).ok();
            return Feed { receiver };
        }
        let handle = runtime.clone();
        runtime.spawn_blocking(move || {
            let read = caught_in("the feed from the archive", || share.read(&handle, &sender, &waker));
            if let Err(error) = read.unwrap_or_else(|panic| Err(TableError::Bug(panic))) {
                // A worker that is gone needs no end.
                sender.send(Message::Failed(error)).ok();
            }
            drop(sender);
            waker();
        });
        Feed { receiver }
    }

    fn read(
        &self,
        runtime: &tokio::runtime::Handle,
        sender: &SyncSender<Message>,
        waker: &Waker,
    ) -> Result<(), TableError> {
        let FeedRows { files, after, up_to } = &self.rows;
        for (greatest, file) in files {
            if sender.send(Message::DownTo(*greatest)).is_err() {
                return Ok(());
            }
            waker();
            let path = Path::from(file.path.as_str());
            let (log, of) = (self.log.clone(), path.clone());
            let reading = runtime.spawn(async move { read_file(log.store().as_ref(), &of).await });
            let read = match block_on(reading) {
                Ok(read) => read,
                // When the job ends: nobody waits for the rest.
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
        // A worker that is gone needs no end.
        sender.send(Message::DownTo(0)).ok();
        Ok(())
    }
}

enum Message {
    Chunk(Records),
    DownTo(Epoch),
    Failed(TableError),
}

/// One worker's share of the archive, being read.
pub struct Feed {
    receiver: Receiver<Message>,
}

/// What a [`Feed`] has now.
pub enum Fed {
    /// Records.
    Chunk(Records),
    /// Nothing yet; the waker will be called.
    Wait,
    /// All rows of later epochs were given; 0 is the end.
    DownTo(Epoch),
}

impl Feed {
    /// The next chunk, if it is there.
    ///
    /// # Errors
    /// What the reading failed with.
    pub fn take(&mut self) -> Result<Fed, TableError> {
        match self.receiver.try_recv() {
            Ok(Message::Chunk(records)) => Ok(Fed::Chunk(records)),
            Ok(Message::DownTo(epoch)) => Ok(Fed::DownTo(epoch)),
            Ok(Message::Failed(error)) => Err(error),
            Err(TryRecvError::Empty) => Ok(Fed::Wait),
            Err(TryRecvError::Disconnected) => {
                Err(TableError::Bug("the thread that reads the archive is gone; see the log above".to_owned()))
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

    /// While the store is away a file is asked for again and again; a job that ends meanwhile ends the thread in order.
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
        let rows = FeedRows { files: vec![(1, file)], after: 0, up_to: 1 };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("it works");
        let (waker, wakes) = channel();
        let mut feed = FeedPlan::of(Log::new(&root, "raw"), rows).open(
            0,
            1,
            runtime.handle(),
            Arc::new(move || waker.send(()).expect("it works")),
        );
        wakes.recv().expect("it works");
        assert!(matches!(feed.take(), Ok(Fed::DownTo(1))));
        runtime.shutdown_background();
        wakes.recv().expect("a last wake, from a thread that did not panic");
        assert!(feed.take().is_err(), "it is not the end of the rows");
    }
}
