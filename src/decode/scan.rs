//! A position in JSON text that moves forward, byte by byte; [`super::json`] reads values with it.
//!
//! In: text, and a position in it. Out: the strings, numbers and literals that the job asks for, which must be valid JSON; or a
//! [`Fault`]: where something is wrong, and what was expected there. Values that the job does not ask for are skipped. They only
//! have to end: a string at its quote, an object or array at the bracket that closes it, anything else before `,`, `}`, `]` or
//! white space. So `NaN`, `\xFA`, a bad number or half an escape in such a value does no harm. State: the position. Nothing
//! recurses, so deep nesting does no harm either.

use super::escapes::json_escape;

/// The text without a byte order mark at the beginning.
pub(super) fn without_mark(input: &str) -> &str {
    input.strip_prefix('\u{feff}').unwrap_or(input)
}

/// What is wrong in a text, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// In bytes of the text, from 0.
    pub(super) at: usize,
    /// What was expected there.
    pub(super) expected: &'static str,
}

/// A position in a text that moves forward.
#[derive(Debug)]
pub(super) struct Scanner<'i> {
    input: &'i str,
    pub(super) at: usize,
}

impl<'i> Scanner<'i> {
    pub(super) fn new(input: &'i str, at: usize) -> Self {
        Scanner { input, at }
    }

    /// The current byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.input.as_bytes().get(self.at).copied()
    }

    /// Skips white space, and returns the current byte.
    pub(super) fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Skips white space, and then `token`.
    pub(super) fn pass(&mut self, token: u8, expected: &'static str) -> Result<(), Fault> {
        if self.next_token() != Some(token) {
            return Err(self.fault(expected));
        }
        self.at += 1;
        Ok(())
    }

    pub(super) fn fault(&self, expected: &'static str) -> Fault {
        Fault { at: self.at, expected }
    }

    /// Reads a string, from its opening quote on. Returns what is between the quotes, and whether there is a backslash in it.
    pub(super) fn string(&mut self) -> Result<(&'i str, bool), Fault> {
        let start = self.at + 1;
        let mut end = quote_or_backslash(self.input.as_bytes(), start);
        let is_escaped = self.input.as_bytes().get(end) == Some(&b'\\');
        loop {
            match self.input.as_bytes().get(end) {
                Some(b'"') => break,
                // Whatever follows a backslash belongs to it.
                Some(_) => end = quote_or_backslash(self.input.as_bytes(), end + 2),
                None => return Err(Fault { at: self.input.len(), expected: "'\"' that ends a string" }),
            }
        }
        self.at = end + 1;
        Ok((&self.input[start..end], is_escaped))
    }

    /// Skips a value that is not requested, from its first byte on.
    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{' | b'[') => self.skip_composite(),
            None | Some(b',' | b':' | b'}' | b']') => Err(self.fault("a value")),
            Some(_) => {
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r');
                let rest = &self.input.as_bytes()[self.at..];
                self.at += rest.iter().position(ends).unwrap_or(rest.len());
                Ok(())
            }
        }
    }

    fn skip_composite(&mut self) -> Result<(), Fault> {
        let bytes = self.input.as_bytes();
        let mut depth = 0_usize;
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
        Err(self.fault("'}' or ']' that ends a value"))
    }

    /// Reads `true`, `false` or `null`, from its first letter on.
    pub(super) fn literal(&mut self, literal: &'static str) -> Result<(), Fault> {
        if !self.input.as_bytes()[self.at..].starts_with(literal.as_bytes()) {
            return Err(self.fault("a value"));
        }
        self.at += literal.len();
        Ok(())
    }

    /// Reads a number, as JSON writes it.
    pub(super) fn number(&mut self) -> Result<(), Fault> {
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let rest = &self.input.as_bytes()[self.at..];
        let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.fault("a digit"));
        }
        self.at += length;
        Ok(())
    }
}

/// Appends what the inside of a string stands for; `start` is its position in the text. A surrogate without its other half
/// becomes U+FFFD.
pub(super) fn unescape(inside: &str, start: usize, out: &mut String) -> Result<(), Fault> {
    let mut rest = inside;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let fault = Fault { at: start + inside.len() - escape.len(), expected: "an escape that JSON knows" };
        let (c, after) = json_escape(&escape.as_bytes()[1..]).ok_or(fault)?;
        out.push(c);
        rest = &escape[escape.len() - after.len()..];
    }
    out.push_str(rest);
    Ok(())
}

/// The position of the first control character inside a string; JSON requires them to be escaped.
pub(super) fn control_character(inside: &str) -> Option<usize> {
    // There is almost never one, and a sum over all bytes is faster than a search.
    let any = inside.bytes().fold(false, |any, byte| any | (byte < b' '));
    if any { inside.bytes().position(|byte| byte < b' ') } else { None }
}

/// The position of the next `"` or `\`, from `at` on; the end if there is none.
fn quote_or_backslash(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    // The high bit of each byte that is 0. Bytes above the lowest such one may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let hits = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map_or(bytes.len(), |index| at + index)
}
