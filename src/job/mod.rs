//! Job files: from TOML to types that can not be invalid.
//!
//! A job says where records come from, where the tables are, what is counted (its [`Logic`]), and at what pace.
//!
//! In: the text of a job file, and the environment, whose values replace `${NAME}` and `${NAME:-default}`. Out: a [`Job`], or the first
//! fault with file, line, column, key, what was found and what was expected. Unknown keys are refused. Values of options that may be secret
//! are never printed. Pure, except that [`Job::load`] reads the file.
//!
//! ```text
//! name                                 of the job
//! [source]         topics, start       [source.kafka]     librdkafka's properties
//! [tables]         url, buckets        [tables.options]   object_store's options
//! [event]          format, line, unwrap, customer, event_time, record_bytes_max
//!                                      customer: constant | pointer | field | first_of, transform, integers
//!                                      event_time: pointer | field | first_of, format, assume_offset
//! [event.fields.NAME]                  pointer | field | first_of, transform
//! [[where]]                            field, equals | in | prefix | exists | not
//! [dimensions.NAME]                    field, granularities
//! [granularities.NAME]                 grace_seconds
//! [lanes.NAME]                         publish_seconds
//! [settings]                           epoch_seconds, …
//! ```

mod count;
mod error;
mod event;
mod expand;
pub(crate) mod line;
pub(crate) mod line_names;
mod line_source;
mod logic;
mod pattern;
mod read;
mod redact;
mod settings;
mod source;
mod tables;
pub(crate) mod variable;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use error::{Fault, JobError};
pub use logic::{
    COUNTING, Condition, Dimension, Field, FieldSpec, Filter, Format, LineField, Logic, Place, TimeFormat, Transform,
    UnixUnit,
};
pub use pattern::Pattern;
pub use settings::{INTERVAL_SECONDS_MAX, Settings};
pub use source::{Source, Start};
pub use tables::Tables;

use read::{File, Section};

/// A checked job file.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The job's name, used in logs and in client names.
    pub name: String,
    /// Where records come from.
    pub source: Source,
    /// Where the tables are.
    pub tables: Tables,
    /// What is counted.
    pub logic: Logic,
    /// Pace and limits.
    pub settings: Settings,
}

impl Job {
    /// Reads a job file; values come from the environment of this process.
    ///
    /// # Errors
    /// The file can not be read, or something in it is wrong.
    pub fn load(path: &Path) -> Result<Job, JobError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| JobError::Read { file: file.clone(), source })?;
        Job::parse(&text, &file, &|name| std::env::var(name).ok())
    }

    /// Reads the text of a job file; `file` is its name in errors, and `env` the environment.
    ///
    /// # Errors
    /// Something in the text is wrong.
    pub fn parse(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Job, JobError> {
        let file = File { name: file, text, env };
        let document = file.document()?;
        let root = Section::root(
            &file,
            document.get_ref(),
            &["name", "source", "tables", "event", "where", "dimensions", "granularities", "lanes", "settings"],
        )?;
        let name = name(&root)?;
        let source = source::read(&root)?;
        let tables = tables::read(&root)?;
        let event = event::read(&root)?;
        let filters = count::filters(&root, &event.fields)?;
        let dimensions = count::dimensions(&root, &event.fields)?;
        let logic = Logic {
            format: event.format,
            line: event.line,
            unwrap: event.unwrap,
            customer: event.customer,
            customer_integers: event.customer_integers,
            event_time: event.event_time,
            time_format: event.time_format,
            assume_offset_seconds: event.assume_offset_seconds,
            fields: event.fields,
            filters,
            dimensions,
            graces_us: count::graces_us(&root)?,
            record_bytes_max: event.record_bytes_max,
        };
        Ok(Job { name, source, tables, logic, settings: settings::read(&root)? })
    }
}

fn name(root: &Section<'_>) -> Result<String, JobError> {
    let value = root.need("name", "the job's name")?;
    let name = value.text()?;
    if name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(value.fault(format!("{name:?}"), "at most 64 letters, digits, `-`, `_` and `.`"));
    }
    Ok(name)
}
