//! Puts values from the environment into strings: `${NAME}` and `${NAME:-default}`; `$${` is a literal `${`.
//!
//! In: a string, and the environment. Out: the expanded string, or what was found and what was expected. Pure.

/// The environment: the value of a name, or `None`.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands the variables in `text`. As in a shell, `:-` also replaces a variable that is set but empty.
///
/// # Errors
/// What was found and what was expected, when a variable without a default is not set or a `${` is not well-formed.
pub(super) fn expand(text: &str, env: Environment<'_>) -> Result<String, (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let Some(end) = inside.find('}') else {
            return Err(("`${` without its `}`".to_owned(), "`${NAME}`, or `$${` for a plain `${`".to_owned()));
        };
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inside[..end], None),
        };
        if !is_name(name) {
            return Err((format!("`${{{name}}}`"), "a name of letters, digits and `_` inside `${…}`".to_owned()));
        }
        match (env(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err((
                    format!("`${{{name}}}`, which is not set in the environment"),
                    format!("{name} to be set, or a default: `${{{name}:-…}}`"),
                ));
            }
        }
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first == b'_' || first.is_ascii_alphabetic())
        && bytes.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn names_defaults_and_escapes() {
        for (text, expected) in [
            ("", ""),
            ("plain $ {A}", "plain $ {A}"),
            ("${A}", "a"),
            ("x${A}y${A}z", "xayaz"),
            ("${NONE:-}", ""),
            ("${NONE:-b c:-d}", "b c:-d"),
            ("${A:-b}", "a"),
            ("${EMPTY}", ""),
            ("${EMPTY:-b}", "b"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("${A}$${B}", "a${B}"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
        for (text, found) in [("${NONE}", "${NONE}"), ("${A", "without"), ("${}", "${}"), ("${1A}", "${1A}")] {
            let error = expand(text, &env).expect_err(text);
            assert!(error.0.contains(found), "{text}: {error:?}");
        }
    }
}
