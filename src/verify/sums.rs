//! Sums by key, in sorted order, in bounded memory.
//!
//! In: (key, number), in any order. Out: each key once with its sum, ascending. State: a hash map, up to the budget. When it is full it is
//! written to a temporary file as a sorted run, and every [`FAN_IN`] runs are merged into one. So memory is bounded by the budget, and only
//! disk space grows with history: one entry for each distinct key and run. The files have no names, so they end with the process. Failure:
//! a run that can not be written or read back is an error.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, Write};

use hashbrown::HashMap;

/// Runs that are merged at once; this also bounds the number of open files.
const FAN_IN: usize = 32;

/// What an entry takes besides its key: a slot of the map at its lowest load, an allocation, and a place in the vector that is sorted.
const ENTRY_BYTES: usize = 144;

/// A key and its sum.
type Entry = (Box<[u8]>, i64);

/// Sums that are being collected.
pub(super) struct Sums {
    sums: HashMap<Box<[u8]>, i64, foldhash::fast::RandomState>,
    bytes: usize,
    budget_bytes: usize,
    /// Runs by how often they were merged.
    levels: Vec<Vec<File>>,
    spilled: u64,
}

impl Sums {
    /// Starts without sums. The map is spilled when it has grown to `budget_bytes`.
    pub(super) fn new(budget_bytes: usize) -> Self {
        Sums { sums: HashMap::default(), bytes: 0, budget_bytes, levels: Vec::new(), spilled: 0 }
    }

    /// Adds `number` to the sum of `key`.
    ///
    /// # Errors
    /// When a run can not be written.
    pub(super) fn add(&mut self, key: &[u8], number: i64) -> io::Result<()> {
        if let Some(sum) = self.sums.get_mut(key) {
            *sum += number;
            return Ok(());
        }
        self.bytes += key.len() + ENTRY_BYTES;
        self.sums.insert(key.into(), number);
        if self.bytes > self.budget_bytes { self.spill() } else { Ok(()) }
    }

    /// How often the budget was reached.
    pub(super) fn spilled(&self) -> u64 {
        self.spilled
    }

    /// Returns the sums, in order.
    ///
    /// # Errors
    /// When a run can not be read back.
    pub(super) fn finish(mut self) -> io::Result<Sorted> {
        let mut runs = vec![RunReader::Memory(self.sorted().into_iter())];
        for file in self.levels.into_iter().flatten() {
            runs.push(RunReader::open(file)?);
        }
        Sorted::new(runs)
    }

    fn sorted(&mut self) -> Vec<Entry> {
        self.bytes = 0;
        let mut sorted: Vec<_> = std::mem::take(&mut self.sums).into_iter().collect();
        sorted.sort_unstable();
        sorted
    }

    fn spill(&mut self) -> io::Result<()> {
        self.spilled += 1;
        let memory = RunReader::Memory(self.sorted().into_iter());
        let mut file = write_run(Sorted::new(vec![memory])?)?;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(file);
            if self.levels[level].len() < FAN_IN {
                break;
            }
            let runs = self.levels[level].drain(..).map(RunReader::open).collect::<io::Result<_>>()?;
            file = write_run(Sorted::new(runs)?)?;
        }
        Ok(())
    }
}

fn write_run(mut sorted: Sorted) -> io::Result<File> {
    let mut out = BufWriter::with_capacity(1 << 16, tempfile::tempfile()?);
    while let Some((key, sum)) = sorted.next()? {
        out.write_all(&(key.len() as u32).to_le_bytes())?;
        out.write_all(&key)?;
        out.write_all(&sum.to_le_bytes())?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Reads a run, from memory or from a temporary file.
enum RunReader {
    Memory(std::vec::IntoIter<Entry>),
    Disk(BufReader<File>),
}

impl RunReader {
    fn open(mut file: File) -> io::Result<RunReader> {
        file.rewind()?;
        Ok(RunReader::Disk(BufReader::with_capacity(1 << 16, file)))
    }

    fn next(&mut self) -> io::Result<Option<Entry>> {
        let reader = match self {
            RunReader::Memory(entries) => return Ok(entries.next()),
            RunReader::Disk(reader) => reader,
        };
        let mut len = [0; 4];
        match reader.read_exact(&mut len) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let mut key = vec![0; u32::from_le_bytes(len) as usize].into_boxed_slice();
        reader.read_exact(&mut key)?;
        let mut sum = [0; 8];
        reader.read_exact(&mut sum)?;
        Ok(Some((key, i64::from_le_bytes(sum))))
    }
}

/// Sums in ascending order of their keys.
pub(super) struct Sorted {
    runs: Vec<RunReader>,
    /// The next entry of each run that has one, with the index of the run; the least key is first.
    heads: BinaryHeap<Reverse<(Entry, usize)>>,
}

impl Sorted {
    fn new(mut runs: Vec<RunReader>) -> io::Result<Sorted> {
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (index, run) in runs.iter_mut().enumerate() {
            if let Some(entry) = run.next()? {
                heads.push(Reverse((entry, index)));
            }
        }
        Ok(Sorted { runs, heads })
    }

    /// The least remaining key.
    pub(super) fn peek(&self) -> Option<&[u8]> {
        self.heads.peek().map(|Reverse(((key, _), _))| &**key)
    }

    /// Returns the least key with its sum, and removes it.
    ///
    /// # Errors
    /// When a run can not be read back.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let Some((key, mut sum)) = self.take()? else { return Ok(None) };
        while self.peek() == Some(&key) {
            sum += self.take()?.map_or(0, |(_, sum)| sum);
        }
        Ok(Some((key, sum)))
    }

    fn take(&mut self) -> io::Result<Option<Entry>> {
        let Some(mut head) = self.heads.peek_mut() else { return Ok(None) };
        let index = head.0.1;
        let Reverse((entry, _)) = match self.runs[index].next()? {
            Some(next) => std::mem::replace(&mut *head, Reverse((next, index))),
            None => PeekMut::pop(head),
        };
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn sums_are_the_same_at_any_budget() {
        let added: Vec<(Vec<u8>, i64)> = (0..20_000u64)
            .map(|index| {
                let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                ((mixed % 3_000).to_string().into_bytes(), (mixed % 7) as i64 - 3)
            })
            .collect();
        let mut expected = BTreeMap::<Vec<u8>, i64>::new();
        for (key, number) in &added {
            *expected.entry(key.clone()).or_default() += number;
        }
        // Nothing spilled; a few runs; runs merged over several levels.
        for (budget_bytes, spills) in [(usize::MAX, 0..=0), (100_000, 2..=200), (1_000, 1_100..=20_000)] {
            let mut sums = Sums::new(budget_bytes);
            for (key, number) in &added {
                sums.add(key, *number).expect("a temporary file");
            }
            assert!(spills.contains(&sums.spilled()), "{budget_bytes}: {}", sums.spilled());
            assert!(sums.levels.iter().all(|level| level.len() < FAN_IN));
            let mut sorted = sums.finish().expect("a temporary file");
            let mut found = Vec::new();
            while let Some((key, sum)) = sorted.next().expect("a temporary file") {
                found.push((key.into_vec(), sum));
            }
            assert_eq!(found, expected.clone().into_iter().collect::<Vec<_>>(), "{budget_bytes}");
        }
    }
}
