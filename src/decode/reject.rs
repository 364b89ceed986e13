//! Makes a [`Rejection`] from what is wrong with a record: reason, field, what was expected, what was found. Pure: no state.

use super::found::{Found, Kind, Slot};
use super::json::{self, Trie};
use super::line::BadLine;
use super::scan::without_mark;
use crate::model::{Reason, Rejection};

/// What is at a slot, for an error.
pub(super) fn shown<'a>(found: &'a Found, slot: Slot, input: &'a str) -> &'a [u8] {
    match slot.kind {
        Kind::Null => b"null",
        Kind::Text | Kind::Unescaped if !Found::is_present(slot) => b"\"\"",
        _ => found.text(slot, input).as_bytes(),
    }
}

pub(super) fn parse_json(trie: &Trie, value: &[u8], input: &str, found: &mut Found) -> Result<(), Box<Rejection>> {
    trie.read(input, found).map_err(|fault| {
        let (expected, around) = json::explained(fault, input, value);
        rejection(Reason::BadJson, None, &expected, around.as_bytes())
    })
}

pub(super) fn bad_line(what: &str, bad: &BadLine, value: &[u8], input: &str) -> Box<Rejection> {
    let at = bad.at + input.len() - without_mark(input).len();
    let expected = format!("{what}: {} at byte {}", bad.expected, json::place_in(value, at));
    rejection(Reason::BadLine, None, &expected, json::around(input, at).as_bytes())
}

pub(super) fn rejection(reason: Reason, field: Option<&str>, expected: &str, found: &[u8]) -> Box<Rejection> {
    Box::new(Rejection::new(reason, field, expected, found))
}
