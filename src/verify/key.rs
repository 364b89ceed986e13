//! The keys of the sums: bytes that sort as the files of `counts` do.
//!
//! In: a cell, a stretch of offsets, or an epoch. Out: its key, and back. The key of a cell is (slot, granularity, customer, dimension,
//! window start, value). The slot is the place among the live files, so the sums come out in the order in which the files are read. Two
//! other kinds of key sort after all cells: stretches of offsets, and epochs with their `ingested_at`. Texts end with 0, 0; a 0 inside a
//! text is followed by 1. Pure.

/// The slot of cells whose window has no live file.
pub(super) const HOMELESS: u32 = u32::MAX - 2;
const OFFSETS: u32 = u32::MAX - 1;
const EPOCHS: u32 = u32::MAX;

/// A key that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A cell.
    Cell {
        /// The place among the live files, or [`HOMELESS`].
        slot: u32,
        /// The cell.
        cell: Cell,
    },
    /// Consecutive offsets of one partition.
    Offsets {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset.
        first: i64,
        /// One past the last.
        end: i64,
    },
    /// An epoch, with the `ingested_at` of a row of it.
    Epoch {
        /// The epoch.
        epoch: i64,
        /// `ingested_at` in µs.
        ingested_us: i64,
    },
}

/// A cell of `counts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// Index in [`super::window::WINDOWS`].
    pub(super) window: usize,
    /// The customer.
    pub(super) customer: String,
    /// The dimension.
    pub(super) dimension: String,
    /// Start of the window, in µs.
    pub(super) start_us: i64,
    /// Value of the dimension.
    pub(super) value: String,
}

/// Clears `out`, and begins the key of a cell in it.
pub(super) fn cell_head(slot: u32, window: usize, customer: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend(slot.to_be_bytes());
    out.push(window as u8);
    text(customer, out);
}

/// Appends the rest of a cell's key.
pub(super) fn cell_tail(dimension: &[u8], start_us: i64, value: &[u8], out: &mut Vec<u8>) {
    text(dimension, out);
    number(start_us, out);
    text(value, out);
}

/// The key of a stretch of offsets.
pub(super) fn offsets(topic: &str, partition: i32, first: i64, end: i64) -> Vec<u8> {
    let mut out = OFFSETS.to_be_bytes().to_vec();
    text(topic.as_bytes(), &mut out);
    [i64::from(partition), first, end].into_iter().for_each(|value| number(value, &mut out));
    out
}

/// The key of an epoch.
pub(super) fn epoch(epoch: i64, ingested_us: i64) -> Vec<u8> {
    let mut out = EPOCHS.to_be_bytes().to_vec();
    [epoch, ingested_us].into_iter().for_each(|value| number(value, &mut out));
    out
}

/// The slot of a key.
pub(super) fn slot(key: &[u8]) -> u32 {
    key.first_chunk().map_or(EPOCHS, |bytes| u32::from_be_bytes(*bytes))
}

/// Reads a key; `None` if it is not valid.
pub(super) fn read(key: &[u8]) -> Option<Key> {
    let (slot, mut rest) = key.split_first_chunk::<4>()?;
    let rest = &mut rest;
    Some(match u32::from_be_bytes(*slot) {
        OFFSETS => Key::Offsets {
            topic: take_text(rest)?,
            partition: i32::try_from(take_number(rest)?).ok()?,
            first: take_number(rest)?,
            end: take_number(rest)?,
        },
        EPOCHS => Key::Epoch { epoch: take_number(rest)?, ingested_us: take_number(rest)? },
        slot => {
            let (window, tail) = rest.split_first()?;
            *rest = tail;
            let (customer, dimension) = (take_text(rest)?, take_text(rest)?);
            let (start_us, value) = (take_number(rest)?, take_text(rest)?);
            Key::Cell { slot, cell: Cell { window: usize::from(*window), customer, dimension, start_us, value } }
        }
    })
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        out.push(byte);
        if byte == 0 {
            out.push(1);
        }
    }
    out.extend([0, 0]);
}

/// Appends a number so that negative numbers sort first.
fn number(value: i64, out: &mut Vec<u8>) {
    out.extend((value as u64).wrapping_add(1 << 63).to_be_bytes());
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        if byte == 0 {
            let (&next, tail) = rest.split_first()?;
            *rest = tail;
            if next == 0 {
                return String::from_utf8(text).ok();
            }
        }
        text.push(byte);
    }
}

fn take_number(rest: &mut &[u8]) -> Option<i64> {
    let (bytes, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_be_bytes(*bytes).wrapping_sub(1 << 63) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(slot: u32, cell: &Cell) -> Vec<u8> {
        let mut out = Vec::new();
        cell_head(slot, cell.window, cell.customer.as_bytes(), &mut out);
        cell_tail(cell.dimension.as_bytes(), cell.start_us, cell.value.as_bytes(), &mut out);
        out
    }

    prop_compose! {
        fn any_cell()(window in 0usize..6, customer in "[\u{0}\u{1}a\u{ff}]{0,3}", dimension in "[\u{0}ab]{0,2}", start_us: i64, value in "[\u{0}\u{1}b]{0,3}") -> Cell {
            Cell { window, customer, dimension, start_us, value }
        }
    }

    fn tuple(cell: &Cell) -> (usize, &str, &str, i64, &str) {
        (cell.window, &cell.customer, &cell.dimension, cell.start_us, &cell.value)
    }

    proptest! {
        #[test]
        fn cells_sort_as_files_do_and_read_back(a in any_cell(), b in any_cell(), slot in 0..HOMELESS) {
            prop_assert_eq!(bytes(slot, &a).cmp(&bytes(slot, &b)), tuple(&a).cmp(&tuple(&b)));
            prop_assert_eq!(read(&bytes(slot, &a)), Some(Key::Cell { slot, cell: a.clone() }));
        }

        #[test]
        fn stretches_sort_by_partition_and_first_offset(a: (i32, i64, i64), b: (i32, i64, i64)) {
            prop_assert_eq!(offsets("t", a.0, a.1, a.2).cmp(&offsets("t", b.0, b.1, b.2)), a.cmp(&b));
            let expected = Key::Offsets { topic: "t".to_owned(), partition: a.0, first: a.1, end: a.2 };
            prop_assert_eq!(read(&offsets("t", a.0, a.1, a.2)), Some(expected));
        }
    }

    #[test]
    fn epochs_come_last() {
        assert!(offsets("t", 0, 0, 1) < epoch(-1, 0));
        assert_eq!(read(&epoch(7, -1)), Some(Key::Epoch { epoch: 7, ingested_us: -1 }));
        assert_eq!(read(&[0, 0, 0]), None);
    }
}
