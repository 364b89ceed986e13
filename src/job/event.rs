//! Reads `[event]`: format, line, unwrap, customer, event time and fields.
//!
//! In: the sections of a job file. Out: where each of these is found in a record, or the first fault. Pure.

use chrono::FixedOffset;

use super::error::{JobError, did_you_mean};
use super::line::LineFormat;
use super::logic::{Field, FieldSpec, Format, LineField, Logic, Place, TimeFormat, Transform, UnixUnit};
use super::pattern::Pattern;
use super::read::{Section, Value};
use super::variable::LineTime;

const FORMATS: [(&str, Format); 2] = [("json", Format::Json), ("access_log", Format::AccessLog)];
const TRANSFORMS: [(&str, Transform); 3] =
    [("url_host", Transform::UrlHost), ("url_path", Transform::UrlPath), ("lower_case", Transform::LowerCase)];

/// 1 GiB: the largest value that Kafka and Parquet can still hold.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// Names that have a meaning of their own in outcomes and tables.
const RESERVED: [&str; 3] = ["customer", "event_time", Logic::TOTAL];

/// Longest name of a field or dimension, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The content of `[event]`.
pub(super) struct EventSection {
    pub(super) format: Format,
    pub(super) line: Option<String>,
    pub(super) unwrap: Option<Vec<String>>,
    pub(super) customer: FieldSpec,
    pub(super) customer_integers: bool,
    pub(super) event_time: Vec<Place>,
    pub(super) time_format: TimeFormat,
    pub(super) assume_offset_seconds: Option<i32>,
    pub(super) fields: Vec<Field>,
    pub(super) record_bytes_max: usize,
}

/// What a place can be in this job: a pointer, or a field of a line.
struct Shape {
    format: Format,
    /// The format of the lines, if the job describes it.
    line: Option<LineFormat>,
}

pub(super) fn read(root: &Section<'_>) -> Result<EventSection, JobError> {
    let section = root.need("event", "a section [event]")?.section(&[
        "format",
        "line",
        "unwrap",
        "customer",
        "event_time",
        "record_bytes_max",
        "fields",
    ])?;
    let format = section.need("format", "\"json\" or \"access_log\"")?.one_of(&FORMATS)?;
    let line = section.get("line").map(|value| line(&value, format)).transpose()?;
    let (line, described) = line.unzip();
    let shape = Shape { format, line: described };
    let unwrap = section.get("unwrap").map(|value| pointer(&value)).transpose()?;
    let example = match format {
        Format::Json => "{ pointer = \"/…\" }",
        Format::AccessLog => "{ field = \"…\" }",
    };
    let customer = section.need("customer", &format!("the place of the customer, as in {example}"))?;
    let (customer, customer_integers) = customer_spec(&customer, &shape)?;
    let event_time = section.need("event_time", &format!("the place of the event time, as in {example}"))?;
    let Time { places: event_time, format: time_format, assume_offset_seconds } = time(&event_time, &shape)?;
    let mut fields = Vec::new();
    if let Some(value) = section.get("fields") {
        for (name, value) in value.entries()? {
            let name = checked_name(name, &value)?;
            if RESERVED.contains(&name.as_str()) {
                return Err(value.fault(format!("the name {name:?}"), "another name: this one is reserved"));
            }
            let known = ["pointer", "field", "first_of", "transform"];
            let spec = spec(&value.section(&known)?, &shape, &known[..3])?;
            fields.push(Field { name, spec });
        }
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let record_bytes_max = section.integer("record_bytes_max", 1 << 20, 1..=RECORD_BYTES_MAX)? as usize;
    Ok(EventSection {
        format,
        line,
        unwrap,
        customer,
        customer_integers,
        event_time,
        time_format,
        assume_offset_seconds,
        fields,
        record_bytes_max,
    })
}

/// The name of a field or dimension. It is used in tables and in SQL, so it is restricted.
pub(super) fn checked_name(name: &str, value: &Value<'_>) -> Result<String, JobError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.len() > NAME_BYTES_MAX
        || !name.starts_with(|first: char| first.is_ascii_lowercase())
        || !name.bytes().all(legal)
    {
        let expected = format!("at most {NAME_BYTES_MAX} characters from a-z, 0-9 and `_`, beginning with a letter");
        return Err(value.fault(format!("the name {name:?}"), expected));
    }
    Ok(name.to_owned())
}

/// The format of lines: its text, as in the server's configuration, and the text parsed.
fn line(value: &Value<'_>, format: Format) -> Result<(String, LineFormat), JobError> {
    if format != Format::AccessLog {
        return Err(value.fault("`line`", "no such key: it applies only to format = \"access_log\""));
    }
    let text = value.text().map_err(|mut error| {
        if let JobError::Invalid(fault) = &mut error
            && fault.found.contains("${")
        {
            fault.expected.push_str("; write a variable of nginx as `$name` or `$${name}` here");
        }
        error
    })?;
    let described = LineFormat::parse(&text).map_err(|(found, expected)| value.fault(found, expected))?;
    Ok((text, described))
}

/// The customer, and whether it may be an integer.
fn customer_spec(value: &Value<'_>, shape: &Shape) -> Result<(FieldSpec, bool), JobError> {
    let section = value.section(&["constant", "pointer", "field", "first_of", "transform", "integers"])?;
    let spec = spec(&section, shape, &["constant", "pointer", "field", "first_of"])?;
    let Some(value) = section.get("integers") else { return Ok((spec, false)) };
    if shape.format != Format::Json || matches!(spec, FieldSpec::Constant(_)) {
        return Err(value.fault("`integers`", "no such key: it applies only to customers found in JSON"));
    }
    Ok((spec, value.boolean()?))
}

/// `choices` are the keys of which exactly one says where the text is.
fn spec(section: &Section<'_>, shape: &Shape, choices: &[&'static str]) -> Result<FieldSpec, JobError> {
    if section.exactly_one(choices)? == "constant" {
        if let Some(transform) = section.get("transform") {
            return Err(transform.fault("a transform of a constant", "no transform: write the transformed constant"));
        }
        return Ok(FieldSpec::Constant(section.need("constant", "a string")?.text()?));
    }
    let transforms = match section.get("transform") {
        Some(list) => list.distinct("transforms", |item| item.one_of(&TRANSFORMS))?,
        None => Vec::new(),
    };
    Ok(FieldSpec::Found { places: places(section, shape)?, transforms })
}

/// Where the event time is, and how it is written.
struct Time {
    places: Vec<Place>,
    format: TimeFormat,
    assume_offset_seconds: Option<i32>,
}

fn time(value: &Value<'_>, shape: &Shape) -> Result<Time, JobError> {
    let section = value.section(&["pointer", "field", "first_of", "format", "assume_offset"])?;
    section.exactly_one(&["pointer", "field", "first_of"])?;
    let places = places(&section, shape)?;
    let written = section.get("format");
    let in_line = match (shape.format, &shape.line) {
        (Format::Json, _) => None,
        (Format::AccessLog, None) if places == [Place::Line(LineField::Time)] => None,
        (Format::AccessLog, None) => return Err(value.fault("a field other than `time`", "{ field = \"time\" }")),
        (Format::AccessLog, Some(line)) => time_in_line(value, &places, line, written.is_some())?,
    };
    let time_format = match &written {
        Some(written) => time_format(written)?,
        None => in_line.unwrap_or_default(),
    };
    let assumed = section.get("assume_offset");
    let needless = match &time_format {
        TimeFormat::Default if shape.format == Format::AccessLog => Some("an access log includes the offset"),
        TimeFormat::Default => None,
        TimeFormat::Unix(_) => Some("Unix time has no offset"),
        TimeFormat::Pattern(pattern) => pattern.has_offset().then_some("the pattern reads the offset"),
    };
    if let (Some(why), Some(assumed)) = (needless, &assumed) {
        return Err(assumed.fault("an assumed offset", format!("none: {why}")));
    }
    if let (TimeFormat::Pattern(pattern), None) = (&time_format, &assumed)
        && !pattern.has_offset()
    {
        let found = format!("\"{pattern}\", which reads no offset");
        let expected = "`assume_offset` beside it, as in \"+00:00\", or `%z` in the pattern";
        return Err(written.as_ref().unwrap_or(value).fault(found, expected));
    }
    let assume_offset_seconds = assumed.as_ref().map(offset_seconds).transpose()?;
    Ok(Time { places, format: time_format, assume_offset_seconds })
}

/// How the server writes the time at a place; `None` if only `format` can say it.
fn time_in_line(
    value: &Value<'_>,
    places: &[Place],
    line: &LineFormat,
    has_format: bool,
) -> Result<Option<TimeFormat>, JobError> {
    let times = line.times();
    let [place] = places else { return Err(value.fault("several fields", "one field of the line")) };
    if *place == Place::Line(LineField::Time) && times.len() > 1 {
        let found = format!("`time`, but `line` has {} times: {}", times.len(), times.join(", "));
        return Err(value.fault(found, "one of them by name"));
    }
    Ok(Some(match line.time(place) {
        Some(LineTime::AccessLog | LineTime::Iso8601) => TimeFormat::Default,
        Some(LineTime::UnixSeconds) => TimeFormat::Unix(UnixUnit::Seconds),
        Some(LineTime::UnixMs) => TimeFormat::Unix(UnixUnit::Ms),
        Some(LineTime::UnixUs) => TimeFormat::Unix(UnixUnit::Us),
        Some(LineTime::Pattern(_)) if has_format => return Ok(None),
        Some(LineTime::Pattern(pattern)) => {
            let pattern = Pattern::new(pattern).map_err(|(found, expected)| {
                value.fault(format!("the time in `line`: {found}"), format!("{expected}; or `format` beside it"))
            })?;
            TimeFormat::Pattern(pattern)
        }
        None if has_format => return Ok(None),
        None => {
            let expected = match times.as_slice() {
                [] => "`format` beside it, or a time variable in `line`, such as $time_local or %t".to_owned(),
                times => format!("{}, or `format` beside it", times.join(" or ")),
            };
            return Err(value.fault("a field that is not a time", expected));
        }
    }))
}

fn time_format(value: &Value<'_>) -> Result<TimeFormat, JobError> {
    let text = value.text()?;
    if let Some(unit) = UnixUnit::ALL.into_iter().find(|unit| unit.name() == text) {
        return Ok(TimeFormat::Unix(unit));
    }
    if !text.contains('%') {
        let names = UnixUnit::ALL.map(UnixUnit::name);
        let hint = did_you_mean(&text, names);
        let expected = format!("one of {}, or a pattern as in \"%d.%m.%Y %H:%M:%S\"{hint}", names.join(", "));
        return Err(value.fault(format!("{text:?}"), expected));
    }
    let pattern = Pattern::new(&text).map_err(|(found, expected)| value.fault(found, expected))?;
    Ok(TimeFormat::Pattern(pattern))
}

/// An offset in seconds east of UTC.
fn offset_seconds(value: &Value<'_>) -> Result<i32, JobError> {
    let text = value.text()?;
    if matches!(text.as_str(), "Z" | "z") {
        return Ok(0);
    }
    let offset = text.parse::<FixedOffset>().ok().filter(|_| !text.contains(char::is_whitespace));
    let wrong = || value.fault(format!("{text:?}"), "an offset from UTC, as in \"+01:00\", \"-0500\" or \"Z\"");
    offset.map(|offset| offset.local_minus_utc()).ok_or_else(wrong)
}

/// The places that `pointer`, `field` or `first_of` names; exactly one of the three is present.
fn places(section: &Section<'_>, shape: &Shape) -> Result<Vec<Place>, JobError> {
    if let Some(list) = section.get("first_of") {
        return list.distinct("places", |item| place(item, shape));
    }
    let (right, wrong) = match shape.format {
        Format::Json => ("pointer", "field"),
        Format::AccessLog => ("field", "pointer"),
    };
    if let Some(value) = section.get(wrong) {
        return Err(value.fault(format!("`{wrong}`"), format!("`{right}`, for this format")));
    }
    Ok(vec![place(&section.need(right, "a place")?, shape)?])
}

fn place(value: &Value<'_>, shape: &Shape) -> Result<Place, JobError> {
    match (shape.format, &shape.line) {
        (Format::Json, _) => pointer(value).map(Place::Pointer),
        (Format::AccessLog, Some(line)) => {
            let name = value.text()?;
            line.place(&name).ok_or_else(|| {
                let names = line.names();
                let hint = did_you_mean(&name, names.iter().copied());
                let expected = format!("a field of `line`: one of {}{hint}", names.join(", "));
                value.fault(format!("{name:?}"), expected)
            })
        }
        (Format::AccessLog, None) => {
            let names = LineField::ALL.map(|field| (field.name(), field));
            value.one_of(&names).map(Place::Line)
        }
    }
}

/// A JSON pointer (RFC 6901), unescaped.
fn pointer(value: &Value<'_>) -> Result<Vec<String>, JobError> {
    let text = value.text()?;
    let wrong =
        || value.fault(format!("{text:?}"), "a JSON pointer: `/name`, `/outer/inner`; `~1` for `/`, `~0` for `~`");
    let rest = text.strip_prefix('/').ok_or_else(wrong)?;
    rest.split('/')
        .map(|part| {
            let plain = part.replace("~0", "").replace("~1", "");
            if plain.contains('~') {
                return Err(wrong());
            }
            Ok(part.replace("~1", "/").replace("~0", "~"))
        })
        .collect()
}
