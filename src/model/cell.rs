//! Cells, encoded as bytes that sort in the order of the files, and the segments that hold them. Pure.
//!
//! A cell of `counts` is `(customer, dimension, window_start, dimension_value)` within a segment. [`Cell::encode`] writes the
//! four so that comparing bytes compares the tuple in the order of the files: `customer` and `dimension` escaped and
//! terminated (0x00 → 00 FF, end 00 01), `window_start` as 8 big-endian bytes with the sign flipped, the value as the rest.

use std::ops::Range;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::time::{Granularity, Period, Target, TimeUs, Zone};

/// Longest dimension value, in bytes, that is kept as it is; see [`shorten`].
pub const CELL_VALUE_BYTES_MAX: usize = 512;

/// The sort key of an update: an encoded cell, preceded by a head where a stage needs one. Most keys fit inline, so a batch of them
/// is one allocation, and sorting it touches no other memory.
pub type Key = SmallVec<[u8; 56]>;

/// The unit of merging: the cells of one granularity, one period and one bucket of customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// Granularity of its cells.
    pub granularity: Granularity,
    /// Bucket of its customers.
    pub bucket: u16,
    /// Length of its period: one of [`Granularity::ladder`], or in older tables [`Granularity::former`].
    pub period: Period,
    /// Start of its period.
    pub period_start: TimeUs,
}

impl Segment {
    /// The segment of this length that holds a window.
    pub fn holding(granularity: Granularity, bucket: u16, period: Period, window_start: TimeUs) -> Segment {
        Segment { granularity, bucket, period, period_start: period.start(window_start) }
    }

    /// From the start of its first window to the end of its last one. A window belongs to the period in which it starts: a year of
    /// weeks ends with the week that starts in December. So windows of two segments never overlap unless their periods do, and
    /// a week lies between two years of weeks.
    pub fn windows(&self) -> Range<TimeUs> {
        let first = |time| self.granularity.first_start(time, Zone::Utc);
        first(self.period_start)..first(self.period.end(self.period_start))
    }
}

/// A cell within its segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// The customer.
    pub customer: String,
    /// Name of the dimension.
    pub dimension: String,
    /// Start of the window.
    pub window_start: TimeUs,
    /// Value of the dimension; '' where absent, and for `total`.
    pub value: String,
}

/// The parts of an encoded cell, borrowed, so that a key for another window can be built from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellParts<'a> {
    /// Customer and dimension, encoded.
    pub head: &'a [u8],
    /// The dimension alone; names of dimensions have no 0x00, so it is not escaped.
    pub dimension: &'a [u8],
    /// Start of the window.
    pub window_start: TimeUs,
    /// Value of the dimension.
    pub value: &'a [u8],
}

impl<'a> CellParts<'a> {
    /// The parts of a cell's sorted bytes; `None` when they are not a cell's.
    pub fn of(bytes: &'a [u8]) -> Option<CellParts<'a>> {
        let customer_end = escaped_end(bytes)?;
        let dimension_end = customer_end + escaped_end(&bytes[customer_end..])?;
        let (head, tail) = bytes.split_at(dimension_end);
        let (start, value) = tail.split_first_chunk::<8>()?;
        let dimension = &head[customer_end..dimension_end - 2];
        Some(CellParts { head, dimension, window_start: unsortable(*start), value })
    }
}

/// Length in bytes of the key's head: target, granularity, bucket.
const HEAD: usize = 1 + 1 + 2;

impl Cell {
    /// Appends the cell's sorted bytes to `out`.
    pub fn encode(customer: &[u8], dimension: &[u8], window_start: TimeUs, value: &[u8], out: &mut Vec<u8>) {
        push_escaped(customer, out);
        push_escaped(dimension, out);
        Cell::encode_tail(window_start, value, out);
    }

    /// Appends what follows customer and dimension in a cell's sorted bytes.
    pub fn encode_tail(window_start: TimeUs, value: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&sortable(window_start));
        out.extend_from_slice(value);
    }

    /// Reads a cell from its sorted bytes; `None` when they are not a cell's.
    pub fn decode(bytes: &[u8]) -> Option<Cell> {
        let (customer, rest) = take_escaped(bytes)?;
        let (dimension, rest) = take_escaped(rest)?;
        let (start, value) = rest.split_first_chunk::<8>()?;
        Some(Cell {
            customer: String::from_utf8(customer).ok()?,
            dimension: String::from_utf8(dimension).ok()?,
            window_start: unsortable(*start),
            value: std::str::from_utf8(value).ok()?.to_owned(),
        })
    }

    /// Appends the head of an update's key. It sorts updates by target, granularity and bucket, before the cell's own bytes.
    pub fn encode_head(target: Target, granularity: Granularity, bucket: u16, out: &mut Vec<u8>) {
        out.push(target.number());
        out.push(granularity as u8);
        out.extend_from_slice(&bucket.to_be_bytes());
    }

    /// Splits an update's key into target, granularity, bucket and the cell's own bytes; `None` when it is not one.
    pub fn decode_head(key: &[u8]) -> Option<(Target, Granularity, u16, &[u8])> {
        let (head, cell) = key.split_first_chunk::<HEAD>()?;
        let target = Target::of_number(head[0])?;
        let granularity = *Granularity::ALL.get(head[1] as usize)?;
        Some((target, granularity, u16::from_be_bytes([head[2], head[3]]), cell))
    }
}

/// The bucket of a customer: the first 32 bits of md5(customer) >> (32 − log2 `buckets`). `buckets` is a power of two ≤ 65536.
pub fn bucket_of(customer: &[u8], buckets: u32) -> u16 {
    debug_assert!(buckets.is_power_of_two() && buckets <= 1 << 16);
    let digest = Md5::digest(customer);
    let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    (u64::from(first) >> (32 - buckets.trailing_zeros())) as u16
}

/// A value of more than [`CELL_VALUE_BYTES_MAX`] bytes becomes its longest UTF-8 prefix of at most 495 bytes, `~`, and 16 hex
/// digits of its md5: at most 512 bytes, and still distinct from other values with the same prefix.
pub fn shorten(value: &mut String) {
    if value.len() <= CELL_VALUE_BYTES_MAX {
        return;
    }
    let digest = Md5::digest(value.as_bytes());
    let mut end = CELL_VALUE_BYTES_MAX - 17;
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.truncate(end);
    value.push('~');
    for byte in &digest[..8] {
        value.push_str(&format!("{byte:02x}"));
    }
}

fn sortable(time: TimeUs) -> [u8; 8] {
    ((time as u64) ^ (1 << 63)).to_be_bytes()
}

fn unsortable(bytes: [u8; 8]) -> TimeUs {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}

fn push_escaped(text: &[u8], out: &mut Vec<u8>) {
    if text.contains(&0) {
        for &byte in text {
            out.push(byte);
            if byte == 0 {
                out.push(0xff);
            }
        }
    } else {
        out.extend_from_slice(text);
    }
    out.extend_from_slice(&[0, 1]);
}

/// Where an escaped text ends, after its terminator.
fn escaped_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let zero = from + bytes[from..].iter().position(|&byte| byte == 0)?;
        from = zero + 2;
        if *bytes.get(zero + 1)? == 1 {
            return Some(from);
        }
    }
}

fn take_escaped(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        let zero = rest.iter().position(|&byte| byte == 0)?;
        text.extend_from_slice(&rest[..zero]);
        let next = *rest.get(zero + 1)?;
        rest = &rest[zero + 2..];
        match next {
            0xff => text.push(0),
            1 => return Some((text, rest)),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(cell: &Cell) -> Vec<u8> {
        let mut bytes = Vec::new();
        Cell::encode(
            cell.customer.as_bytes(),
            cell.dimension.as_bytes(),
            cell.window_start,
            cell.value.as_bytes(),
            &mut bytes,
        );
        bytes
    }

    prop_compose! {
        fn any_cell()(customer in "[\u{0}\u{1}ab\u{ff}]{0,4}", dimension in "[\u{0}ab]{0,3}", start: i64, value in "[\u{0}ab]{0,3}") -> Cell {
            Cell { customer, dimension, window_start: start, value }
        }
    }

    proptest! {
        #[test]
        fn bytes_sort_as_the_tuple_does(a in any_cell(), b in any_cell()) {
            prop_assert_eq!(encoded(&a).cmp(&encoded(&b)), a.cmp(&b));
            let bytes = encoded(&a);
            let parts = CellParts::of(&bytes).expect("a cell");
            prop_assert_eq!((parts.window_start, parts.value), (a.window_start, a.value.as_bytes()));
            prop_assert_eq!(Cell::decode(&bytes), Some(a));
        }
    }

    #[test]
    fn bucket_is_the_top_bits_of_md5() {
        // md5('') = d41d8cd9…, so 1101 0100 …: 6 of 8, 13 of 16.
        assert_eq!(bucket_of(b"", 8), 6);
        assert_eq!(bucket_of(b"", 16), 13);
        assert_eq!(bucket_of(b"", 1), 0);
    }

    #[test]
    fn long_values_keep_a_prefix_and_a_digest() {
        let mut same = "é".repeat(256);
        shorten(&mut same);
        assert_eq!(same.len(), 512);
        let mut long = "é".repeat(257);
        shorten(&mut long);
        assert_eq!(long.len(), 494 + 17);
        assert_eq!(long.chars().nth(247), Some('~'));
    }
}
