//! Where the cells of `counts` live: its live files by granularity, bucket and period.
//!
//! In: files that a commit removes and adds. Out: the live file that holds a window, and what overlaps a period. Live files of
//! one granularity and bucket never overlap; a commit that would break this is refused. State: the live files.

use std::collections::BTreeMap;
use std::ops::Range;

use super::counts::segment_of;
use super::error::TableError;
use super::state::File;
use crate::model::{Granularity, Segment, TimeUs};

/// Live files of some buckets of `counts`.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// By start of their first window.
    files: BTreeMap<(Granularity, u16), BTreeMap<TimeUs, (Segment, File)>>,
}

impl Layout {
    /// Those of `files` whose bucket `keeps` accepts.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] when a file is not a segment, or two live files overlap.
    pub fn new<'a>(
        files: impl IntoIterator<Item = &'a File>,
        keeps: impl Fn(u16) -> bool,
    ) -> Result<Layout, TableError> {
        let mut layout = Layout::default();
        layout.replace(&[], files, keeps)?;
        Ok(layout)
    }

    /// Applies a commit, in the buckets that `keeps` accepts.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn replace<'a>(
        &mut self,
        remove: &[File],
        add: impl IntoIterator<Item = &'a File>,
        keeps: impl Fn(u16) -> bool,
    ) -> Result<(), TableError> {
        for file in remove {
            let segment = segment_of(file)?;
            if let Some(files) = self.files.get_mut(&(segment.granularity, segment.bucket))
                && files.get(&segment.windows().start).is_some_and(|(_, live)| live.path == file.path)
            {
                files.remove(&segment.windows().start);
            }
        }
        for file in add {
            let segment = segment_of(file)?;
            if !keeps(segment.bucket) {
                continue;
            }
            if let Some((_, other)) = self.overlapping(&segment).next() {
                return Err(TableError::Corrupt {
                    table: "counts".to_owned(),
                    what: format!("files {} and {} are both live, but their periods overlap", other.path, file.path),
                });
            }
            let files = self.files.entry((segment.granularity, segment.bucket)).or_default();
            files.insert(segment.windows().start, (segment, file.clone()));
        }
        Ok(())
    }

    /// The live file that holds a window.
    pub fn holder(&self, granularity: Granularity, bucket: u16, window_start: TimeUs) -> Option<&(Segment, File)> {
        let files = self.files.get(&(granularity, bucket))?;
        let (_, found) = files.range(..=window_start).next_back()?;
        (window_start < found.0.windows().end).then_some(found)
    }

    /// Live files whose windows overlap the segment's.
    pub fn overlapping(&self, segment: &Segment) -> impl Iterator<Item = &(Segment, File)> {
        let Range { start, end } = segment.windows();
        let before = self.holder(segment.granularity, segment.bucket, start);
        let within = (self.files.get(&(segment.granularity, segment.bucket)).into_iter())
            .flat_map(move |files| files.range(start..end).map(|(_, found)| found))
            .filter(move |found| before.is_none_or(|before| before.0 != found.0));
        before.into_iter().chain(within)
    }

    /// The live files of a granularity and bucket, by time.
    pub fn of(&self, granularity: Granularity, bucket: u16) -> impl Iterator<Item = &(Segment, File)> {
        self.files.get(&(granularity, bucket)).into_iter().flat_map(|files| files.values())
    }

    /// The live files in groups of one granularity and bucket, each by time.
    pub fn groups(&self) -> impl Iterator<Item = impl Iterator<Item = &(Segment, File)>> {
        self.files.values().map(|files| files.values())
    }
}
