//! `merge`: merges a publish order's updates into the live files.
//!
//! In: the work that `plan` lists. Out: new files, stored, as pieces of a `Staged`. Ordering: live files are read row group by row
//! group together with the updates, all in file order; row groups that no update touches are copied as bytes. State: a few row
//! groups and a few parts of a file per task, [`Merge::at_once`] tasks, so memory does not grow with files; large segments run one
//! at a time. Failure: if a cell would fall below zero, the publish is refused and the job ends; if an upload fails, the segment
//! is merged again. Restart: files that were staged but not committed are orphans.

#[cfg(test)]
mod measure;
mod rows;
#[cfg(test)]
mod tests;
mod updates;

use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use self::rows::{Made, Merging, Sizes, Target};
use self::updates::{Updates, widen};
use super::plan::{Part, Work};
use super::protocol::{Effort, Piece};
use crate::model::Granularity;
use crate::process::panics::of_task;
use crate::table::segment::{self, Group, SegmentReader};
use crate::table::store::{Backoff, may_pass};
use crate::table::{Log, TableError};

/// A segment whose live files have more bytes is large: a process merges one of these at a time, so that other segments find a free
/// core. Not those of minutes: they wait for nobody.
const LARGE_BYTES: u64 = 32 << 20;

/// If a segment has several live files, at least about this many bytes of each are read with one request.
const WINDOW_BYTES_MIN: u64 = 256 << 10;

/// One worker's part of a publish order.
pub struct Merge {
    /// Name of the files that it writes.
    pub name: String,
    /// The table `counts`.
    pub log: Log,
    /// How many segments are merged at once.
    pub at_once: usize,
    /// Lets the large segments of a process be merged one at a time.
    pub turn: Arc<Semaphore>,
}

impl Merge {
    /// Merges every segment and stores the new files.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] if a cell would fall below zero or a live file can not be read; [`TableError::Storage`].
    pub async fn stage(&self, work: Vec<Work>) -> Result<Vec<Piece>, TableError> {
        futures::stream::iter(work).map(|work| self.merge_one(work)).buffer_unordered(self.at_once).try_collect().await
    }

    async fn merge_one(&self, work: Work) -> Result<Piece, TableError> {
        let large = work.live.iter().map(|file| file.size).sum::<u64>() > LARGE_BYTES;
        let waits = large && work.segment.granularity != Granularity::Minute;
        let _turn = if waits { self.turn.acquire().await.ok() } else { None };
        let work = Arc::new(work);
        let (merged, us) = merge_patiently(self.log.store(), &work, &self.name, Sizes::default()).await?;
        let updates = work.updates.iter().map(|part| part.indices.len() as u64).sum();
        let rows = merged.files.iter().map(|file| file.rows).sum();
        let effort = Effort { updates, rows, decoded: merged.decoded, copied_bytes: merged.copied_bytes, us };
        Ok(Piece { segment: work.segment, add: merged.files, remove: work.live.clone(), effort })
    }
}

/// Merges and stores a segment, as often as it takes: the same files and updates give the same bytes under the same name, so what a
/// try has left does no harm.
async fn merge_patiently(
    store: &Arc<dyn ObjectStore>,
    work: &Arc<Work>,
    name: &str,
    sizes: Sizes,
) -> Result<(Made, u64), TableError> {
    let mut backoff = Backoff::new();
    loop {
        match merge_and_store(store, work, name, sizes).await {
            Err(TableError::Storage { doing, error }) if may_pass(&error) => {
                tracing::warn!(doing, %error, "segment not stored, merging it again; check the store");
                backoff.pause().await;
            }
            done => return done,
        }
    }
}

/// Merges and stores a segment. Returns what was made, and the microseconds that it took without waiting for the store.
async fn merge_and_store(
    store: &Arc<dyn ObjectStore>,
    work: &Arc<Work>,
    name: &str,
    sizes: Sizes,
) -> Result<(Made, u64), TableError> {
    let mut requests = sizes.requests;
    if work.live.len() > 1 {
        requests.window_bytes = (requests.window_bytes / work.live.len() as u64).max(WINDOW_BYTES_MIN);
    }
    let mut readers = Vec::with_capacity(work.live.len());
    for file in &work.live {
        readers.push(SegmentReader::open(Arc::clone(store), file, requests).await?);
    }
    let (mut feeds, mut live) = (Vec::with_capacity(readers.len()), Vec::with_capacity(readers.len()));
    for reader in readers {
        let (sender, receiver) = channel(1);
        feeds.push(reader.feed(sender));
        live.push(receiver);
    }
    let (sender, parts) = segment::parts();
    let split = work.split.then(|| work.segment.granularity.ladder()[0]);
    let target = Target { segment: work.segment, split, name: name.to_owned(), sizes };
    let to_merge = Arc::clone(work);
    let merging = tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let merged = merge(target, &to_merge.updates, live, sender)?;
        let us = started.elapsed().saturating_sub(merged.waited).as_micros() as u64;
        Ok((merged, us))
    });
    // If reading or storing fails, so does the merge: nobody gives it row groups, or takes its parts.
    let (read, stored) = futures::join!(futures::future::join_all(feeds), segment::upload(store.as_ref(), parts));
    let merged = merging.await.map_err(|error| TableError::Bug(of_task("a merge into counts", error)))?;
    stored?;
    read.into_iter().collect::<Result<(), _>>()?;
    merged
}

/// Merges updates into a segment's live files.
fn merge(
    target: Target,
    updates: &[Part],
    live: Vec<Receiver<Option<Group>>>,
    parts: Sender<segment::Part>,
) -> Result<Made, TableError> {
    let segment = target.segment;
    let (granularity, seals) = (segment.granularity.name(), live.len() > 1);
    let _span = tracing::debug_span!("merge", ?segment, granularity, seals, file = target.name).entered();
    let widened;
    let updates = if segment.granularity > Granularity::Day {
        widened = widen(segment.granularity, updates);
        std::slice::from_ref(&widened)
    } else {
        updates
    };
    Merging::new(target, Updates::new(updates), parts).run(live)
}
