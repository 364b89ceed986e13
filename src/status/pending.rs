//! What is in `raw` and not yet in a lane: epochs, rows, and the Kafka timestamp of the oldest record.
//!
//! In: the files of `raw` with an epoch above the lowest lane's. Out: [`Pending`] of each lane. A file that the job wrote has one
//! epoch, so its footer says everything; columns are read only of other files. Every record of an epoch is included, whichever lane
//! will publish it, and rejected ones too. So the number is an upper bound, and it needs no job file.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::StreamExt;

use super::column::{Footer, Numbers};
use crate::model::{Lane, TimeUs};
use crate::table::{File, Log, State, TableError, raw};

/// Files that are read at once.
const AT_ONCE: usize = 8;

/// What a lane has not absorbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Rows of `raw`.
    pub(super) rows: u64,
    /// The least Kafka timestamp among them; `None` where none has one.
    pub(super) oldest: Option<TimeUs>,
}

impl Pending {
    fn add(&mut self, other: Pending) {
        self.rows += other.rows;
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
    }
}

/// What each lane of [`Lane::ALL`] has not absorbed. `tick` is called after each file, with its number of rows.
///
/// # Errors
/// When a file can not be read.
pub(super) async fn pending(
    log: &Log,
    state: &State,
    lanes: [i64; Lane::ALL.len()],
    mut tick: impl FnMut(u64),
) -> Result<[Pending; Lane::ALL.len()], TableError> {
    let lowest = lanes.into_iter().min().unwrap_or(0);
    let mut files = Vec::new();
    for file in state.files.values() {
        if raw::epochs_of(file)?.1 as i64 > lowest {
            files.push(file.clone());
        }
    }
    let mut pending = [Pending::default(); Lane::ALL.len()];
    let mut read = futures::stream::iter(files)
        .map(|file| async move { epochs(log, &file).await.map(|epochs| (file.rows, epochs)) })
        .buffer_unordered(AT_ONCE);
    while let Some(found) = read.next().await {
        let (rows, epochs) = found?;
        for (epoch, of_epoch) in epochs {
            for (pending, _) in pending.iter_mut().zip(lanes).filter(|(_, lane)| epoch > *lane) {
                pending.add(of_epoch);
            }
        }
        tick(rows);
    }
    Ok(pending)
}

/// Rows and oldest record of each epoch in a file.
async fn epochs(log: &Log, file: &File) -> Result<BTreeMap<i64, Pending>, TableError> {
    let footer = Footer::read(log, file).await?;
    let mut found: BTreeMap<i64, Pending> = BTreeMap::new();
    let mut unsaid = Vec::new();
    for (group, rows) in footer.group_rows().into_iter().enumerate() {
        match (footer.numbers(group, "epoch"), footer.numbers(group, "kafka_timestamp")) {
            (Some(Numbers { range: Some((first, last)) }), Some(times)) if first == last => {
                found.entry(first).or_default().add(Pending { rows, oldest: times.range.map(|(least, _)| least) });
            }
            _ => unsaid.push(group),
        }
    }
    if !unsaid.is_empty() {
        footer.rows(unsaid, &["epoch", "kafka_timestamp"], |batch| add_rows(batch, &mut found)).await?;
    }
    Ok(found)
}

fn add_rows(batch: &RecordBatch, found: &mut BTreeMap<i64, Pending>) -> Result<(), String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("there is no column {name}"));
    let epochs = column("epoch")?.as_primitive_opt::<Int64Type>().ok_or("column epoch is not an integer column")?;
    let times = column("kafka_timestamp")?
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or("column kafka_timestamp is not in microseconds")?;
    for row in 0..batch.num_rows() {
        let oldest = times.is_valid(row).then(|| times.value(row));
        found.entry(epochs.value(row)).or_default().add(Pending { rows: 1, oldest });
    }
    Ok(())
}
