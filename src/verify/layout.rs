//! Where cells are: the live files of `counts`, in the order in which they are compared.
//!
//! In: a version of `counts`. Out: slots. A slot is the files of one granularity and bucket whose windows overlap: one file, unless the
//! table is broken. Periods of one granularity and bucket may have different lengths (a sealed month, then days, then an hour). Slots are
//! numbered by granularity, bucket and period. A cell belongs to the slot whose time span holds the start of its window. State: the list of
//! live files. Failure: a file whose partition values can not be read is corrupt; files that overlap are differences.

use std::collections::BTreeMap;
use std::ops::Range;

use super::difference::{Check, Differences, Subject};
use super::error::VerifyError;
use super::key::HOMELESS;
use super::window::{WINDOWS, period, window_of};
use crate::table::{File, State, TableError};

/// Files that are merged while they are read.
pub(super) struct Slot {
    /// Index in [`WINDOWS`].
    pub(super) window: usize,
    /// The bucket of its customers.
    pub(super) bucket: u32,
    /// From the start of its first window to the end of its last.
    span: Range<i64>,
    /// The files, with the spans of their windows.
    pub(super) files: Vec<(File, Range<i64>)>,
}

/// All slots.
pub(super) struct Layout {
    /// The slots, in order.
    pub(super) slots: Vec<Slot>,
    /// The range of slots of each granularity and bucket.
    homes: BTreeMap<(usize, u32), Range<usize>>,
}

impl Layout {
    /// Sorts the live files into slots.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] when a file's partition values can not be read.
    pub(super) fn new(state: &State, differences: &mut Differences) -> Result<Layout, VerifyError> {
        let mut files = Vec::with_capacity(state.files.len());
        for file in state.files.values() {
            let (window, bucket, span) = segment(file, differences)?;
            files.push((window, bucket, span.start, span.end, file));
        }
        files.sort_by(|a, b| (a.0, a.1, a.2, a.3, &a.4.path).cmp(&(b.0, b.1, b.2, b.3, &b.4.path)));

        let mut slots: Vec<Slot> = Vec::new();
        for (window, bucket, start, end, file) in files {
            let entry = (file.clone(), start..end);
            match slots.last_mut() {
                Some(last) if (last.window, last.bucket) == (window, bucket) && start < last.span.end => {
                    let other = last.files.last().map_or("", |(file, _)| file.path.as_str());
                    let place = Subject::File { file: file.path.clone() };
                    differences.add(Check::FilesOverlap, place, format!("overlaps {other}"), "no overlap");
                    last.span.end = last.span.end.max(end);
                    last.files.push(entry);
                }
                _ => slots.push(Slot { window, bucket, span: start..end, files: vec![entry] }),
            }
        }
        let mut homes = BTreeMap::new();
        for (index, slot) in slots.iter().enumerate() {
            homes.entry((slot.window, slot.bucket)).or_insert(index..index).end = index + 1;
        }
        Ok(Layout { slots, homes })
    }

    /// The slot of a window, or [`HOMELESS`].
    pub(super) fn home(&self, window: usize, bucket: u32, start_us: i64) -> u32 {
        let Some(range) = self.homes.get(&(window, bucket)) else { return HOMELESS };
        let slots = &self.slots[range.clone()];
        let after = slots.partition_point(|slot| slot.span.start <= start_us);
        match after.checked_sub(1) {
            Some(index) if start_us < slots[index].span.end => (range.start + index) as u32,
            _ => HOMELESS,
        }
    }
}

fn segment(file: &File, differences: &mut Differences) -> Result<(usize, u32, Range<i64>), VerifyError> {
    let value = |name: &str| file.partition.get(name).map(String::as_str).unwrap_or_default();
    let label = value("period");
    let (Some(window), Ok(bucket), Some(span)) =
        (window_of(value("granularity")), value("bucket").parse::<u32>(), period(label))
    else {
        return Err(VerifyError::Table(TableError::Corrupt {
            table: "counts".to_owned(),
            what: format!(
                "{}: its partition values {:?} do not name a granularity, a period and a bucket",
                file.path, file.partition
            ),
        }));
    };
    let within = WINDOWS[window].within(span.clone());
    let expected = if !WINDOWS[window].period_lengths.contains(&label.len()) {
        Some(format!("a period of {} characters", join(WINDOWS[window].period_lengths)))
    } else if within.is_empty() {
        Some("a period in which a window starts: of a week, its Monday".to_owned())
    } else {
        None
    };
    if let Some(expected) = expected {
        differences.add(Check::Segment, Subject::File { file: file.path.clone() }, format!("period {label}"), expected);
    }
    Ok((window, bucket, if within.is_empty() { span } else { within }))
}

fn join(lengths: &[usize]) -> String {
    lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ")
}
