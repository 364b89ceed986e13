//! Reads TOML by hand, so that every fault has its file, line, column and key, and for an unknown key the nearest known one.
//!
//! In: the parsed document, with spans. Out: plain values, with the environment put in; or the first [`Fault`](super::Fault). The parser's
//! own message is used without its excerpt of the file, since a line of a job file may contain a secret. Pure.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Fault, JobError, did_you_mean};
use super::expand::{Environment, expand};
use super::redact::is_secret;

/// The file that is being read.
pub(super) struct File<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) env: Environment<'a>,
}

impl<'a> File<'a> {
    /// Parses the text.
    pub(super) fn document(&self) -> Result<Spanned<DeTable<'a>>, JobError> {
        DeTable::parse(self.text).map_err(|error| {
            let mut place = error.span().map(|span| self.place(span.start));
            place = place.or(Some(self.place(self.text.len())));
            self.fault(place, "", &format!("invalid TOML: {}", error.message()), "valid TOML")
        })
    }

    fn place(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    fn fault(&self, place: Option<(usize, usize)>, key: &str, found: &str, expected: &str) -> JobError {
        JobError::Invalid(Box::new(Fault {
            file: self.name.to_owned(),
            place,
            key: key.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        }))
    }
}

/// A value, and where it is.
#[derive(Clone)]
pub(super) struct Value<'a> {
    file: &'a File<'a>,
    /// The key with its sections.
    pub(super) path: String,
    /// The offset at which a fault of this value is shown.
    offset: usize,
    raw: &'a DeValue<'a>,
}

/// A table whose keys are known and were checked.
pub(super) struct Section<'a> {
    file: &'a File<'a>,
    path: String,
    offset: Option<usize>,
    values: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn root(file: &'a File<'a>, table: &'a DeTable<'a>, known: &[&str]) -> Result<Self, JobError> {
        let section = Section { file, path: String::new(), offset: None, values: values_of(file, "", table) };
        section.check(known)?;
        Ok(section)
    }

    /// A section that is not in the file: all of its defaults hold.
    fn absent(file: &'a File<'a>, path: String) -> Self {
        Section { file, path, offset: None, values: Vec::new() }
    }

    fn check(&self, known: &[&str]) -> Result<(), JobError> {
        for (name, value) in &self.values {
            if !known.contains(name) {
                let hint = did_you_mean(name, known.iter().copied());
                return Err(value.fault("an unknown key", format!("one of {}{hint}", known.join(", "))));
            }
        }
        Ok(())
    }

    /// The value of an optional key.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.values.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
    }

    /// The value of a required key; `expected` describes it in the error.
    pub(super) fn need(&self, key: &str, expected: &str) -> Result<Value<'a>, JobError> {
        self.get(key).ok_or_else(|| {
            let place = self.offset.map(|offset| self.file.place(offset));
            self.file.fault(place, &join(&self.path, key), "nothing", expected)
        })
    }

    /// An optional section.
    pub(super) fn section(&self, key: &str, known: &[&str]) -> Result<Section<'a>, JobError> {
        match self.get(key) {
            Some(value) => value.section(known),
            None => Ok(Section::absent(self.file, join(&self.path, key))),
        }
    }

    /// Those of `keys` that are present.
    pub(super) fn given(&self, keys: &[&'static str]) -> Vec<&'static str> {
        keys.iter().copied().filter(|key| self.get(key).is_some()).collect()
    }

    /// The one of `keys` that is present; it is a fault if there are none or several.
    pub(super) fn exactly_one(&self, keys: &[&'static str]) -> Result<&'static str, JobError> {
        let given = self.given(keys);
        match given.as_slice() {
            [one] => Ok(one),
            others => {
                let found = if others.is_empty() { "none of them".to_owned() } else { others.join(" and ") };
                let place = self.offset.map(|offset| self.file.place(offset));
                Err(self.file.fault(place, &self.path, &found, &format!("exactly one of {}", keys.join(", "))))
            }
        }
    }

    /// An integer within `range`, or `default` if the key is absent.
    pub(super) fn integer(
        &self,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, JobError> {
        self.get(key).map_or(Ok(default), |value| value.integer(range))
    }

    /// A number within `range`, or `default` if the key is absent.
    pub(super) fn number(
        &self,
        key: &str,
        default: f64,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<f64, JobError> {
        self.get(key).map_or(Ok(default), |value| value.number(range))
    }
}

impl<'a> Value<'a> {
    /// A fault at this value.
    pub(super) fn fault(&self, found: impl AsRef<str>, expected: impl AsRef<str>) -> JobError {
        self.file.fault(Some(self.file.place(self.offset)), &self.path, found.as_ref(), expected.as_ref())
    }

    /// A fault at this value; what was found is the value itself.
    pub(super) fn not(&self, expected: impl AsRef<str>) -> JobError {
        self.fault(self.describe(), expected)
    }

    fn describe(&self) -> String {
        let shown = !is_secret(&self.path);
        match self.raw {
            DeValue::String(text) if shown => format!("the string {text:?}"),
            DeValue::Integer(number) if shown => format!("the integer {number}"),
            DeValue::Float(number) if shown => format!("the float {number}"),
            DeValue::Boolean(value) if shown => format!("the boolean {value}"),
            DeValue::Datetime(time) if shown => format!("the time {time}"),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            _ => "a value of another type (not shown)".to_owned(),
        }
    }

    fn expanded(&self, text: &str) -> Result<String, JobError> {
        expand(text, self.file.env).map_err(|(found, expected)| self.fault(found, expected))
    }

    /// A string, with the environment put in; '' is refused.
    pub(super) fn text(&self) -> Result<String, JobError> {
        let DeValue::String(text) = self.raw else { return Err(self.not("a string")) };
        let text = self.expanded(text)?;
        if text.is_empty() {
            return Err(self.fault("an empty string", "a non-empty string"));
        }
        Ok(text)
    }

    /// The text of a string, an integer, a boolean or a float, with the environment put in; '' means "not set".
    pub(super) fn option(&self) -> Result<String, JobError> {
        match self.raw {
            DeValue::String(text) => self.expanded(text),
            DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
            DeValue::Float(number) => Ok(number.as_str().to_owned()),
            DeValue::Boolean(value) => Ok(value.to_string()),
            _ => Err(self.not("a string, a decimal number or a boolean")),
        }
    }

    /// A string, or a TOML time as text.
    pub(super) fn text_or_time(&self) -> Result<String, JobError> {
        match self.raw {
            DeValue::Datetime(time) => Ok(time.to_string()),
            _ => self.text(),
        }
    }

    /// An integer within `range`; a string with `${…}` is parsed after the environment was put in.
    pub(super) fn integer(&self, range: std::ops::RangeInclusive<u64>) -> Result<u64, JobError> {
        let number = match self.raw {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(text) if text.contains("${") => self.expanded(text)?.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.not(format!("an integer from {} to {}", range.start(), range.end())))
    }

    /// A number within `range`; a string with `${…}` is parsed after the environment was put in.
    pub(super) fn number(&self, range: std::ops::RangeInclusive<f64>) -> Result<f64, JobError> {
        let number = match self.raw {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            DeValue::String(text) if text.contains("${") => self.expanded(text)?.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.not(format!("a number from {} to {}", range.start(), range.end())))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, JobError> {
        match self.raw {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.not("true or false")),
        }
    }

    /// A string that is one of the names.
    pub(super) fn one_of<T: Copy>(&self, names: &[(&str, T)]) -> Result<T, JobError> {
        let text = self.text()?;
        names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
            let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            let hint = did_you_mean(&text, known.iter().copied());
            self.fault(format!("{text:?}"), format!("one of {}{hint}", known.join(", ")))
        })
    }

    /// A list that is not empty; `what` names its items in the error.
    pub(super) fn list(&self, what: &str) -> Result<Vec<Value<'a>>, JobError> {
        let DeValue::Array(items) = self.raw else { return Err(self.not(format!("a list of {what}"))) };
        if items.is_empty() {
            return Err(self.fault("an empty list", format!("a non-empty list of {what}")));
        }
        Ok(items
            .iter()
            .enumerate()
            .map(|(index, item)| Value {
                file: self.file,
                path: format!("{}[{index}]", self.path),
                offset: item.span().start,
                raw: item.get_ref(),
            })
            .collect())
    }

    /// A list without duplicates; `read` reads each item.
    pub(super) fn distinct<T: PartialEq>(
        &self,
        what: &str,
        mut read: impl FnMut(&Value<'a>) -> Result<T, JobError>,
    ) -> Result<Vec<T>, JobError> {
        let mut items = Vec::new();
        for value in self.list(what)? {
            let item = read(&value)?;
            if items.contains(&item) {
                return Err(value.fault(format!("{} twice", value.describe()), "each one once"));
            }
            items.push(item);
        }
        Ok(items)
    }

    /// A table with these keys.
    pub(super) fn section(&self, known: &[&str]) -> Result<Section<'a>, JobError> {
        let section =
            Section { file: self.file, path: self.path.clone(), offset: Some(self.offset), values: self.entries()? };
        section.check(known)?;
        Ok(section)
    }

    /// A table whose keys are names chosen by the user.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Value<'a>)>, JobError> {
        match self.raw {
            DeValue::Table(table) => Ok(values_of(self.file, &self.path, table)),
            _ => Err(self.not("a table")),
        }
    }

    /// Whether it is the string ''.
    pub(super) fn is_empty_string(&self) -> bool {
        matches!(self.raw, DeValue::String(text) if text.is_empty())
    }

    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.raw, DeValue::Table(_))
    }
}

fn values_of<'a>(file: &'a File<'a>, path: &str, table: &'a DeTable<'a>) -> Vec<(&'a str, Value<'a>)> {
    table
        .iter()
        .map(|(key, value)| {
            let name: &'a str = key.get_ref();
            (name, Value { file, path: join(path, name), offset: key.span().start, raw: value.get_ref() })
        })
        .collect()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
