//! Transforms of texts, and the conditions of `where`. Pure: no state, no failure.

use crate::job::{Condition, Transform};

/// Writes `text`, transformed, to `out`; `spare` is a second buffer to work in.
pub(super) fn transform(text: &str, transforms: &[Transform], out: &mut String, spare: &mut String) {
    out.clear();
    out.push_str(text);
    for transform in transforms {
        spare.clear();
        match transform {
            Transform::UrlHost => push_lower_case(url(out).map_or("", |url| url.host), spare),
            Transform::UrlPath => spare.push_str(url(out).map_or("", |url| url.path)),
            Transform::LowerCase => push_lower_case(out, spare),
        }
        std::mem::swap(out, spare);
    }
}

/// Whether `condition` holds for a text. `is_composite`: a JSON object or array is where the text was looked for.
pub(super) fn holds(condition: &Condition, text: &str, is_composite: bool) -> bool {
    match condition {
        Condition::Equals(other) => text == other,
        Condition::In(others) => others.iter().any(|other| other == text),
        Condition::Prefix(prefix) => text.starts_with(prefix.as_str()),
        Condition::Exists(exists) => (is_composite || !text.is_empty()) == *exists,
        Condition::Not(inner) => !holds(inner, text, is_composite),
    }
}

fn push_lower_case(text: &str, out: &mut String) {
    if text.is_ascii() {
        let start = out.len();
        out.push_str(text);
        out[start..].make_ascii_lowercase();
    } else {
        out.push_str(&text.to_lowercase());
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    host: &'a str,
    path: &'a str,
}

/// `scheme://[user@]host[:port][/path][?query][#fragment]`, as it is written: nothing is decoded or normalized.
fn url(text: &str) -> Option<Url<'_>> {
    let (scheme, rest) = text.split_once("://")?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(legal) {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    let path = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
    Some(Url { host, path: if path.is_empty() { "/" } else { path } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transformed(text: &str, transforms: &[Transform]) -> String {
        let mut out = "left over".to_owned();
        transform(text, transforms, &mut out, &mut "left over too".to_owned());
        out
    }

    #[test]
    fn hosts_and_paths() {
        for (text, host, path) in [
            ("https://Example.COM/A/b?c#d", "example.com", "/A/b"),
            ("http://example.com", "example.com", "/"),
            ("http://example.com?q=/x", "example.com", "/"),
            ("http://example.com#/x?y", "example.com", "/"),
            ("http://user:p@ss@example.com:8080/x", "example.com", "/x"),
            ("http://example.com:/x", "example.com", "/x"),
            ("http://[::1]:80/x", "[::1]", "/x"),
            ("http://[::1]/x", "[::1]", "/x"),
            ("HTTP://MÜNCHEN.de/ü", "münchen.de", "/ü"),
            ("android-app://com.example/x", "com.example", "/x"),
            ("http:///x", "", ""),
            ("http://a b/x", "", ""),
            ("//example.com/x", "", ""),
            ("/x/y", "", ""),
            ("example.com/x", "", ""),
            ("mailto:a@example.com", "", ""),
            ("1http://example.com", "", ""),
            ("://example.com", "", ""),
            ("", "", ""),
        ] {
            assert_eq!(transformed(text, &[Transform::UrlHost]), host, "{text}");
            assert_eq!(transformed(text, &[Transform::UrlPath]), path, "{text}");
        }
    }

    #[test]
    fn transforms_follow_one_another() {
        assert_eq!(transformed("Ab", &[]), "Ab");
        assert_eq!(transformed("AbÉΣ", &[Transform::LowerCase]), "abéς");
        assert_eq!(transformed("http://H/Ab", &[Transform::UrlPath, Transform::LowerCase]), "/ab");
        assert_eq!(transformed("http://H/Ab", &[Transform::LowerCase, Transform::UrlPath]), "/ab");
        assert_eq!(transformed("http://H/Ab", &[Transform::UrlPath, Transform::UrlHost]), "");
    }

    #[test]
    fn conditions() {
        let text = |text: &str| text.to_owned();
        let not = |condition| Condition::Not(Box::new(condition));
        for (condition, value, expected) in [
            (Condition::Equals(text("a")), "a", true),
            (Condition::Equals(text("a")), "A", false),
            (Condition::In(vec![text("a"), text("b")]), "b", true),
            (Condition::In(vec![text("a"), text("b")]), "", false),
            (Condition::Prefix(text("/a")), "/ab", true),
            (Condition::Prefix(text("/a")), "/", false),
            (Condition::Exists(true), "a", true),
            (Condition::Exists(true), "", false),
            (Condition::Exists(false), "", true),
            (not(Condition::Equals(text("a"))), "", true),
            (not(Condition::Exists(true)), "a", false),
        ] {
            assert_eq!(holds(&condition, value, false), expected, "{condition:?} {value}");
        }
        assert!(holds(&Condition::Exists(true), "", true));
    }

    proptest! {
        #[test]
        fn lower_case_is_unicodes(text: String) {
            prop_assert_eq!(transformed(&text, &[Transform::LowerCase]), text.to_lowercase());
        }

        #[test]
        fn any_text_is_a_url_or_none(text in "(h://)?[a@:/?# é]{0,12}") {
            transformed(&text, &[Transform::UrlHost, Transform::UrlPath]);
        }
    }
}
