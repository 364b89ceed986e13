//! `[event] unwrap`: takes the text out of a log shipper's JSON, before the job's format parses it.
//!
//! In: a JSON object. Out: the text at one place of it, or a [`Rejection`]. State: a buffer that is reused from record to record.

use super::found::{Found, Kind};
use super::json::Trie;
use super::reject::{parse_json, rejection, shown};
use crate::model::{Reason, Rejection};

/// One place of a JSON object, and a buffer for its text if that was escaped.
#[derive(Debug)]
pub(super) struct Unwrap {
    trie: Trie,
    slot: usize,
    found: Found,
}

impl Unwrap {
    pub(super) fn new(pointer: &[String]) -> Unwrap {
        let (trie, slots) = Trie::new(&[pointer]);
        let found = Found::new(trie.slots());
        Unwrap { trie, slot: slots[0], found }
    }

    /// The text inside `input`, which must be a JSON object; `value`: the record's bytes.
    pub(super) fn text<'a>(&'a mut self, value: &[u8], input: &'a str) -> Result<&'a str, Box<Rejection>> {
        self.found.clear();
        parse_json(&self.trie, value, input, &mut self.found)?;
        let slot = self.found.slot(self.slot);
        let expected = "a string: the line or the JSON that is wrapped";
        let reject = |reason| Err(rejection(reason, Some("unwrap"), expected, shown(&self.found, slot, input)));
        match slot.kind {
            Kind::Text | Kind::Unescaped if Found::is_present(slot) => Ok(self.found.text(slot, input)),
            Kind::Text | Kind::Unescaped | Kind::Missing | Kind::Null => reject(Reason::MissingField),
            Kind::Number | Kind::Boolean | Kind::Composite => reject(Reason::WrongType),
        }
    }
}
