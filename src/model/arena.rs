//! Many small byte strings in one allocation, so that a chunk of records or events is one buffer and not thousands of strings.
//!
//! In: byte strings. Out: a [`Span`] for each, by which it is read again. State: the bytes of one chunk, at most 4 GiB; its user
//! cuts chunks long before that. Pure.

use serde::{Deserialize, Serialize};

/// Where a byte string is in an [`Arena`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    start: u32,
    len: u32,
}

/// An append-only buffer of at most 4 GiB; its user cuts chunks long before that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    /// An empty arena with room for this many bytes.
    pub fn with_room(bytes: usize) -> Arena {
        Arena { bytes: Vec::with_capacity(bytes) }
    }

    /// Appends `bytes` and returns where they are.
    pub fn push(&mut self, bytes: &[u8]) -> Span {
        let start = u32::try_from(self.bytes.len()).expect("a chunk is cut long before 4 GiB");
        self.bytes.extend_from_slice(bytes);
        Span { start, len: u32::try_from(bytes.len()).expect("a record is far below 4 GiB") }
    }

    /// The bytes at `span`.
    pub fn get(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.start as usize + span.len as usize]
    }

    /// Removes all bytes and keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
