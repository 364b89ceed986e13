//! Which places are found, and what is refused.

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

fn fault(pointers: &[&str], input: &str) -> Option<Fault> {
    let pointers: Vec<Vec<String>> = pointers.iter().map(|pointer| parts(pointer)).collect();
    let borrowed: Vec<&[String]> = pointers.iter().map(Vec::as_slice).collect();
    let trie = Trie::new(&borrowed).0;
    trie.read(input, &mut Found::new(trie.slots())).err()
}

#[test]
fn what_is_not_one_object_is_refused_with_its_place() {
    for (input, at, expected) in [
        ("", 0, "'{'"),
        (" ", 1, "'{'"),
        ("\u{feff}", 3, "'{'"),
        ("\u{feff}\u{feff}{}", 3, "'{'"),
        ("[{}]", 0, "'{'"),
        ("null", 0, "'{'"),
        ("1", 0, "'{'"),
        ("\"a\"", 0, "'{'"),
        ("\0\0\0\0\u{c}{}", 0, "'{'"),
        ("{", 1, "a key in quotes"),
        ("{'a':1}", 1, "a key in quotes"),
        ("{a:1}", 1, "a key in quotes"),
        (r#"{"a":1,}"#, 7, "a key in quotes"),
        (r#"{"a":1,,"b":1}"#, 7, "a key in quotes"),
        (r#"{"a" 1}"#, 5, "':'"),
        (r#"{"a"}"#, 4, "':'"),
        (r#"{"x"::1}"#, 5, "a value"),
        (r#"{"x":}"#, 5, "a value"),
        (r#"{"x":,"a":1}"#, 5, "a value"),
        (r#"{"x":"#, 5, "a value"),
        (r#"{"x":1 2}"#, 7, "',' or '}'"),
        (r#"{"x":1"#, 6, "',' or '}'"),
        (r#"{"x":1]"#, 6, "',' or '}'"),
        (r#"{"x":"y" "z":1}"#, 9, "',' or '}'"),
        (r#"{"x":{"y":1}"#, 12, "',' or '}'"),
        (r#"{"x":{"y":1"#, 11, "'}' or ']' that ends a value"),
        (r#"{"x":["#, 6, "'}' or ']' that ends a value"),
        (r#"{"x":["}]"#, 9, "'\"' that ends a string"),
        (r#"{"x":"y\"}"#, 10, "'\"' that ends a string"),
        (r#"{"x":"y\"#, 8, "'\"' that ends a string"),
        (r#"{"x"#, 3, "'\"' that ends a string"),
        ("{} {}", 3, "the end of the value"),
        ("{}x", 2, "the end of the value"),
        // What is requested.
        (r#"{"a":01}"#, 6, "',' or '}'"),
        (r#"{"a":1.}"#, 7, "a digit"),
        (r#"{"a":.5}"#, 5, "a value"),
        (r#"{"a":-}"#, 6, "a digit"),
        (r#"{"a":1e}"#, 7, "a digit"),
        (r#"{"a":1e+}"#, 8, "a digit"),
        (r#"{"a":+1}"#, 5, "a value"),
        (r#"{"a":NaN}"#, 5, "a value"),
        (r#"{"a":tru}"#, 5, "a value"),
        (r#"{"a":nul}"#, 5, "a value"),
        (r#"{"a":nulls}"#, 9, "',' or '}'"),
        (r#"{"a":}"#, 5, "a value"),
        (r#"{"a":"x}"#, 8, "'\"' that ends a string"),
        (r#"{"a":"x\xFA"}"#, 7, "an escape that JSON knows"),
        (r#"{"a":"\u12"}"#, 6, "an escape that JSON knows"),
        (r#"{"a":"\u00g0"}"#, 6, "an escape that JSON knows"),
        (r#"{"a":"\u+123"}"#, 6, "an escape that JSON knows"),
        (r#"{"a":"\ud83d\uzzzz"}"#, 12, "an escape that JSON knows"),
        ("{\"a\":\"x\ny\"}", 7, "no control character that is not escaped"),
        // On the way to what is requested.
        (r#"{"b":{"c":1,}}"#, 12, "a key in quotes"),
        (r#"{"b":[1,]}"#, 8, "a value"),
        (r#"{"b":[1 2]}"#, 8, "',' or ']'"),
        (r#"{"b":[1}"#, 7, "',' or ']'"),
    ] {
        assert_eq!(fault(&["/a", "/b/c"], input), Some(Fault { at, expected }), "{input}");
    }
}

#[test]
fn what_is_wrong_where_nobody_looks_does_no_harm() {
    let a = |text: &str| Some(vec![(Kind::Text, text.to_owned())]);
    for input in [
        r#"{"x":NaN,"a":"1"}"#,
        r#"{"x":-Infinity,"a":"1"}"#,
        r#"{"x":undefined ,"a":"1"}"#,
        r#"{"x":01,"a":"1"}"#,
        r#"{"x":1.e+,"a":"1"}"#,
        r#"{"x":"F\xFAtbol","a":"1"}"#,
        r#"{"x":"\ud83d","a":"1"}"#,
        r#"{"x":"\u12","a":"1"}"#,
        "{\"x\":\"\n\0\",\"a\":\"1\"}",
        r#"{"x":["\x",NaN,{1:2,},],"a":"1"}"#,
        r#"{"x":[1},"a":"1"}"#,
        r#"{"\xFA":1,"a":"1"}"#,
        r#"{"\ud83d":1,"a":"1"}"#,
        r#"{"a":{"a":NaN},"a":"1"}"#,
        "\u{feff}{\"a\":\"1\"}",
        "\u{feff} \r\n\t{\"a\":\"1\"}\n",
    ] {
        assert_eq!(read(&["/a"], input), a("1"), "{input}");
    }
    // The inside of a requested object is not checked if nothing in it is requested.
    let found = read(&["/a"], r#"{"a":{"b":NaN}}"#).expect("JSON");
    assert_eq!(found, [(Kind::Composite, r#"{"b":NaN}"#.to_owned())]);
    assert_eq!(read(&["/a/b"], r#"{"a":NaN}"#), Some(vec![(Kind::Missing, String::new())]));
}

#[test]
fn surrogates_without_their_other_half() {
    for (inside, text) in [
        (r"sale \ud83d", "sale \u{fffd}"),
        (r"\ude00 sale", "\u{fffd} sale"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
        (r"\ud83dx\ude00", "\u{fffd}x\u{fffd}"),
        (r"\ud83d\n", "\u{fffd}\n"),
        (r"\uD83D\uDE00\uffff\u0000", "😀\u{ffff}\0"),
        (r"\udbff\udfff\ud800\udc00", "\u{10ffff}\u{10000}"),
    ] {
        let found = read(&["/a"], &format!(r#"{{"a":"{inside}"}}"#)).expect("JSON");
        assert_eq!(found, [(Kind::Unescaped, text.to_owned())], "{inside}");
    }
    // In keys as well.
    assert_eq!(read(&["/a\u{fffd}"], r#"{"a\udc00":1}"#), Some(vec![(Kind::Number, "1".to_owned())]));
}

#[test]
fn depth_that_is_never_closed_is_refused() {
    let many = "[".repeat(100_000);
    for input in [format!(r#"{{"x":{many}"#), format!(r#"{{"a":{many}"#), format!(r#"{{"a":{{"b":{many}"#), many] {
        assert!(fault(&["/a"], &input).is_some() && fault(&["/a/b"], &input).is_some());
    }
}

#[test]
fn a_fault_is_explained() {
    let said = |value: &[u8]| {
        let input = String::from_utf8_lossy(value);
        explained(fault(&["/a"], &input).expect("a fault"), &input, value)
    };
    for (value, expected) in [
        (&b"[{},{}]"[..], "one JSON object: '{' at byte 0; this is an array: each event must be a record of its own"),
        (b"\0\0\0\0\x0c{}", "one JSON object: '{' at byte 0; it begins with a zero byte, as what a schema registry's"),
        (b" \"{}\"", "one JSON object: '{' at byte 1; this is a string: JSON inside a string is not looked into"),
        (b"{\"a\":1", "one JSON object: ',' or '}' at byte 6, where the value ends"),
        (b"{\"a\":1 x", "one JSON object: ',' or '}' at byte 7"),
        // Bytes as they are in the record.
        (b"{\"x\":\"\xff\xfe\xe2\x82\",}", "one JSON object: a key in quotes at byte 12"),
        (b"\xff{}", "one JSON object: '{' at byte 0"),
        (b"{\xff", "one JSON object: a key in quotes at byte 1"),
        (b"{\"\xff", "one JSON object: '\"' that ends a string at byte 3, where the value ends"),
    ] {
        let (said, found) = said(value);
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(found, String::from_utf8_lossy(value));
    }
    let long = format!(r#"{{"x":"{}","y" 1,"z":"{}"}}"#, "é".repeat(400), "z".repeat(400));
    let (expected, found) = said(long.as_bytes());
    assert_eq!(expected, "one JSON object: ':' at byte 812");
    assert!(found.starts_with("…éé") && found.contains(r#"é","y" 1,"z"#), "{found}");
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
        any::<f64>().prop_map(Value::from),
        "[a-b\"\\\\\u{e9}\n{}\\[\\],:]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-c0]|[é\"\\\\ ]{0,2}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Writes everything that is not ASCII as `\uXXXX`.
fn in_ascii(json: &str) -> String {
    let units = |letter: char| {
        let mut buffer = [0; 2];
        letter.encode_utf16(&mut buffer).iter().map(|unit| format!("\\u{unit:04X}")).collect::<String>()
    };
    json.chars().map(|letter| if letter.is_ascii() { letter.to_string() } else { units(letter) }).collect()
}

proptest! {
    /// In valid JSON of any shape, the walk finds what another parser finds.
    #[test]
    fn the_walk_agrees_with_a_tree(
        value in any_json(),
        more in prop::collection::vec("(/([a-c01]|é)){1,3}", 0..4),
        pretty: bool,
        ascii: bool,
    ) {
        let pointers: Vec<&str> = (["/a", "/b/c", "/b/0", "/c/a/b", "/c", "/0/0"].into_iter()).chain(more.iter().map(String::as_str)).collect();
        let input = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("JSON");
        let input = if ascii { in_ascii(&input) } else { input };
        // A float may have been rounded on its way into the text.
        let value: serde_json::Value = serde_json::from_str(&input).expect("JSON");
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
        read(&["/a", "/a/b", "/b/0"], &format!("{{\"a\":{input}}}"));
    }

    /// A requested value is accepted if another parser accepts it, and only then.
    #[test]
    fn what_is_asked_for_is_as_strict_as_another_parser(value in "[-+0-9.eE]{1,6}|true|nul{1,3}|\"([a\\\\nbx/\"\n]|\\\\u00[0-9a-g]{2}){0,4}\"|[NaI]{1,3}") {
        let input = format!("{{\"a\":{value}}}");
        let theirs = serde_json::from_str::<std::collections::BTreeMap<String, Box<serde_json::value::RawValue>>>(&input).ok();
        let theirs = theirs.filter(|map| {
            map.len() == 1 && (map.get("a")).is_some_and(|raw| !raw.get().starts_with('"') || serde_json::from_str::<String>(raw.get()).is_ok())
        });
        prop_assert_eq!(read(&["/a"], &input).is_some(), theirs.is_some(), "{}", input);
    }

    /// Any bytes between good ones cause no panic, and their explanation names a place inside the value.
    #[test]
    fn any_bytes_are_read_or_explained(mut value in Just(br#"{"a":"\ud83d\ude00\n","b":{"c":[1,{"d":"e"}]},"x":-1.5e3}"#.to_vec()), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        for (at, byte) in changes {
            let at = at.index(value.len());
            value[at] = byte;
        }
        let input = String::from_utf8_lossy(&value);
        if let Some(fault) = fault(&["/a", "/b/c/1/d", "/x"], &input) {
            let (expected, _) = explained(fault, &input, &value);
            let at = expected.split(" at byte ").nth(1).and_then(|rest| rest.split([',', ';']).next());
            prop_assert!(at.and_then(|at| at.parse().ok()).is_some_and(|at: usize| at <= value.len()), "{}", expected);
        }
    }
}
