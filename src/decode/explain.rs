//! Explains what a decoder finds in one record, place by place, for people who write a job file. A running job does not use it.
//!
//! In: a record. Out: [`Explained`]: its outcome, its event, and what was found at each place. State: the decoder's buffers.

use super::compiled::{Customer, Finder};
use super::found::{Found, Kind, Slot};
use super::{Decoder, Event, first, text, unwrapped};
use crate::model::{Outcome, RecordRef};

/// One record, decoded and explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What [`Decoder::decode`] returns.
    pub outcome: Outcome,
    /// The decoded event.
    pub event: Event,
    /// `customer`, `event_time`, then each field that a dimension or condition uses; empty if the value as a whole can not be
    /// read.
    pub places: Vec<FoundAt>,
    /// For a filtered record: the index in the logic of the first condition that does not hold.
    pub condition: Option<usize>,
}

/// What is found for a name of the job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAt {
    /// `customer`, `event_time`, or the name of a field.
    pub name: String,
    /// The kind of what is there.
    pub kind: FoundKind,
    /// The text as it is written in the record, with JSON's escapes undone; '' if there is nothing.
    pub written: String,
    /// The text after the transforms. The event time has none; the time itself is in the event.
    pub text: String,
}

/// The kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// Nothing is at any of the places.
    Missing,
    /// JSON's null.
    Null,
    /// An empty text.
    Empty,
    /// A text.
    Text,
    /// A JSON number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A JSON object or array.
    Composite,
    /// A constant of the job file.
    Constant,
}

impl FoundKind {
    /// The name in output, also in JSON.
    pub fn name(self) -> &'static str {
        match self {
            FoundKind::Missing => "missing",
            FoundKind::Null => "null",
            FoundKind::Empty => "empty",
            FoundKind::Text => "text",
            FoundKind::Number => "number",
            FoundKind::Boolean => "boolean",
            FoundKind::Composite => "object or array",
            FoundKind::Constant => "constant",
        }
    }

    /// Whether there is something to count.
    pub fn is_present(self) -> bool {
        !matches!(self, FoundKind::Missing | FoundKind::Null | FoundKind::Empty)
    }

    fn of(slot: Slot) -> FoundKind {
        match slot.kind {
            Kind::Missing => FoundKind::Missing,
            Kind::Null => FoundKind::Null,
            Kind::Text | Kind::Unescaped if !Found::is_present(slot) => FoundKind::Empty,
            Kind::Text | Kind::Unescaped => FoundKind::Text,
            Kind::Number => FoundKind::Number,
            Kind::Boolean => FoundKind::Boolean,
            Kind::Composite => FoundKind::Composite,
        }
    }
}

impl Decoder {
    /// Decodes one record as [`Decoder::decode`] does, and reports what was found where. It is slower, because it reads the
    /// record twice.
    pub fn explain(&mut self, record: RecordRef<'_>) -> Explained {
        let mut event = Event::default();
        let outcome = self.decode(record, &mut event);
        let condition = match outcome {
            Outcome::Filtered => self.plan.filters.iter().position(|(field, condition)| {
                let field = &self.fields[*field];
                !text::holds(condition, &field.text, field.is_composite)
            }),
            Outcome::Counted | Outcome::Rejected(_) => None,
        };
        // A record on which the decoder panics has no places either.
        let places = super::guarded(|| self.places(record.value)).unwrap_or_default();
        Explained { outcome, event, places, condition }
    }

    fn places(&mut self, value: Option<&[u8]>) -> Vec<FoundAt> {
        let Decoder { plan, unwrap, found, spare, .. } = self;
        let value = value.unwrap_or_default();
        let Ok(input) = plan.text(value) else { return Vec::new() };
        let Ok((value, input)) = unwrapped(unwrap, value, &input) else { return Vec::new() };
        found.clear();
        if plan.parse(value, input, found).is_err() {
            return Vec::new();
        }
        let mut found_at = |name: &str, finder: &Finder| {
            let slot = first(found, &finder.slots);
            let written = found.text(slot, input).to_owned();
            let mut text = String::new();
            if slot.kind != Kind::Composite {
                text::transform(&written, &finder.transforms, &mut text, spare);
            }
            FoundAt { name: name.to_owned(), kind: FoundKind::of(slot), written, text }
        };
        let mut places = Vec::with_capacity(2 + plan.fields.len());
        places.push(match &plan.customer {
            Customer::Constant(text) => FoundAt {
                name: "customer".to_owned(),
                kind: FoundKind::Constant,
                written: text.clone(),
                text: text.clone(),
            },
            Customer::Found { finder, .. } => found_at("customer", finder),
        });
        places.push(found_at("event_time", &Finder { slots: plan.event_time.clone(), transforms: Vec::new() }));
        places.extend(plan.fields.iter().map(|field| found_at(&field.name, &field.finder)));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;

    const JOB: &str = r#"name = "test"
[source]
topics = ["events"]
[source.kafka]
"bootstrap.servers" = "127.0.0.1:9092"
[tables]
url = "tables/test"
[event]
format = "json"
customer = { pointer = "/c" }
event_time = { first_of = ["/t", "/time"] }
[event.fields.page]
pointer = "/url"
transform = ["url_path"]
[event.fields.kind]
pointer = "/k"
[event.fields.unused]
pointer = "/u"
[[where]]
field = "kind"
not = { equals = "ping" }
[dimensions.page]
granularities = ["day"]
"#;

    fn explained(value: &str) -> Explained {
        let job = Job::parse(JOB, "test.toml", &|_| None).expect("a job");
        Decoder::new(&job.logic).explain(RecordRef { value: Some(value.as_bytes()), ..RecordRef::default() })
    }

    fn places(value: &str) -> Vec<(String, &'static str, String, String)> {
        let place = |place: FoundAt| (place.name, place.kind.name(), place.written, place.text);
        explained(value).places.into_iter().map(place).collect()
    }

    fn place(name: &str, kind: &'static str, written: &str, text: &str) -> (String, &'static str, String, String) {
        (name.to_owned(), kind, written.to_owned(), text.to_owned())
    }

    #[test]
    fn every_place_that_is_used_is_explained() {
        let value = r#"{"c":"a\u00e9","time":"2026-01-13T04:05:06Z","url":"http://h/x?y","k":7,"u":1}"#;
        let expected = [
            place("customer", "text", "aé", "aé"),
            place("event_time", "text", "2026-01-13T04:05:06Z", "2026-01-13T04:05:06Z"),
            place("kind", "number", "7", "7"),
            place("page", "text", "http://h/x?y", "/x"),
        ];
        assert_eq!(places(value), expected);
        let explained = explained(value);
        assert_eq!(
            (explained.outcome, explained.event.values),
            (Outcome::Counted, vec!["/x".to_owned(), String::new()])
        );
        let expected = [
            place("customer", "empty", "", ""),
            place("event_time", "missing", "", ""),
            place("kind", "null", "", ""),
            place("page", "object or array", "{}", ""),
        ];
        assert_eq!(places(r#"{"c":"","url":{},"k":null}"#), expected);
    }

    #[test]
    fn what_is_filtered_names_its_condition_and_what_is_no_record_has_no_places() {
        let filtered = explained(r#"{"c":"a","t":"2026-01-13T04:05:06Z","k":"ping"}"#);
        assert_eq!((filtered.outcome, filtered.condition), (Outcome::Filtered, Some(0)));
        let rejected = explained("not JSON");
        assert_eq!((rejected.outcome.name(), rejected.condition, rejected.places.len()), ("rejected", None, 0));
    }
}
