//! Reads what precedes the time in an access-log line: client, ident and user, perhaps with a virtual host before them.
//!
//! The client may be a list, as proxies write it; its first address is the client. What precedes the client is a virtual host
//! only if it is a host's name, or an address with its port. A list, or an address alone, is `X-Forwarded-For`, and its first
//! address is the client. Anything else before the client (`-`, `a=b`) is ignored. Pure: no state.

use std::net::{IpAddr, Ipv6Addr};

/// What precedes the time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Front<'a> {
    pub(super) virtual_host: &'a str,
    pub(super) client: &'a str,
    pub(super) ident: &'a str,
    pub(super) user: &'a str,
}

impl<'a> Front<'a> {
    /// Reads three items, or four with the virtual host first. A user's name may hold blanks; the ident, which is `-` almost
    /// everywhere, then shows where it begins.
    pub(super) fn read(text: &'a str) -> Option<Front<'a>> {
        let text = text.trim_end_matches(is_blank);
        let (first, rest) = item(text)?;
        let (second, rest) = item(rest)?;
        // A virtual host before an absent client, as if no proxy has named one: `shop.example - - -`.
        if second == "-"
            && let Some(("-", user)) = item(rest)
            && is_virtual_host(first)
        {
            return Front::new(first, second, "-", user);
        }
        if second == "-" || !rest.contains(is_blank) {
            // The ingress controller writes the client a second time: `client - [client] - user`.
            let twice = rest.strip_prefix('[').and_then(|rest| rest.split_once("] - "));
            return Front::new("", first, second, twice.map_or(rest, |(_, user)| user));
        }
        let (third, user) = item(rest)?;
        if third != "-" && user.contains(is_blank) {
            return None;
        }
        if is_virtual_host(first) {
            Front::new(first, second, third, user)
        } else if is_forwarded(first) {
            Front::new("", first, third, user)
        } else {
            Front::new("", second, third, user)
        }
    }

    fn new(virtual_host: &'a str, client: &'a str, ident: &'a str, user: &'a str) -> Option<Front<'a>> {
        // Apache writes a user without a name as two quotes.
        let user = if user == "\"\"" { "-" } else { user };
        let is_whole = ![client, ident, user].contains(&"");
        is_whole.then_some(Front { virtual_host, client: first_of_list(client), ident, user })
    }
}

/// The next item, and what follows it. An item is a word, or a list: words that end with a comma, and the word after them.
fn item(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(is_blank);
    let mut end = text.find(is_blank)?;
    while text[..end].ends_with(',') {
        end += text[end..].find(|c| !is_blank(c))?;
        end += text[end..].find(is_blank)?;
    }
    Some((&text[..end], text[end..].trim_start_matches(is_blank)))
}

/// The first address of a list like `203.0.113.1, 198.51.100.2`, which may be in quotes.
fn first_of_list(text: &str) -> &str {
    text.split(',').next().unwrap_or(text).trim_matches('"')
}

/// Whether a text is a list, or an address without a port: the header that proxies write, not a host that was requested.
fn is_forwarded(text: &str) -> bool {
    text.contains(',') || text.trim_matches('"').parse::<IpAddr>().is_ok()
}

fn is_virtual_host(text: &str) -> bool {
    let host = without_port(text);
    is_host(host) && (host.len() < text.len() || !is_forwarded(text))
}

/// Whether a text can be a host: a name, or an address.
pub(super) fn is_host(text: &str) -> bool {
    if let Some(inside) = text.strip_prefix('[') {
        return inside.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let legal = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    (text.chars().all(legal) && text.contains(char::is_alphanumeric)) || text.parse::<Ipv6Addr>().is_ok()
}

/// A host without its port.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (name.ends_with(']') || !name.contains(':')) =>
        {
            name
        }
        _ => host,
    }
}

/// Whether a character is a blank between fields.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts() {
        for (text, expected) in [
            ("1.2.3.4 - -", Some(["", "1.2.3.4", "-", "-"])),
            ("1.2.3.4 id bob", Some(["", "1.2.3.4", "id", "bob"])),
            ("example.com:80 1.2.3.4 - -", Some(["example.com:80", "1.2.3.4", "-", "-"])),
            ("example.com 1.2.3.4 id bob", Some(["example.com", "1.2.3.4", "id", "bob"])),
            ("1.2.3.4 - John Smith", Some(["", "1.2.3.4", "-", "John Smith"])),
            ("1.2.3.4 - John  Smith ", Some(["", "1.2.3.4", "-", "John  Smith"])),
            ("1.2.3.4  -  -", Some(["", "1.2.3.4", "-", "-"])),
            ("1.2.3.4 - \"\"", Some(["", "1.2.3.4", "-", "-"])),
            ("1.2.3.4 - [1.2.3.4] - bob", Some(["", "1.2.3.4", "-", "bob"])),
            ("1.2.3.4 - [1.2.3.4, 10.0.0.1] - -", Some(["", "1.2.3.4", "-", "-"])),
            ("1.2.3.4 - [admin]", Some(["", "1.2.3.4", "-", "[admin]"])),
            // Lists of proxies.
            ("203.0.113.1, 198.51.100.2 - -", Some(["", "203.0.113.1", "-", "-"])),
            ("203.0.113.1,198.51.100.2 - -", Some(["", "203.0.113.1", "-", "-"])),
            ("203.0.113.1,  10.0.0.1, 10.0.0.2 id bob", Some(["", "203.0.113.1", "id", "bob"])),
            ("\"203.0.113.1, 198.51.100.2\" - -", Some(["", "203.0.113.1", "-", "-"])),
            ("203.0.113.1, 198.51.100.2 10.0.0.1 - -", Some(["", "203.0.113.1", "-", "-"])),
            ("203.0.113.1 10.0.0.1 - -", Some(["", "203.0.113.1", "-", "-"])),
            ("2001:db8::1 10.0.0.1 - -", Some(["", "2001:db8::1", "-", "-"])),
            ("- 10.0.0.1 - -", Some(["", "10.0.0.1", "-", "-"])),
            ("shop.example - - -", Some(["shop.example", "-", "-", "-"])),
            ("shop.example:80 - - John Smith", Some(["shop.example:80", "-", "-", "John Smith"])),
            ("shop.example - -", Some(["", "shop.example", "-", "-"])),
            ("192.0.2.1 - - -", Some(["", "192.0.2.1", "-", "- -"])),
            ("_ 10.0.0.1 - -", Some(["", "10.0.0.1", "-", "-"])),
            ("shop.example 203.0.113.1, 198.51.100.2 - -", Some(["shop.example", "203.0.113.1", "-", "-"])),
            ("203.0.113.1:80 10.0.0.1 - -", Some(["203.0.113.1:80", "10.0.0.1", "-", "-"])),
            // What can not be a host is not taken for one.
            ("host=shop 10.0.0.1 - -", Some(["", "10.0.0.1", "-", "-"])),
            ("<134>Feb 10 16:42:07 h 10.0.0.1 - -", None),
            ("203.0.113.1, 198.51.100.2", None),
            ("203.0.113.1, ", None),
            ("example.com 1.2.3.4 - John Smith", Some(["example.com", "1.2.3.4", "-", "John Smith"])),
            ("example.com 1.2.3.4 id John Smith", None),
            ("1.2.3.4 -", None),
            ("1.2.3.4", None),
            ("1.2.3.4  -", None),
            ("", None),
        ] {
            let front = Front::read(text).map(|front| [front.virtual_host, front.client, front.ident, front.user]);
            assert_eq!(front, expected, "{text}");
        }
    }

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("shop.example", true),
            ("münchen.example", true),
            ("my_host-1", true),
            ("192.0.2.1", true),
            ("[2001:db8::1]", true),
            ("2001:db8::1", true),
            ("", false),
            ("-", false),
            ("_", false),
            ("[x]", false),
            ("a,b", false),
            ("a b", false),
            ("a=b", false),
            ("a:b", false),
            ("\u{fffd}", false),
            (r"\x41", false),
        ] {
            assert_eq!(is_host(text), expected, "{text}");
        }
    }

    #[test]
    fn ports_go() {
        for (host, expected) in [
            ("h", "h"),
            ("h:80", "h"),
            ("h:x", "h:x"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), expected);
        }
    }
}
