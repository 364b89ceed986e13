//! Promise 4 of the design: every record of an epoch is counted at several places, and these counts agree.
//!
//! In: the reports about a closed epoch. Out: nothing, or [`CommitError::Imbalance`], which ends the job before `counts` is
//! touched. Pure: no state.

use super::error::CommitError;
use super::protocol::{Archived, Outcomes, Read, Received};
use crate::model::{Epoch, TimeUs};

/// The reports about a closed epoch.
#[derive(Default)]
pub(super) struct Closed {
    pub(super) ingested_at: TimeUs,
    pub(super) reads: Vec<Read>,
    pub(super) archived: Vec<Archived>,
    pub(super) received: Vec<Received>,
}

/// Checks that rows read = rows archived = received + rejected + filtered, as counted by the source, the archiver and `pending`.
pub(super) fn balance(epoch: Epoch, closed: &Closed) -> Result<(), CommitError> {
    let unequal = |what: String| CommitError::Imbalance { epoch, what };
    let (mut live, mut fed) = (Outcomes::default(), Outcomes::default());
    let mut rows = 0;
    for archived in &closed.archived {
        live.add(&archived.live);
        fed.add(&archived.fed);
        rows += archived.files.iter().map(|file| file.rows).sum::<u64>();
    }
    let read: u64 = closed.reads.iter().map(|read| read.live).sum();
    if read != rows || rows != live.total() {
        return Err(unequal(format!("{read} records read, {rows} rows archived, {} outcomes", live.total())));
    }
    let fed_read: u64 = closed.reads.iter().map(|read| read.fed).sum();
    if fed_read != fed.total() {
        return Err(unequal(format!("{fed_read} records fed from the archive, {} outcomes", fed.total())));
    }
    let received: i64 = closed.received.iter().map(|received| received.total).sum();
    let absorbed: u64 = closed.archived.iter().map(|archived| archived.fed_absorbed).sum();
    let counted = live.counted + fed.counted - absorbed;
    if received != counted as i64 {
        return Err(unequal(format!("{counted} records counted, `total` received {received}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::table::File;

    fn outcomes(counted: u64, filtered: u64, empty: u64) -> Outcomes {
        Outcomes { counted, filtered, rejected: BTreeMap::from([("empty".to_owned(), empty)]) }
    }

    fn file(rows: u64) -> File {
        File { path: String::new(), size: 0, rows, partition: BTreeMap::new(), stats: String::new() }
    }

    /// An epoch of two workers that read 7 and 3 records: 6 counted, 3 filtered, 1 rejected; 2 more counted from the archive, one
    /// of which every lane has absorbed.
    fn balanced() -> Closed {
        let read = |live, fed| Read { epoch: 5, live, fed, positions: Vec::new(), at_end: false };
        Closed {
            ingested_at: 0,
            reads: vec![read(7, 1), read(3, 2)],
            archived: vec![Archived {
                epoch: 5,
                files: vec![file(9), file(1)],
                live: outcomes(6, 3, 1),
                fed: outcomes(2, 1, 0),
                fed_absorbed: 1,
            }],
            received: vec![Received { epoch: 5, total: 5 }, Received { epoch: 5, total: 2 }],
        }
    }

    fn imbalance(change: impl FnOnce(&mut Closed)) -> String {
        let mut closed = balanced();
        change(&mut closed);
        balance(5, &closed).expect_err("it does not balance").to_string()
    }

    #[test]
    fn promise_4_what_is_lost_or_doubled_between_two_counts_stops_counts() {
        assert!(balance(5, &balanced()).is_ok());
        let lost_before_the_archive = imbalance(|closed| closed.archived[0].files[0].rows -= 1);
        assert!(lost_before_the_archive.contains("10 records read, 9 rows archived"), "{lost_before_the_archive}");
        let lost_outcome = imbalance(|closed| closed.archived[0].live.filtered -= 1);
        assert!(lost_outcome.contains("10 rows archived, 9 outcomes"), "{lost_outcome}");
        let lost_feed = imbalance(|closed| closed.reads[0].fed += 1);
        assert!(lost_feed.contains("4 records fed from the archive, 3 outcomes"), "{lost_feed}");
        let doubled = imbalance(|closed| closed.received[1].total += 1);
        assert!(doubled.contains("7 records counted, `total` received 8"), "{doubled}");
    }
}
