//! One pass over a JSON object: only what the JSON pointers ask for is looked at, all else is skipped (and checked to be JSON).
//!
//! Where a key comes twice in an object, the last one holds, as in Python, JavaScript and Go. A number at a wanted place keeps its
//! text. Depth is no danger: what is skipped is skipped without recursion, what is walked is as deep as the pointers.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::found::{Found, Kind};

/// The pointers, as a tree. The slots of a node and of all below it are consecutive.
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
    /// Builds the tree of `pointers`, and says which slot each got; equal pointers share one.
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

    /// Reads `input`, which must be one JSON object and nothing else.
    pub(super) fn read(&self, input: &str, found: &mut Found) -> Result<(), serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(input);
        let walk = Walk { trie: self, node: 0, input, found };
        deserializer.deserialize_map(walk)?;
        deserializer.end()
    }
}

/// Walks one node's value.
struct Walk<'a, 'de> {
    trie: &'a Trie,
    node: usize,
    input: &'de str,
    found: &'a mut Found,
}

impl<'de> Walk<'_, 'de> {
    fn child(&mut self, node: usize) -> Walk<'_, 'de> {
        Walk { trie: self.trie, node, input: self.input, found: self.found }
    }

    /// A value at a wanted place.
    fn take(&mut self, node: usize, raw: &'de RawValue) -> Result<(), serde_json::Error> {
        let (input, raw) = (self.input, raw.get());
        let node_slot = self.trie.nodes[node].slot.expect("only wanted places are taken");
        let kind = match raw.as_bytes().first() {
            Some(b'"') => {
                let inside = &raw[1..raw.len() - 1];
                if inside.as_bytes().contains(&b'\\') {
                    return self.found.set_unescaped(node_slot, |scratch| {
                        serde_json::Deserializer::from_str(raw).deserialize_str(Append(scratch))
                    });
                }
                self.found.set(node_slot, Kind::Text, inside, input);
                return Ok(());
            }
            Some(b'{' | b'[') => Kind::Composite,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        };
        self.found.set(node_slot, kind, raw, input);
        if kind == Kind::Composite && !self.trie.nodes[node].children.is_empty() {
            return self.child(node).deserialize(&mut serde_json::Deserializer::from_str(raw));
        }
        Ok(())
    }

    /// Whether the node is a wanted place; else it is only on the way to one.
    fn is_wanted(&self, node: usize) -> bool {
        self.trie.nodes[node].slot.is_some()
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let trie = self.trie;
        while let Some(child) = map.next_key_seed(Key(&trie.nodes[self.node]))? {
            let Some(child) = child else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.found.clear_range(trie.nodes[child].slots.clone());
            if self.is_wanted(child) {
                let raw = map.next_value::<&'de RawValue>()?;
                self.take(child, raw).map_err(A::Error::custom)?;
            } else {
                map.next_value_seed(self.child(child))?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let trie = self.trie;
        for index in 0.. {
            let child = trie.nodes[self.node].children.iter().find(|child| child.index == Some(index));
            let more = match child.map(|child| child.node) {
                None => seq.next_element::<IgnoredAny>()?.is_some(),
                Some(child) if self.is_wanted(child) => match seq.next_element::<&'de RawValue>()? {
                    Some(raw) => self.take(child, raw).map(|()| true).map_err(A::Error::custom)?,
                    None => false,
                },
                Some(child) => seq.next_element_seed(self.child(child))?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    // Something else where an object or array would have led further: the places below are missing.

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// Finds a key among a node's children.
struct Key<'a>(&'a Node);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.0.children.iter().find(|child| child.key == key).map(|child| child.node))
    }
}

/// Appends a string to a buffer.
struct Append<'a>(&'a mut String);

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(pointer: &str) -> Vec<String> {
        pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
    }

    /// Kind and text of each pointer; `None` when `input` is not one object.
    fn read(pointers: &[&str], input: &str) -> Option<Vec<(Kind, String)>> {
        let pointers: Vec<Vec<String>> = pointers.iter().map(|pointer| parts(pointer)).collect();
        let borrowed: Vec<&[String]> = pointers.iter().map(Vec::as_slice).collect();
        let (trie, slots) = Trie::new(&borrowed);
        let mut found = Found::new(trie.slots());
        trie.read(input, &mut found).ok()?;
        let slots = slots.into_iter().map(|index| found.slot(index));
        Some(slots.map(|slot| (slot.kind, found.text(slot, input).to_owned())).collect())
    }

    #[test]
    fn places_of_every_kind() {
        for (pointer, input, kind, text) in [
            ("/a", r#"{"a":"x"}"#, Kind::Text, "x"),
            ("/a", r#" { "b" : [1,{"a":2}] , "a" : "x" } "#, Kind::Text, "x"),
            ("/a", r#"{"a":""}"#, Kind::Text, ""),
            ("/a", r#"{"a":"\u00e9\n\"\ud83d\ude00"}"#, Kind::Unescaped, "é\n\"😀"),
            ("/a", r#"{"\u0061":"x"}"#, Kind::Text, "x"),
            ("/a", r#"{"a":null}"#, Kind::Null, ""),
            ("/a", r#"{"a":true}"#, Kind::Boolean, "true"),
            ("/a", r#"{"a":1.50}"#, Kind::Number, "1.50"),
            ("/a", r#"{"a":-0}"#, Kind::Number, "-0"),
            ("/a", r#"{"a":1E+999}"#, Kind::Number, "1E+999"),
            ("/a", r#"{"a":123456789012345678901234567890}"#, Kind::Number, "123456789012345678901234567890"),
            ("/a", r#"{"a": {"b": 1} }"#, Kind::Composite, r#"{"b": 1}"#),
            ("/a", r#"{"a":[1]}"#, Kind::Composite, "[1]"),
            ("/a", "{}", Kind::Missing, ""),
            ("/a", r#"{"A":1}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":{"b":"x"}}"#, Kind::Text, "x"),
            ("/a/b", r#"{"a":{"c":"x"}}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":"b"}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":null}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":1}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":-1}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":1.5}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":false}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":[{"b":1}]}"#, Kind::Missing, ""),
            ("/a/1", r#"{"a":["x","y","z"]}"#, Kind::Text, "y"),
            ("/a/1", r#"{"a":{"1":"x"}}"#, Kind::Text, "x"),
            ("/a/01", r#"{"a":["x","y"]}"#, Kind::Missing, ""),
            ("/a/9", r#"{"a":["x","y"]}"#, Kind::Missing, ""),
            ("/a/0/b", r#"{"a":[{"b":"x"},{"b":"y"}]}"#, Kind::Text, "x"),
            ("/a~1b/~0", r#"{"a/b":{"~":"x"}}"#, Kind::Text, "x"),
            ("/", r#"{"":"x"}"#, Kind::Text, "x"),
            ("/a", r#"{"a":"x","a":"y"}"#, Kind::Text, "y"),
            ("/a", r#"{"a":"x","a":null}"#, Kind::Null, ""),
            ("/a/b", r#"{"a":{"b":"x"},"a":{"c":1}}"#, Kind::Missing, ""),
            ("/a/b", r#"{"a":{"b":"x"},"a":1}"#, Kind::Missing, ""),
        ] {
            assert_eq!(read(&[pointer], input), Some(vec![(kind, text.to_owned())]), "{pointer} in {input}");
        }
    }

    #[test]
    fn a_place_may_lie_inside_another() {
        let found = read(&["/a/b", "/a", "/c", "/a"], r#"{"c":"1","a":{"b":"x\t"}}"#).expect("JSON");
        let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["x\t", r#"{"b":"x\t"}"#, "1", r#"{"b":"x\t"}"#]);
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        let many = "[".repeat(100_000);
        let deep = format!(r#"{{"x":{many}"#);
        let deep_wanted = format!(r#"{{"a":{many}"#);
        let deep_below = format!(r#"{{"a":{{"b":{many}"#);
        for input in [
            "",
            " ",
            "{",
            "[]",
            "null",
            "1",
            "\"a\"",
            "{} {}",
            "{}x",
            "{'a':1}",
            "{a:1}",
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":"x}"#,
            r#"{"a":tru}"#,
            r#"{"x":nul}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\x"}"#,
            "{\"x\":\"\n\"}",
            r#"{"a":NaN}"#,
            "\u{feff}{}",
            &deep,
            &deep_wanted,
            &deep_below,
            &many,
        ] {
            let shown = &input[..input.len().min(40)];
            assert_eq!(read(&["/a"], input), None, "{shown}");
            assert_eq!(read(&["/a/b"], input), None, "{shown}");
        }
    }

    #[test]
    fn depth_that_is_closed_again_is_json() {
        let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
        let found = read(&["/a"], &format!(r#"{{"x":{open}{close},"a":1}}"#)).expect("JSON");
        assert_eq!(found, [(Kind::Number, "1".to_owned())]);
        let found = read(&["/a"], &format!(r#"{{"a":{open}{close}}}"#)).expect("JSON");
        assert_eq!(found[0].0, Kind::Composite);
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-b\"\\\\\u{e9}\n]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c0]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_walk_agrees_with_a_tree(value in any_json(), pretty: bool) {
            let pointers = ["/a", "/b/c", "/b/0", "/c/a/b", "/c", "/0/0"];
            let input = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("JSON");
            let found = read(&pointers, &input);
            prop_assert_eq!(found.is_some(), value.is_object());
            for (pointer, (kind, text)) in pointers.iter().zip(found.unwrap_or_default()) {
                let expected = value.pointer(pointer);
                match kind {
                    Kind::Missing => prop_assert_eq!(expected, None),
                    Kind::Null => prop_assert_eq!(expected, Some(&serde_json::Value::Null)),
                    Kind::Text | Kind::Unescaped => prop_assert_eq!(expected, Some(&serde_json::Value::from(text))),
                    _ => prop_assert_eq!(expected.cloned(), serde_json::from_str::<serde_json::Value>(&text).ok()),
                }
            }
        }

        #[test]
        fn any_text_is_read_or_refused(input in "[{}\\[\\],:\"abn\\\\u0-9. ]{0,40}") {
            let tree = serde_json::from_str::<serde_json::Value>(&input).ok();
            if tree.is_some_and(|tree| tree.is_object()) {
                prop_assert!(read(&["/a", "/b/a"], &input).is_some());
            }
        }
    }
}
