//! Reads a JSON object in one pass: only the values that the JSON pointers ask for are read, everything else is skipped.
//!
//! In: text. Out: the kind and text at each pointer, or a [`Fault`]. The frame is strict: one object, keys in quotes, `:` and `,`
//! where they belong, and only white space after it. The requested values are strict too. An error inside any other value does no
//! harm (see [`super::scan`]). A byte order mark at the beginning is skipped.
//!
//! If a key comes twice in an object, the last one holds, as in Python, JavaScript and Go. A number at a requested place keeps
//! its text: `1e3`, `1000` and `1.0e3` are three values. A surrogate without its other half becomes one U+FFFD, in keys as well.
//! State: none. Deep nesting does no harm: values are skipped without recursion, and the walk goes only as deep as the pointers.

use super::found::{Found, Kind};
use super::scan::{Fault, Scanner, control_character, unescape, without_mark};
use crate::model::Rejection;

/// What the value of a record begins with.
const OBJECT: &str = "'{'";

/// The pointers, as a tree. The slots of a node and of all nodes below it are consecutive.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<Child>,
    slot: Option<usize>,
    slots: std::ops::Range<usize>,
}

#[derive(Debug)]
struct Child {
    key: String,
    /// The key as an index into an array.
    index: Option<usize>,
    node: usize,
}

impl Trie {
    /// Builds the tree of `pointers`. Returns it with the slot of each pointer; equal pointers share one.
    pub(super) fn new(pointers: &[&[String]]) -> (Trie, Vec<usize>) {
        let mut trie = Trie { nodes: vec![Node::default()] };
        let ends: Vec<usize> = pointers.iter().map(|pointer| trie.insert(pointer)).collect();
        let mut next = 0;
        trie.number(0, &ends, &mut next);
        let slots = ends.iter().map(|node| trie.nodes[*node].slot.expect("each end was given a slot")).collect();
        (trie, slots)
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.nodes[0].slots.end
    }

    fn insert(&mut self, pointer: &[String]) -> usize {
        let mut node = 0;
        for part in pointer {
            node = match self.nodes[node].children.iter().find(|child| child.key == *part) {
                Some(child) => child.node,
                None => {
                    let new = self.nodes.len();
                    self.nodes.push(Node::default());
                    let index = part.parse().ok().filter(|index: &usize| index.to_string() == *part);
                    self.nodes[node].children.push(Child { key: part.clone(), index, node: new });
                    new
                }
            };
        }
        node
    }

    fn number(&mut self, node: usize, ends: &[usize], next: &mut usize) {
        let start = *next;
        if ends.contains(&node) {
            self.nodes[node].slot = Some(*next);
            *next += 1;
        }
        for child in 0..self.nodes[node].children.len() {
            self.number(self.nodes[node].children[child].node, ends, next);
        }
        self.nodes[node].slots = start..*next;
    }

    /// Reads `input`, which must be one JSON object and nothing else, except for a byte order mark at the beginning.
    pub(super) fn read(&self, input: &str, found: &mut Found) -> Result<(), Fault> {
        let mut scanner = Scanner::new(input, input.len() - without_mark(input).len());
        if scanner.next_token() != Some(b'{') {
            return Err(scanner.fault(OBJECT));
        }
        Walk { trie: self, scanner: &mut scanner, found }.object(0)?;
        match scanner.next_token() {
            None => Ok(()),
            Some(_) => Err(scanner.fault("the end of the value")),
        }
    }
}

impl Node {
    /// The child of a key that was scanned. A key with an escape that JSON does not know has none.
    fn child(&self, (key, is_escaped): (&str, bool)) -> Option<usize> {
        let mut unescaped = String::new();
        let key = if is_escaped {
            unescape(key, 0, &mut unescaped).ok()?;
            &unescaped
        } else {
            key
        };
        self.children.iter().find(|child| child.key == key).map(|child| child.node)
    }
}

/// What was expected at the place of `fault`, and the text around it. `value`: the record's bytes; in `input`, bytes that are not
/// UTF-8 are replaced.
pub(super) fn explained(fault: Fault, input: &str, value: &[u8]) -> (String, String) {
    let Fault { at, expected } = fault;
    let hint = match input.as_bytes().get(at) {
        None => ", where the value ends",
        Some(b'[') if expected == OBJECT => "; this is an array: each event must be a record of its own",
        Some(b'"') if expected == OBJECT => "; this is a string: JSON inside a string is not looked into",
        Some(0) if expected == OBJECT => {
            "; it begins with a zero byte, as what a schema registry's serializer writes: send plain JSON, without the schema's number"
        }
        Some(_) => "",
    };
    let expected = format!("one JSON object: {expected} at byte {}{hint}", place_in(value, at));
    (expected, around(input, at))
}

/// The part of a text that is shown if something is wrong at `at`.
pub(super) fn around(input: &str, at: usize) -> String {
    let start =
        if input.len() > Rejection::FOUND_BYTES_MAX { at.saturating_sub(Rejection::FOUND_BYTES_MAX / 2) } else { 0 };
    let start = input.floor_char_boundary(start);
    format!("{}{}", if start > 0 { "…" } else { "" }, &input[start..])
}

/// The position in `value` of the byte that is at `at` in the text, in which bytes that are not UTF-8 are replaced.
pub(super) fn place_in(value: &[u8], at: usize) -> usize {
    let (mut replaced, mut place) = (0, 0);
    for chunk in value.utf8_chunks() {
        let valid = chunk.valid().len();
        if at < replaced + valid + char::REPLACEMENT_CHARACTER.len_utf8() {
            return place + valid.min(at - replaced);
        }
        replaced += valid + char::REPLACEMENT_CHARACTER.len_utf8();
        place += valid + chunk.invalid().len();
    }
    place
}

/// Walks values that contain requested places.
struct Walk<'a, 'i> {
    trie: &'a Trie,
    scanner: &'a mut Scanner<'i>,
    found: &'a mut Found,
}

impl Walk<'_, '_> {
    /// Reads an object, from its bracket on.
    fn object(&mut self, node: usize) -> Result<(), Fault> {
        self.scanner.at += 1;
        if self.scanner.next_token() == Some(b'}') {
            self.scanner.at += 1;
            return Ok(());
        }
        loop {
            if self.scanner.next_token() != Some(b'"') {
                return Err(self.scanner.fault("a key in quotes"));
            }
            let child = self.trie.nodes[node].child(self.scanner.string()?);
            self.scanner.pass(b':', "':'")?;
            self.value(child)?;
            match self.scanner.next_token() {
                Some(b',') => self.scanner.at += 1,
                Some(b'}') => break self.scanner.at += 1,
                _ => return Err(self.scanner.fault("',' or '}'")),
            }
        }
        Ok(())
    }

    /// Reads an array, from its bracket on.
    fn array(&mut self, node: usize) -> Result<(), Fault> {
        self.scanner.at += 1;
        if self.scanner.next_token() == Some(b']') {
            self.scanner.at += 1;
            return Ok(());
        }
        for index in 0.. {
            let child = self.trie.nodes[node].children.iter().find(|child| child.index == Some(index));
            self.value(child.map(|child| child.node))?;
            match self.scanner.next_token() {
                Some(b',') => self.scanner.at += 1,
                Some(b']') => break,
                _ => return Err(self.scanner.fault("',' or ']'")),
            }
        }
        self.scanner.at += 1;
        Ok(())
    }

    /// Reads a value, after white space. `node` is given if it is a requested place, or on the way to one.
    fn value(&mut self, node: Option<usize>) -> Result<(), Fault> {
        let first = self.scanner.next_token();
        let Some(node) = node else { return self.scanner.skip() };
        let Node { children, slot, slots } = &self.trie.nodes[node];
        self.found.clear_range(slots.clone());
        let start = self.scanner.at;
        match (first, slot) {
            (Some(b'{'), _) if !children.is_empty() => self.object(node)?,
            (Some(b'['), _) if !children.is_empty() => self.array(node)?,
            (Some(b'"'), Some(slot)) => return self.string(*slot),
            (Some(b't'), Some(_)) => self.scanner.literal("true")?,
            (Some(b'f'), Some(_)) => self.scanner.literal("false")?,
            (Some(b'n'), Some(_)) => self.scanner.literal("null")?,
            (Some(b'-' | b'0'..=b'9'), Some(_)) => self.scanner.number()?,
            // Nothing inside it is requested.
            (Some(b'{' | b'['), _) | (_, None) => self.scanner.skip()?,
            (_, Some(_)) => return Err(self.scanner.fault("a value")),
        }
        let kind = match first {
            Some(b'{' | b'[') => Kind::Composite,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        };
        if let Some(slot) = slot {
            self.found.set_range(*slot, kind, start..self.scanner.at);
        }
        Ok(())
    }

    /// Reads a string at a requested place.
    fn string(&mut self, slot: usize) -> Result<(), Fault> {
        let start = self.scanner.at + 1;
        let (inside, is_escaped) = self.scanner.string()?;
        if let Some(at) = control_character(inside) {
            return Err(Fault { at: start + at, expected: "no control character that is not escaped" });
        }
        if is_escaped {
            return self.found.set_unescaped(slot, |scratch| unescape(inside, start, scratch));
        }
        self.found.set_range(slot, Kind::Text, start..start + inside.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
