//! The facts that a check finds.
//!
//! In: a job, and the records of a sample, one by one. Out: [`Check`], which is printed as one JSON object with stable names, or as text.
//! State: counts for each field, condition and reason, and the records that are shown. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decode::{Decoder, Explained, FoundKind};
use crate::job::{Condition, Job, Logic, Start};
use crate::model::{Outcome, Reason, RecordRef, Zone, rfc3339_us};

/// What a check found out about a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The file, as the user named it.
    pub job_file: String,
    /// The job's name.
    pub job: String,
    /// Its topics.
    pub topics: Vec<String>,
    /// Where a first start begins: `earliest`, `latest` or a time.
    pub start: String,
    /// Where the tables are, or would be.
    pub tables_url: String,
    /// The dimensions that are counted.
    pub dimensions: Vec<DimensionFacts>,
    /// Fields that no dimension and no condition uses; the decoder does not look for them.
    pub unused_fields: Vec<String>,
    /// The outcomes of the sample; null without a sample.
    pub sample: Option<SampleFacts>,
}

/// A dimension that is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DimensionFacts {
    /// Its name.
    pub dimension: String,
    /// The field that its values come from; null for `total`.
    pub field: Option<String>,
    /// The granularities of its windows, finest first.
    pub granularities: Vec<&'static str>,
}

/// The outcomes of a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SampleFacts {
    /// The file, `stdin`, or the topics.
    pub from: String,
    /// The number of records.
    pub records: u64,
    /// Records that would be counted.
    pub counted_records: u64,
    /// Records that a condition leaves out.
    pub filtered_records: u64,
    /// Records that can not be counted.
    pub rejected_records: u64,
    /// What was found for each name in the job file, over all records that can be read as a whole.
    pub fields: Vec<FieldFacts>,
    /// The conditions that leave records out.
    pub filters: Vec<ConditionFacts>,
    /// Why records are rejected: one entry for each reason and field, in the order in which the decoder checks reasons.
    pub rejections: Vec<RejectionFacts>,
    /// The first records, with everything that was found in them.
    pub shown: Vec<RecordFacts>,
}

/// How often something was found for a name in the job file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FieldFacts {
    /// `customer`, `event_time`, or the name of a field.
    pub field: String,
    /// Records with a value that can be counted.
    pub present_records: u64,
    /// Records without a value at any of its places.
    pub missing_records: u64,
    /// Records with null or an empty text.
    pub empty_records: u64,
}

/// A condition of `[[where]]` that leaves records out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConditionFacts {
    /// Its index among the conditions of the file, from 0.
    pub index: usize,
    /// The field that it tests.
    pub field: String,
    /// The condition, as in the job file.
    pub condition: String,
    /// Records for which it is the first condition that does not hold.
    pub records: u64,
    /// The first of these records.
    pub example: Position,
}

/// Why records are rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectionFacts {
    /// The reason, as in `raw`.
    pub reason: &'static str,
    /// The field that is wrong; null if the whole value is wrong.
    pub field: Option<String>,
    /// How many records.
    pub records: u64,
    /// The first of these records.
    pub example: Position,
    /// What was expected there.
    pub expected: String,
    /// What was found there.
    pub found: String,
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Position {
    /// In a file.
    Line {
        /// The line, from 1.
        line: u64,
    },
    /// In Kafka.
    Offset {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
}

/// A record with everything that was found in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordFacts {
    /// Where it is.
    pub position: Position,
    /// `counted`, `filtered` or `rejected`.
    pub outcome: &'static str,
    /// The event time as it was read, in RFC 3339; null if it could not be read.
    pub event_time: Option<String>,
    /// What was found for each name in the job file; empty if the value as a whole can not be read.
    pub found: Vec<FoundFacts>,
    /// The cells of `counts` to which it adds one; empty unless it is counted.
    pub cells: Vec<CellFacts>,
}

/// What was found for a name in the job file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundFacts {
    /// `customer`, `event_time`, or the name of a field.
    pub field: String,
    /// `missing`, `null`, `empty`, `text`, `number`, `boolean`, `object or array` or `constant`.
    pub kind: &'static str,
    /// The value as it is written in the record.
    pub written: String,
    /// The text after the transforms.
    pub text: String,
}

/// A cell of `counts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CellFacts {
    /// The granularity of the window.
    pub granularity: &'static str,
    /// Start of the window, in RFC 3339.
    pub window_start: String,
    /// The dimension.
    pub dimension: String,
    /// Its value.
    pub dimension_value: String,
}

impl Check {
    /// The facts of a job file, without a sample.
    pub fn of(job: &Job, job_file: String) -> Check {
        let logic = &job.logic;
        let name_of = |field: usize| logic.fields[field].name.clone();
        let dimensions = logic.dimensions.iter().map(|dimension| DimensionFacts {
            dimension: dimension.name.clone(),
            field: dimension.field.map(name_of),
            granularities: dimension.granularities.iter().map(|granularity| granularity.name()).collect(),
        });
        let is_used = |field: usize| {
            logic.dimensions.iter().any(|dimension| dimension.field == Some(field))
                || logic.filters.iter().any(|filter| filter.field == field)
        };
        Check {
            job_file,
            job: job.name.clone(),
            topics: job.source.topics.clone(),
            start: match job.source.start {
                Start::Earliest => "earliest".to_owned(),
                Start::Latest => "latest".to_owned(),
                Start::Time { ms } => rfc3339_us(ms.saturating_mul(1000)),
            },
            tables_url: job.tables.url.clone(),
            dimensions: dimensions.collect(),
            unused_fields: (0..logic.fields.len()).filter(|field| !is_used(*field)).map(name_of).collect(),
            sample: None,
        }
    }

    /// The result for programs, on one line. Control characters are escaped, including those that JSON permits.
    pub fn json(&self) -> String {
        let text = serde_json::to_string(self).expect("names, texts and numbers can be written");
        let mut out = String::with_capacity(text.len() + 1);
        for c in text.chars() {
            // At this point they can only be inside a string.
            if is_unprintable(c) && (c as u32) < 0x1_0000 {
                out.push_str(&format!("\\u{:04x}", c as u32));
            } else {
                out.push(c);
            }
        }
        out.push('\n');
        out
    }
}

/// Collects the outcomes of a sample, record by record.
pub(super) struct Collector<'j> {
    logic: &'j Logic,
    decoder: Decoder,
    show: usize,
    facts: SampleFacts,
    filters: BTreeMap<usize, ConditionFacts>,
    rejections: BTreeMap<(Reason, Option<String>), RejectionFacts>,
}

impl<'j> Collector<'j> {
    pub(super) fn new(job: &'j Job, from: String, show: usize) -> Collector<'j> {
        Collector {
            logic: &job.logic,
            decoder: Decoder::new(&job.logic),
            show,
            facts: SampleFacts { from, ..SampleFacts::default() },
            filters: BTreeMap::new(),
            rejections: BTreeMap::new(),
        }
    }

    /// The number of records so far.
    pub(super) fn records(&self) -> u64 {
        self.facts.records
    }

    pub(super) fn add(&mut self, record: RecordRef<'_>, position: Position) {
        let explained = self.decoder.explain(record);
        self.facts.records += 1;
        match &explained.outcome {
            Outcome::Counted => self.facts.counted_records += 1,
            Outcome::Filtered => {
                self.facts.filtered_records += 1;
                if let Some(index) = explained.condition {
                    let filter = &self.logic.filters[index];
                    let facts = self.filters.entry(index).or_insert_with(|| ConditionFacts {
                        index,
                        field: self.logic.fields[filter.field].name.clone(),
                        condition: written(&filter.condition),
                        records: 0,
                        example: position.clone(),
                    });
                    facts.records += 1;
                }
            }
            Outcome::Rejected(rejection) => {
                self.facts.rejected_records += 1;
                let key = (rejection.reason, rejection.field.clone());
                let facts = self.rejections.entry(key).or_insert_with(|| RejectionFacts {
                    reason: rejection.reason.name(),
                    field: rejection.field.clone(),
                    records: 0,
                    example: position.clone(),
                    expected: rejection.expected.clone(),
                    found: rejection.found.clone(),
                });
                facts.records += 1;
            }
        }
        for (index, place) in explained.places.iter().enumerate() {
            if self.facts.fields.len() == index {
                self.facts.fields.push(FieldFacts { field: place.name.clone(), ..FieldFacts::default() });
            }
            let facts = &mut self.facts.fields[index];
            match place.kind {
                kind if kind.is_present() => facts.present_records += 1,
                FoundKind::Missing => facts.missing_records += 1,
                _ => facts.empty_records += 1,
            }
        }
        if self.facts.shown.len() < self.show {
            let facts = record_facts(self.logic, explained, position);
            self.facts.shown.push(facts);
        }
    }

    pub(super) fn finish(mut self) -> SampleFacts {
        self.facts.filters = self.filters.into_values().collect();
        // By the order in which the decoder checks reasons, not by the alphabet.
        let rank = |reason: Reason| Reason::ALL.iter().position(|other| *other == reason);
        let mut rejections: Vec<_> = self.rejections.into_iter().collect();
        rejections.sort_by_key(|((reason, _), _)| rank(*reason));
        self.facts.rejections = rejections.into_iter().map(|(_, facts)| facts).collect();
        self.facts
    }
}

fn record_facts(logic: &Logic, explained: Explained, position: Position) -> RecordFacts {
    let Explained { outcome, event, places, .. } = explained;
    let mut cells = Vec::new();
    if let (Outcome::Counted, Some(time)) = (&outcome, event.event_time) {
        for (dimension, value) in logic.dimensions.iter().zip(&event.values) {
            for granularity in &dimension.granularities {
                cells.push(CellFacts {
                    granularity: granularity.name(),
                    window_start: rfc3339_us(granularity.window_start(time, Zone::Utc)),
                    dimension: dimension.name.clone(),
                    dimension_value: value.clone(),
                });
            }
        }
    }
    let found = places.into_iter().map(|place| FoundFacts {
        field: place.name,
        kind: place.kind.name(),
        written: place.written,
        text: place.text,
    });
    RecordFacts {
        position,
        outcome: outcome.name(),
        event_time: event.event_time.map(rfc3339_us),
        found: found.collect(),
        cells,
    }
}

/// A condition as a job file writes it.
fn written(condition: &Condition) -> String {
    match condition {
        Condition::Equals(text) => format!("equals = {text:?}"),
        Condition::In(texts) => format!("in = {texts:?}"),
        Condition::Prefix(text) => format!("prefix = {text:?}"),
        Condition::Exists(exists) => format!("exists = {exists}"),
        Condition::Not(inner) => format!("not = {{ {} }}", written(inner)),
    }
}

/// Whether a terminal may interpret a character, or the character hides or reorders the text beside it. No text of a record may show it
/// unescaped.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
