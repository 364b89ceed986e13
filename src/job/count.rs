//! Reads `[[where]]`, `[dimensions]` and `[granularities]`: which records are left out, and what is counted.
//!
//! In: the sections of a job file. Out: filters, dimensions and graces, or the first fault. Pure.

use super::error::{JobError, did_you_mean};
use super::event::checked_name;
use super::logic::{Condition, Dimension, Field, Filter, Logic};
use super::read::{Section, Value};
use crate::model::Granularity;

/// Granularities that have late records, with their default grace in seconds.
const GRACES: [(Granularity, i64); 3] = [(Granularity::Minute, 20), (Granularity::Hour, 60), (Granularity::Day, 300)];

/// Grace is at most a day: it only decides when a record is published.
const GRACE_SECONDS_MAX: u64 = 86_400;

const CONDITIONS: [&str; 5] = ["equals", "in", "prefix", "exists", "not"];

pub(super) fn filters(root: &Section<'_>, fields: &[Field]) -> Result<Vec<Filter>, JobError> {
    let Some(value) = root.get("where") else { return Ok(Vec::new()) };
    let mut filters: Vec<Filter> = Vec::new();
    for item in value.list("conditions")? {
        let section = item.section(&["field", "equals", "in", "prefix", "exists", "not"])?;
        let field = field(&section.need("field", "the name of a field")?, fields)?;
        let filter = Filter { field, condition: condition(&section, &CONDITIONS)? };
        if filters.contains(&filter) {
            return Err(item.fault("the same condition twice", "each condition once"));
        }
        filters.push(filter);
    }
    Ok(filters)
}

fn condition(section: &Section<'_>, known: &[&'static str]) -> Result<Condition, JobError> {
    let kind = section.exactly_one(known)?;
    let value = section.need(kind, "a condition")?;
    Ok(match kind {
        "equals" => Condition::Equals(text(&value)?),
        "in" => Condition::In(value.distinct("strings", text)?),
        "prefix" => Condition::Prefix(text(&value)?),
        "exists" => Condition::Exists(value.boolean()?),
        _ => {
            // `not` inside `not` would only obscure what is meant.
            let known = &CONDITIONS[..4];
            Condition::Not(Box::new(condition(&value.section(known)?, known)?))
        }
    })
}

fn text(value: &Value<'_>) -> Result<String, JobError> {
    if value.is_empty_string() {
        return Err(value.fault("an empty string", "a non-empty string; to match absent fields, use exists = false"));
    }
    value.text()
}

fn field(value: &Value<'_>, fields: &[Field]) -> Result<usize, JobError> {
    let name = value.text()?;
    find(&name, fields).ok_or_else(|| {
        let hint = did_you_mean(&name, fields.iter().map(|field| field.name.as_str()));
        value.fault(format!("{name:?}"), format!("the name of a field in [event.fields]{hint}"))
    })
}

fn find(name: &str, fields: &[Field]) -> Option<usize> {
    fields.iter().position(|field| field.name == name)
}

pub(super) fn dimensions(root: &Section<'_>, fields: &[Field]) -> Result<Vec<Dimension>, JobError> {
    let mut dimensions = Vec::new();
    if let Some(value) = root.get("dimensions") {
        for (name, value) in value.entries()? {
            dimensions.push(dimension(checked_name(name, &value)?, &value, fields)?);
        }
    }
    if !dimensions.iter().any(|dimension| dimension.name == Logic::TOTAL) {
        let granularities = Granularity::ALL.to_vec();
        dimensions.push(Dimension { name: Logic::TOTAL.to_owned(), field: None, granularities });
    }
    dimensions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(dimensions)
}

fn dimension(name: String, value: &Value<'_>, fields: &[Field]) -> Result<Dimension, JobError> {
    let section = value.section(&["field", "granularities"])?;
    let field = match (name == Logic::TOTAL, section.get("field")) {
        (true, None) => None,
        (true, Some(value)) => return Err(value.not("no field: `total` counts every event")),
        (false, Some(value)) => Some(field(&value, fields)?),
        (false, None) => Some(find(&name, fields).ok_or_else(|| {
            let hint = did_you_mean(&name, fields.iter().map(|field| field.name.as_str()));
            value.fault("no `field`, and no field with the dimension's own name", format!("field = \"…\"{hint}"))
        })?),
    };
    let list = section.need("granularities", "a list of granularities, as in [\"minute\", \"hour\", \"day\"]")?;
    let mut granularities = list.distinct("granularities", granularity)?;
    granularities.sort_unstable();
    if granularities.first().is_none_or(|finest| *finest > Granularity::Day) {
        return Err(list.fault("only granularities longer than a day", "at least one of minute, hour, day"));
    }
    Ok(Dimension { name, field, granularities })
}

fn granularity(value: &Value<'_>) -> Result<Granularity, JobError> {
    value.one_of(&Granularity::ALL.map(|granularity| (granularity.name(), granularity)))
}

/// `[granularities.NAME]`: the grace of each granularity, in µs.
pub(super) fn graces_us(root: &Section<'_>) -> Result<[i64; 3], JobError> {
    let mut seconds = GRACES.map(|(_, seconds)| seconds);
    if let Some(value) = root.get("granularities") {
        for (name, value) in value.entries()? {
            let index = GRACES.iter().position(|(granularity, _)| granularity.name() == name).ok_or_else(|| {
                let hint = did_you_mean(name, GRACES.map(|(granularity, _)| granularity.name()));
                let expected = "one of minute, hour, day (week, month and year have no late records)";
                value.fault("a granularity without grace", format!("{expected}{hint}"))
            })?;
            let default = seconds[index] as u64;
            let section = value.section(&["grace_seconds"])?;
            seconds[index] = section.integer("grace_seconds", default, 0..=GRACE_SECONDS_MAX)? as i64;
        }
    }
    Ok(seconds.map(|seconds| seconds * 1_000_000))
}
