//! What other programs have done to a table: taken in or refused by fixed rules. Nothing is misread or guessed.
//!
//! In: the actions of a table's log ([`super::load`] reads them), with who committed them. Out: nothing, or a
//! [`TableError::Invalid`] with the version, what was found, what was expected, what to do. Time: it is checked whenever versions
//! were read, at a start and during a run. Only the newest version is judged, so a change that was taken back is forgotten. A
//! commit is ours when its `engineInfo` says floodmark. State: changes of files by others, since the checkpoint that was read.
//!
//! | found | in `raw` | in `counts` |
//! |---|---|---|
//! | a protocol above reader 1 and writer 2, except for features that change nothing for us | refused | refused |
//! | deletion vectors, column mapping, absolute paths (a shallow clone), files without statistics | refused | refused |
//! | a column added, removed, retyped, made nullable or not, with a rule of its own; other partition columns; not Parquet | refused | refused |
//! | `floodmark.format` above ours | refused | refused |
//! | other properties, comments, the order of columns, transactions, a checkpoint in one piece, vacuum, new statistics of a file | taken in | taken in |
//! | files rewritten with the same number of rows and no change of data (OPTIMIZE) | taken in | refused |
//! | files or rows deleted (DELETE) | taken in: `verify` says what is gone | refused |
//! | rows added or changed | refused | refused |
//!
//! Merging relies on the order of the rows of `counts`, and on its transactions, which say what it holds. So whatever another
//! program writes there is refused: even a sorted file with the same rows can not be distinguished from one that is wrong.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Deserialize;
use serde_json::Value;

use super::error::TableError;
use super::seen::{FEATURES, FORMAT, FORMAT_NEWEST, Origin, READER, WRITER};
use super::state::{Definition, File, State};
use super::{counts, raw};

/// Metadata of a column that its writers must obey.
const COLUMN_RULES: [&str; 3] = ["delta.invariants", "delta.generationExpression", "delta.identity.start"];

/// Why a file of `raw` that another program wrote can not be used: it lacks statistics that we rely on.
pub(super) fn lacks(table: &str, file: &File) -> Option<String> {
    if table != "raw" || raw::Kind::of_file(file).is_some() {
        return None;
    }
    let bounded = raw::epochs_of(file).is_ok() && raw::ingested_of(file).is_ok();
    (!bounded).then(|| "its statistics lack the bounds of epoch and ingested_at".to_owned())
}

/// Checks that `state` can be read and written correctly.
///
/// # Errors
/// [`TableError::Invalid`] when it can not.
pub(super) fn check(table: &str, url: &url::Url, state: &State) -> Result<(), TableError> {
    let seen = &state.seen;
    let refuse = |by: &Origin, found: &str, expected: &str, to_do: &str| {
        Err(TableError::Invalid(format!("table {table} at {url}, {by}: found {found}; expected {expected}. {to_do}")))
    };
    if let Some((protocol, by)) = seen.protocol.as_ref().filter(|(protocol, _)| !protocol.is_known()) {
        return refuse(
            by,
            &format!("a Delta protocol with {}", protocol.said()),
            &format!(
                "reader version {READER} and writer version {WRITER}, or no features other than {}",
                FEATURES.join(" and ")
            ),
            "Drop the features with the program that enabled them (in Spark ALTER TABLE … DROP FEATURE), or continue \
             with an earlier copy of the tables",
        );
    }
    check_metadata(table, state, &refuse)?;
    if let Some(((path, _), (why, by))) = seen.unreadable.first_key_value() {
        return refuse(
            by,
            &format!("file {path}, which can not be read correctly: {why}"),
            "Parquet files in the table's folder, with their number of rows in the log, and without deletion vectors",
            &take_back(by),
        );
    }
    if let Some((path, change)) = seen.changed.iter().find(|(_, change)| !change.taken_in) {
        let found = format!("file {path} {}", if change.added { "added" } else { "removed" });
        let expected = match table {
            "raw" => "other programs to leave the archive's rows unchanged, or only to delete rows",
            _ => "only Floodmark to change the files of counts",
        };
        return refuse(&change.by, &found, expected, &take_back(&change.by));
    }
    Ok(())
}

fn take_back(by: &Origin) -> String {
    if by.checkpoint {
        return "Restore the version before that change with the program that made it, and start again; or continue \
            with an earlier copy of the tables"
            .to_owned();
    }
    format!(
        "Undo this change: restore version {before} (in Python DeltaTable(URL).restore({before}), in Spark RESTORE \
         TABLE … TO VERSION AS OF {before}), and start again",
        before = by.before()
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    format: Option<Format>,
    schema_string: String,
    #[serde(default)]
    partition_columns: Vec<String>,
}

#[derive(Deserialize)]
struct Format {
    provider: String,
}

#[derive(Deserialize)]
struct Schema {
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    r#type: Value,
    nullable: bool,
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
}

fn check_metadata(
    table: &str,
    state: &State,
    refuse: &impl Fn(&Origin, &str, &str, &str) -> Result<(), TableError>,
) -> Result<(), TableError> {
    let Some(by) = &state.seen.metadata else { return Ok(()) };
    let property = |name: &str| state.properties.get(name).map(String::as_str);
    if let Some(format) = property(FORMAT)
        && format.parse::<u32>().is_ok_and(|format| format > FORMAT_NEWEST)
    {
        return refuse(
            by,
            &format!("{FORMAT} = {format}: a newer build of Floodmark has created or changed the table"),
            &format!("{FORMAT_NEWEST} at most"),
            "Use that build, or a newer one",
        );
    }
    if let Some(mode) = property("delta.columnMapping.mode").filter(|mode| *mode != "none") {
        return refuse(
            by,
            &format!("delta.columnMapping.mode = {mode}"),
            "columns that have the same names in the files as in the table",
            "Set the mode to none with the program that changed it, or continue with an earlier copy of the tables",
        );
    }
    let Some(definition) = definition_of(table) else { return Ok(()) };
    if property(FORMAT).is_some_and(|format| !format.parse::<u32>().is_ok_and(|format| format > 0)) {
        let found = format!("{FORMAT} = {:?}", property(FORMAT).unwrap_or_default());
        return refuse(by, &found, "a whole number of at least 1", "Set it to its previous value, or remove it");
    }
    if table == "counts" && property("delta.appendOnly") == Some("true") {
        let expected = "a table whose files may be replaced";
        return refuse(by, "delta.appendOnly = true", expected, "Set it to false: commits to counts replace files");
    }
    let corrupt = |error: &dyn Display| TableError::Corrupt {
        table: table.to_owned(),
        what: format!("its metaData of {by}: {error}"),
    };
    let metadata: Metadata = serde_json::from_str(&state.metadata).map_err(|error| corrupt(&error))?;
    let found: Schema = serde_json::from_str(&metadata.schema_string).map_err(|error| corrupt(&error))?;
    let wanted = definition.delta_schema().map_err(|error| corrupt(&error))?;
    let wanted: Schema = serde_json::from_str(&wanted).map_err(|error| corrupt(&error))?;
    let provider = metadata.format.map_or_else(|| "parquet".to_owned(), |format| format.provider);
    let differs = columns_differ(&found.fields, &wanted.fields)
        .or_else(|| {
            let found = metadata.partition_columns.join(", ");
            let wanted = definition.partitioned_by.join(", ");
            (found != wanted).then(|| (format!("partition columns {found}"), wanted))
        })
        .or_else(|| (provider != "parquet").then(|| (format!("files of format {provider}"), "parquet".to_owned())));
    match differs {
        None => Ok(()),
        Some((found, wanted)) => {
            let to_do =
                format!("{}; or, if this table does not belong to a job, choose another tables.url", take_back(by));
            refuse(by, &found, &wanted, &to_do)
        }
    }
}

/// The first difference: what was found, what was expected. The order of columns does not matter.
fn columns_differ(found: &[Field], wanted: &[Field]) -> Option<(String, String)> {
    for wanted in wanted {
        let name = &wanted.name;
        let Some(found) = found.iter().find(|found| found.name == *name) else {
            return Some((format!("no column {name}"), format!("one of type {}", wanted.r#type)));
        };
        if found.r#type != wanted.r#type {
            return Some((format!("column {name} of type {}", found.r#type), format!("type {}", wanted.r#type)));
        }
        if found.nullable != wanted.nullable {
            let may = |nullable| if nullable { "that may be null" } else { "that is never null" };
            return Some((format!("column {name} {}", may(found.nullable)), format!("one {}", may(wanted.nullable))));
        }
        if let Some(rule) = COLUMN_RULES.iter().find(|rule| found.metadata.contains_key(**rule)) {
            return Some((format!("column {name} with {rule}"), "columns without rules of their own".to_owned()));
        }
    }
    let theirs = found.iter().find(|found| wanted.iter().all(|wanted| wanted.name != found.name))?;
    let names: Vec<&str> = wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    Some((format!("column {}, which is not one of Floodmark's", theirs.name), names.join(", ")))
}

/// The definition of our table with this name; `None` for a table of another program.
pub(super) fn definition_of(table: &str) -> Option<Definition> {
    match table {
        "raw" => Some(raw::definition()),
        // The number of buckets is not compared.
        "counts" => Some(counts::definition(1)),
        _ => None,
    }
}
