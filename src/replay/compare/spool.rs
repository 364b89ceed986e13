//! A sequence of cells and counts that goes to disk when it becomes long.
//!
//! In: cells in order, each with a count. Out: the same sequence, read once from the beginning. State: up to 8 MiB in memory, and the rest
//! in a temporary file that disappears with the process. Failure: full scratch space is an error that says so.

use std::io::Seek;

use crate::replay::count::sorted::SortedCells;
use crate::table::TableError;

/// A sequence of cells and counts, in order, that goes to disk when it becomes long.
pub(super) struct Spool {
    file: tempfile::SpooledTempFile,
    entries: u64,
}

/// The size up to which a spool stays in memory.
const SPOOL_BYTES_MAX: usize = 8 << 20;

impl Default for Spool {
    fn default() -> Self {
        Spool { file: tempfile::SpooledTempFile::new(SPOOL_BYTES_MAX), entries: 0 }
    }
}

impl Spool {
    /// Appends a cell; cells must come in order.
    ///
    /// # Errors
    /// [`TableError`] when there is no room on disk.
    pub(super) fn push(&mut self, cell: &[u8], count: i64) -> Result<(), TableError> {
        use std::io::Write;
        let mut write = |bytes: &[u8]| self.file.write_all(bytes).map_err(scratch);
        write(&(cell.len() as u32).to_le_bytes())?;
        write(cell)?;
        write(&count.to_le_bytes())?;
        self.entries += 1;
        Ok(())
    }

    /// Reads the sequence from its beginning.
    ///
    /// # Errors
    /// [`TableError`] when it can not be read back.
    pub(super) fn read(mut self) -> Result<impl SortedCells, TableError> {
        self.file.rewind().map_err(scratch)?;
        let mut read = SpoolReader { file: std::io::BufReader::new(self.file), left: self.entries, entry: None };
        read.advance()?;
        Ok(read)
    }
}

struct SpoolReader {
    file: std::io::BufReader<tempfile::SpooledTempFile>,
    left: u64,
    entry: Option<(Vec<u8>, i64)>,
}

impl SortedCells for SpoolReader {
    fn cell(&self) -> Option<&[u8]> {
        self.entry.as_ref().map(|(cell, _)| cell.as_slice())
    }

    fn count(&self) -> i64 {
        self.entry.as_ref().map_or(0, |(_, count)| *count)
    }

    fn advance(&mut self) -> Result<(), TableError> {
        use std::io::Read;
        if self.left == 0 {
            self.entry = None;
            return Ok(());
        }
        self.left -= 1;
        let (mut len, mut count) = ([0; 4], [0; 8]);
        self.file.read_exact(&mut len).map_err(scratch)?;
        let mut cell = self.entry.take().map(|(cell, _)| cell).unwrap_or_default();
        cell.resize(u32::from_le_bytes(len) as usize, 0);
        self.file.read_exact(&mut cell).map_err(scratch)?;
        self.file.read_exact(&mut count).map_err(scratch)?;
        self.entry = Some((cell, i64::from_le_bytes(count)));
        Ok(())
    }
}

fn scratch(error: std::io::Error) -> TableError {
    TableError::Scratch(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_spool_reads_back(cells in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..5), any::<i64>(), 0..20)) {
            let mut spool = Spool::default();
            cells.iter().for_each(|(cell, count)| spool.push(cell, *count).expect("room"));
            let mut read = spool.read().expect("readable");
            let mut found = Vec::new();
            while let Some(cell) = read.cell() {
                found.push((cell.to_vec(), read.count()));
                read.advance().expect("readable");
            }
            prop_assert_eq!(found, cells.into_iter().collect::<Vec<_>>());
        }
    }
}
