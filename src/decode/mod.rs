//! Decodes records: takes bytes and Kafka's timestamp, and returns an [`Event`] and its [`Outcome`].
//!
//! ```text
//! value ─► size, text ─► JSON object | access-log line ─► places ─► customer, event time, fields ─► where ─► values
//! ```
//!
//! Pure: the result depends on the record's value, its Kafka timestamp and the logic, and on no clock and no other record. State:
//! buffers that are reused, so that decoding does not allocate once they have grown (except for values that are not UTF-8, keys
//! with escapes, and texts that are shortened or lower-cased beyond ASCII). Failure: none; a record that can not be counted is
//! data, not an error.
//!
//! A byte order mark at the beginning is skipped. Bytes that are not UTF-8 become U+FFFD. A record that breaks several rules is
//! rejected by the first of them: `empty`, `too_large`, then `bad_json` or `bad_line`; then, over everything that the job needs,
//! `missing_field`, `wrong_type`, `bad_time`, `time_out_of_range`. `where` is evaluated only after these, so a filtered record is
//! well-formed. A field that is used only by `exists` may be an object or array; any other field that is used may not.

mod escapes;
mod explain;
mod found;
mod front;
mod json;
mod line;
mod line_format;
#[cfg(test)]
mod line_tests;
mod compiled;
mod reject;
mod scan;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod unwrap;

use std::borrow::Cow;

use crate::job::{LineField, Logic};
use crate::model::{Outcome, Reason, RecordRef, Rejection, TimeUs, shorten};
use crate::process::panics::guarded;

use compiled::{Compiled, Customer, Parser};
pub use explain::{Explained, FoundAt, FoundKind};
use found::{Found, Kind, Slot};
use reject::{bad_line, parse_json, rejection, shown};
use unwrap::Unwrap;

/// A decoded record: a buffer that [`Decoder::decode`] overwrites each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The customer; valid if the outcome is [`Outcome::Counted`].
    pub customer: String,
    /// The event time, if it can be read, also of a rejected or filtered record. It is from 2000 to 2099 if the record is
    /// counted, and within the years 1 to 9999 otherwise.
    pub event_time: Option<TimeUs>,
    /// One value for each of the logic's dimensions, in their order; '' if absent, and for `total`. Valid if the record is
    /// counted.
    pub values: Vec<String>,
}

impl Event {
    fn clear(&mut self, dimensions: usize) {
        self.customer.clear();
        self.event_time = None;
        self.values.resize_with(dimensions, String::new);
        for value in &mut self.values {
            value.clear();
        }
    }
}

/// Decodes records by a job's logic. One for each worker.
#[derive(Debug)]
pub struct Decoder {
    plan: Compiled,
    unwrap: Option<Unwrap>,
    found: Found,
    fields: Vec<FieldText>,
    spare: String,
}

/// A field of the current record.
#[derive(Debug, Default)]
struct FieldText {
    text: String,
    is_composite: bool,
}

/// What was found at the place of the event time.
enum Time {
    Good,
    Missing,
    WrongType,
    Bad,
    OutOfRange,
}

impl Decoder {
    /// Compiles the logic.
    pub fn new(logic: &Logic) -> Decoder {
        let plan = Compiled::new(logic);
        let slots = match &plan.parser {
            Parser::Json(trie) => trie.slots(),
            Parser::AccessLog => LineField::ALL.len(),
            Parser::Lines(lines) => lines.slots(),
        };
        let fields = plan.fields.iter().map(|_| FieldText::default()).collect();
        let unwrap = logic.unwrap.as_deref().map(Unwrap::new);
        Decoder { plan, unwrap, found: Found::new(slots), fields, spare: String::new() }
    }

    /// Decodes one record into `event`. A panic of the decoder rejects the record; the next one is decoded as usual.
    pub fn decode(&mut self, record: RecordRef<'_>, event: &mut Event) -> Outcome {
        event.clear(self.plan.dimensions.len());
        let decoded = guarded(|| self.decode_value(record.value, record.timestamp_ms, event));
        match decoded {
            Ok(Ok(true)) => Outcome::Counted,
            Ok(Ok(false)) => Outcome::Filtered,
            Ok(Err(rejection)) => Outcome::Rejected(rejection),
            Err(message) => {
                event.clear(self.plan.dimensions.len());
                let expected = format!("a decoder that does not fail: {message}");
                Outcome::Rejected(rejection(Reason::DecoderPanic, None, &expected, record.value.unwrap_or_default()))
            }
        }
    }

    /// Decodes one value. Returns whether it is counted; if not, it is filtered.
    fn decode_value(
        &mut self,
        value: Option<&[u8]>,
        timestamp_ms: Option<i64>,
        event: &mut Event,
    ) -> Result<bool, Box<Rejection>> {
        let Decoder { plan, unwrap, found, fields, spare } = self;
        let value = value.unwrap_or_default();
        let text = plan.text(value)?;
        let (value, input) = unwrapped(unwrap, value, &text)?;
        found.clear();
        plan.parse(value, input, found)?;

        let time = plan.time(input, found, timestamp_ms, &mut event.event_time);
        let customer = plan.customer(input, found, &mut event.customer, spare)?;
        let time_slot = first(found, &plan.event_time);
        let time_text = found.text(time_slot, input);
        let reject_time = |reason, expected: String| {
            Err(rejection(reason, Some("event_time"), &expected, shown(found, time_slot, input)))
        };
        if let Time::Missing = time {
            return reject_time(Reason::MissingField, plan.time_rule.expected(""));
        }
        if let Some((slot, expected)) = customer {
            return Err(rejection(Reason::WrongType, Some("customer"), expected, shown(found, slot, input)));
        }
        if let Time::WrongType = time {
            return reject_time(Reason::WrongType, plan.time_rule.expected(""));
        }
        for (field, out) in plan.fields.iter().zip(fields.iter_mut()) {
            let slot = first(found, &field.finder.slots);
            out.is_composite = slot.kind == Kind::Composite;
            if out.is_composite && field.needs_text {
                let expected = "a string, number or boolean";
                return Err(rejection(Reason::WrongType, Some(&field.name), expected, shown(found, slot, input)));
            }
            let text = if out.is_composite { "" } else { found.text(slot, input) };
            text::transform(text, &field.finder.transforms, &mut out.text, spare);
        }
        match time {
            Time::Bad => return reject_time(Reason::BadTime, plan.time_rule.expected(time_text)),
            Time::OutOfRange => {
                return reject_time(Reason::TimeOutOfRange, plan.time_rule.expected_in_range(time_text));
            }
            Time::Good | Time::Missing | Time::WrongType => {}
        }

        for (field, condition) in &plan.filters {
            let field = &fields[*field];
            if !text::holds(condition, &field.text, field.is_composite) {
                return Ok(false);
            }
        }
        for (dimension, value) in plan.dimensions.iter().zip(&mut event.values) {
            if let Some(field) = dimension {
                value.push_str(&fields[*field].text);
                shorten(value);
            }
        }
        Ok(true)
    }
}

impl Compiled {
    /// The value as text. Bytes that are not UTF-8 become U+FFFD; they stay within their field, as quotes and separators are
    /// ASCII.
    fn text<'v>(&self, value: &'v [u8]) -> Result<Cow<'v, str>, Box<Rejection>> {
        if value.is_empty() {
            return Err(rejection(Reason::Empty, None, "a value", value));
        }
        if value.len() > self.record_bytes_max {
            let expected = format!("at most {} bytes", self.record_bytes_max);
            return Err(rejection(Reason::TooLarge, None, &expected, format!("{} bytes", value.len()).as_bytes()));
        }
        // The check alone is faster than the replacement.
        Ok(std::str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed))
    }

    fn parse(&self, value: &[u8], input: &str, found: &mut Found) -> Result<(), Box<Rejection>> {
        match &self.parser {
            Parser::Json(trie) => parse_json(trie, value, input, found),
            Parser::AccessLog => line::read(input, found).map_err(|bad| {
                bad_line("a line of an access log, common or combined", &bad.unless_json(input), value, input)
            }),
            Parser::Lines(lines) => lines.read(input, found).map_err(|bad| {
                let bad = if lines.are_json() { bad } else { bad.unless_json(input) };
                bad_line("a line of the job's format", &bad, value, input)
            }),
        }
    }

    fn time(&self, input: &str, found: &Found, timestamp_ms: Option<i64>, readable: &mut Option<TimeUs>) -> Time {
        let slot = first(found, &self.event_time);
        if !Found::is_present(slot) {
            return Time::Missing;
        }
        let text = found.text(slot, input);
        let read = match slot.kind {
            Kind::Number | Kind::Text | Kind::Unescaped => self.time_rule.read(text),
            _ => return Time::WrongType,
        };
        let Some(read) = read else { return Time::Bad };
        *readable = time::writable(read);
        if time::in_range(read, timestamp_ms) { Time::Good } else { Time::OutOfRange }
    }

    /// Writes the customer to `out`. A slot of a wrong type is returned, with what was expected, and not rejected here: a missing
    /// event time is reported before it.
    fn customer(
        &self,
        input: &str,
        found: &Found,
        out: &mut String,
        spare: &mut String,
    ) -> Result<Option<(Slot, &'static str)>, Box<Rejection>> {
        let (finder, integers) = match &self.customer {
            Customer::Constant(text) => {
                out.push_str(text);
                return Ok(None);
            }
            Customer::Found { finder, integers } => (finder, *integers),
        };
        let slot = first(found, &finder.slots);
        let text = found.text(slot, input);
        match slot.kind {
            Kind::Number if integers && is_integer(text) => {}
            Kind::Number if integers => {
                return Ok(Some((slot, "a string, or an integer without fraction and exponent")));
            }
            Kind::Number => return Ok(Some((slot, "a string; for integers, customer = { …, integers = true }"))),
            Kind::Boolean | Kind::Composite => return Ok(Some((slot, "a string"))),
            Kind::Missing | Kind::Null | Kind::Text | Kind::Unescaped => {}
        }
        text::transform(text, &finder.transforms, out, spare);
        if out.is_empty() {
            let shown = shown(found, slot, input);
            return Err(rejection(Reason::MissingField, Some("customer"), "a string that is not empty", shown));
        }
        Ok(None)
    }
}

/// Whether a JSON number is written as an integer, in the only form that it has: not `14.0`, `1e3` or `-0`.
fn is_integer(number: &str) -> bool {
    number != "-0" && !number.contains(['.', 'e', 'E'])
}

/// The first slot that holds something; if none does, the first slot, so that an error can show what is there.
fn first(found: &Found, slots: &[usize]) -> Slot {
    let mut all = slots.iter().map(|index| found.slot(*index));
    all.clone().find(|slot| Found::is_present(*slot)).or_else(|| all.next()).unwrap_or_default()
}

/// The bytes and the text to parse: the record's own, or those inside its JSON.
fn unwrapped<'a>(
    unwrap: &'a mut Option<Unwrap>,
    value: &'a [u8],
    text: &'a str,
) -> Result<(&'a [u8], &'a str), Box<Rejection>> {
    match unwrap {
        Some(unwrap) => unwrap.text(value, text).map(|inside| (inside.as_bytes(), inside)),
        None => Ok((value, text)),
    }
}
