//! `floodmark dev report JOB`: shows the content of the tables on one screen: freshness, sizes, top customers, one customer's last hours,
//! and rejected records.
//!
//! In: the Parquet files, read as any reader could; no running job is needed. Only files that can hold the answer are read: day files for
//! the ranking of customers; the hour files of one bucket for a customer's hours, newest first; the files apart of `raw` for rejected
//! records. Out: text on stdout. State: the customers of one bucket at a time. Failure: a table that is missing or can not be read ends the
//! command.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use clap::Args;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::job::{Job, Logic};
use crate::model::{Granularity, Lane, TimeUs, Zone, bucket_of};
use crate::table::store::look_at_file;
use crate::table::{File, Log, Root, State, counts, raw};
use crate::terminal::{bytes, grouped, signed, utc};

/// How many customers, hours and reasons are shown.
const TOP: usize = 5;
const HOURS: i64 = 12;
const REASONS: usize = 6;

/// What was found is cut to this length, so that what was expected can be seen too.
const FOUND_CHARS: usize = 24;

const HOUR_US: i64 = 3_600_000_000;
const BAR_CELLS: u64 = 48;

/// Options of `floodmark dev report`.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// The job file
    #[arg(value_name = "JOB")]
    pub job: PathBuf,

    /// The customer whose last hours are shown [default: the one with the most events]
    #[arg(long, value_name = "ID")]
    pub customer: Option<String>,
}

/// Prints the report to stdout.
///
/// # Errors
/// There are no tables, or they can not be read.
pub(super) fn run(args: ReportArgs) -> anyhow::Result<()> {
    let job = Job::load(&args.job)?;
    let root = Root::open(&job.tables.url, &job.tables.options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(gather(&job, &root, args.customer.as_deref()))?;
    write!(std::io::stdout(), "{}", report.text()).context("can not write to stdout")
}

/// What the report shows.
#[derive(Debug, Default)]
struct Report {
    title: String,
    versions: String,
    /// For each lane, the time until which its windows are complete, in µs; 0 if there is none yet.
    complete_until: Vec<(&'static str, TimeUs)>,
    /// What is measured: files, rows, bytes.
    sizes: Vec<(String, [u64; 3])>,
    customers: u64,
    top: Vec<(String, i64)>,
    customer: String,
    /// For each hour: its start, and its events.
    hours: Vec<(TimeUs, i64)>,
    rejected: BTreeMap<String, Rejected>,
}

/// Records that were rejected for one reason.
#[derive(Debug, Default)]
struct Rejected {
    count: u64,
    example: String,
}

async fn gather(job: &Job, root: &Root, customer: Option<&str>) -> anyhow::Result<Report> {
    let (counts_log, counts_state) = newest(root, "counts").await?;
    let (raw_log, raw_state) = newest(root, "raw").await?;
    let buckets = counts::buckets(&counts_state)?;
    let mut report = Report {
        title: format!("{} in {}", job.name, root.url()),
        versions: format!(
            "counts version {}, raw version {} with epoch {}",
            counts_state.version,
            raw_state.version,
            raw_state.txn(raw::EPOCH)
        ),
        complete_until: Lane::ALL.map(|lane| (lane.name(), until(&counts_state, lane))).to_vec(),
        sizes: sizes(&counts_state, &raw_state),
        ..Report::default()
    };
    top_customers(&counts_log, &counts_state, buckets, &mut report).await?;
    let top = report.top.first().map(|(customer, _)| customer.clone());
    if let Some(customer) = customer.map(str::to_owned).or(top) {
        report.hours = last_hours(&counts_log, &counts_state, buckets, &customer).await?;
        report.customer = customer;
    }
    report.rejected = rejected(&raw_log, &raw_state).await?;
    Ok(report)
}

async fn newest(root: &Root, table: &str) -> anyhow::Result<(Log, State)> {
    let log = Log::new(root, table);
    let Some(state) = log.load().await? else {
        bail!("{}: there is no table {table}; run the job first: floodmark run JOB", root.url());
    };
    Ok((log, state))
}

fn until(state: &State, lane: Lane) -> TimeUs {
    state.txn(&counts::complete_until_txn(lane)) * 1000
}

fn is(file: &File, granularity: Granularity, bucket: u16) -> bool {
    let value = |name: &str| file.partition.get(name).map(String::as_str).unwrap_or_default();
    value("granularity") == granularity.name() && value("bucket") == bucket.to_string()
}

fn sizes(counts_state: &State, raw_state: &State) -> Vec<(String, [u64; 3])> {
    let sum = |files: &mut dyn Iterator<Item = &File>| {
        files.fold([0; 3], |[files, rows, bytes], file| [files + 1, rows + file.rows, bytes + file.size])
    };
    let by = |granularity: Granularity| {
        let name = Some(granularity.name());
        let is_its = |file: &&File| file.partition.get("granularity").map(String::as_str) == name;
        sum(&mut counts_state.files.values().filter(is_its))
    };
    (Granularity::ALL.into_iter().map(|granularity| (format!("counts, {granularity}"), by(granularity))))
        .filter(|(_, [files, ..])| *files > 0)
        .chain([("raw".to_owned(), sum(&mut raw_state.files.values()))])
        .collect()
}

/// Ranks all customers by their day counts, one bucket at a time: all files of a customer are in one bucket.
async fn top_customers(log: &Log, state: &State, buckets: u32, report: &mut Report) -> anyhow::Result<()> {
    for bucket in 0..buckets as u16 {
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for file in state.files.values().filter(|file| is(file, Granularity::Day, bucket)) {
            for batch in read(log, file, &["customer_id", "dimension", "event_count"]).await? {
                let (customers, dimensions) = (text(&batch, "customer_id")?, text(&batch, "dimension")?);
                let events = column(&batch, "event_count")?.as_primitive::<Int64Type>();
                for row in (0..batch.num_rows()).filter(|row| dimensions.value(*row) == Logic::TOTAL) {
                    match sums.get_mut(customers.value(row)) {
                        Some(sum) => *sum += events.value(row),
                        None => drop(sums.insert(customers.value(row).to_owned(), events.value(row))),
                    }
                }
            }
        }
        report.customers += sums.len() as u64;
        report.top.extend(sums);
        report.top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        report.top.truncate(TOP);
    }
    Ok(())
}

/// A customer's last hours, up to the newest one with events.
async fn last_hours(log: &Log, state: &State, buckets: u32, customer: &str) -> anyhow::Result<Vec<(TimeUs, i64)>> {
    let bucket = bucket_of(customer.as_bytes(), buckets);
    let mut files: Vec<(TimeUs, &File)> = (state.files.values())
        .filter(|file| is(file, Granularity::Hour, bucket))
        .map(|file| Ok((counts::segment_of(file)?.period_start, file)))
        .collect::<anyhow::Result<_>>()?;
    files.sort_by_key(|(start, _)| std::cmp::Reverse(*start));
    let mut hours: BTreeMap<TimeUs, i64> = BTreeMap::new();
    for (_, file) in files {
        for batch in read(log, file, &["customer_id", "dimension", "window_start", "event_count"]).await? {
            let (customers, dimensions) = (text(&batch, "customer_id")?, text(&batch, "dimension")?);
            let starts = column(&batch, "window_start")?.as_primitive::<TimestampMicrosecondType>();
            let events = column(&batch, "event_count")?.as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                if customers.value(row) == customer && dimensions.value(row) == Logic::TOTAL {
                    *hours.entry(starts.value(row)).or_default() += events.value(row);
                }
            }
        }
        // Older files only have older hours.
        if let (Some((first, _)), Some((last, _))) = (hours.first_key_value(), hours.last_key_value())
            && last - first >= (HOURS - 1) * HOUR_US
        {
            break;
        }
    }
    let Some((&last, _)) = hours.last_key_value() else { return Ok(Vec::new()) };
    let first = (*hours.keys().next().unwrap_or(&last)).max(last - (HOURS - 1) * HOUR_US);
    let starts = (0..HOURS).map(|index| first + index * HOUR_US).take_while(|start| *start <= last);
    Ok(starts.map(|start| (start, hours.get(&start).copied().unwrap_or(0))).collect())
}

/// Rejected records are in files apart, which can be recognised by their names.
async fn rejected(log: &Log, state: &State) -> anyhow::Result<BTreeMap<String, Rejected>> {
    const COLUMNS: [&str; 7] =
        ["kafka_topic", "kafka_partition", "kafka_offset", "reason", "field", "expected", "found"];
    let mut reasons: BTreeMap<String, Rejected> = BTreeMap::new();
    for file in state.files.values().filter(|file| file.path.ends_with("-apart.parquet")) {
        for batch in read(log, file, &COLUMNS).await? {
            let column_of = |name| text(&batch, name);
            let (topic, reason) = (column_of("kafka_topic")?, column_of("reason")?);
            let (field, expected, found) = (column_of("field")?, column_of("expected")?, column_of("found")?);
            let partition = column(&batch, "kafka_partition")?.as_primitive::<Int32Type>();
            let offset = column(&batch, "kafka_offset")?.as_primitive::<Int64Type>();
            for row in (0..batch.num_rows()).filter(|row| reason.is_valid(*row)) {
                let rejected = reasons.entry(reason.value(row).to_owned()).or_insert_with(|| {
                    let place = format!("{}/{}@{}", topic.value(row), partition.value(row), offset.value(row));
                    let field = if field.is_valid(row) { format!(" {}:", field.value(row)) } else { String::new() };
                    let (expected, found) = (expected.value(row), cut(found.value(row), FOUND_CHARS));
                    Rejected { count: 0, example: format!("{place}{field} found {found:?}, expected {expected}") }
                });
                rejected.count += 1;
            }
        }
    }
    Ok(reasons)
}

/// Reads columns of a file.
async fn read(log: &Log, file: &File, columns: &[&str]) -> anyhow::Result<Vec<RecordBatch>> {
    let path = &file.path;
    let context = || format!("table {}, file {path}", log.name());
    let content = look_at_file(log.store().as_ref(), &Path::from(path.as_str())).await.with_context(context)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(content).with_context(context)?;
    let projection = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let batches = builder.with_projection(projection).build().with_context(context)?;
    batches.collect::<Result<_, _>>().with_context(context)
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> anyhow::Result<&'b dyn Array> {
    Ok(batch.column_by_name(name).with_context(|| format!("a file has no column {name}"))?.as_ref())
}

fn text<'b>(batch: &'b RecordBatch, name: &str) -> anyhow::Result<&'b arrow::array::StringArray> {
    column(batch, name)?.as_string_opt::<i32>().with_context(|| format!("column {name} is not text"))
}

impl Report {
    fn text(&self) -> String {
        let mut out = format!("{}\n{}\n", cut(&self.title, 100), self.versions);
        // Writing to a string does not fail.
        self.write(&mut out).ok();
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let until = self.complete_until.iter().map(|(lane, until)| match until {
            0 => format!("{lane} not yet"),
            until => format!("{lane} {}", utc(*until / 1000)),
        });
        let until: Vec<String> = until.collect();
        let lines: Vec<String> = until.chunks(3).map(|lanes| lanes.join("  ")).collect();
        writeln!(out, "Complete until {}", lines.join("\n               "))?;

        // Two columns, read downwards: a screen is wider than high.
        let line =
            |what: &str, files: &str, rows: &str, size: &str| format!("{what:<15} {files:>6} {rows:>13} {size:>9}");
        let mut sizes: Vec<String> = (self.sizes.iter())
            .map(|(what, [files, rows, size])| line(what, &grouped(*files), &grouped(*rows), &bytes(*size)))
            .collect();
        let right = sizes.split_off(sizes.len().div_ceil(2));
        let head = line("Table", "files", "rows", "size");
        writeln!(out, "\n{head}{}", if right.is_empty() { String::new() } else { format!("    {head}") })?;
        for (index, left) in sizes.iter().enumerate() {
            let right = right.get(index).map_or_else(String::new, |right| format!("    {right}"));
            writeln!(out, "{left}{right}")?;
        }

        let customers = grouped(self.customers);
        writeln!(out, "\nTop of {customers} customers by events, all days")?;
        let most = self.top.first().map_or(1, |(_, events)| *events);
        for (customer, events) in &self.top {
            writeln!(out, "{:<28} {:>14} {}", cut(customer, 28), signed(*events), bar(*events, most))?;
        }

        if !self.customer.is_empty() {
            writeln!(out, "\nLast hours of {}", cut(&self.customer, 60))?;
            if self.hours.is_empty() {
                let granularity = Granularity::Hour.name();
                writeln!(out, "none of its events are counted by {granularity}")?;
            }
        }
        let most = self.hours.iter().map(|(_, events)| *events).max().unwrap_or(1);
        for (start, events) in &self.hours {
            let hour = hour(Granularity::Hour.window_start(*start, Zone::Utc));
            writeln!(out, "{hour:<28} {:>14} {}", signed(*events), bar(*events, most))?;
        }

        let total: u64 = self.rejected.values().map(|rejected| rejected.count).sum();
        writeln!(out, "\nRejected records by reason: {}", grouped(total))?;
        let mut reasons: Vec<_> = self.rejected.iter().collect();
        reasons.sort_by_key(|(_, rejected)| std::cmp::Reverse(rejected.count));
        for (reason, Rejected { count, example }) in reasons.iter().take(REASONS) {
            writeln!(out, "{reason:<18} {:>9}  {}", grouped(*count), cut(example, 70))?;
        }
        let rest: Vec<String> = reasons
            .iter()
            .skip(REASONS)
            .map(|(reason, rejected)| format!("{reason} {}", grouped(rejected.count)))
            .collect();
        if !rest.is_empty() {
            writeln!(out, "and {}", rest.join(", "))?;
        }
        Ok(())
    }
}

/// A bar whose length is the share of `number` in `most`; half a cell for a share that is small but not zero.
fn bar(number: i64, most: i64) -> String {
    let halves = number.max(0) as u128 * u128::from(2 * BAR_CELLS) / most.max(1) as u128;
    let halves = if number > 0 { halves.max(1) as usize } else { 0 };
    "█".repeat(halves / 2) + if halves % 2 == 1 { "▌" } else { "" }
}

/// The start of the hour.
fn hour(time: TimeUs) -> String {
    chrono::DateTime::from_timestamp_micros(time)
        .map_or_else(|| "?".to_owned(), |time| time.format("%Y-%m-%d %H:%MZ").to_string())
}

/// At most `chars_max` characters, none of which moves the cursor.
fn cut(text: &str, chars_max: usize) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
    if shown.chars().count() <= chars_max {
        return shown;
    }
    shown.chars().take(chars_max - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion() {
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(1, 1_000_000), "▌");
        assert_eq!(bar(10, 10).chars().count() as u64, BAR_CELLS);
        assert_eq!(bar(5, 10).chars().count() as u64, BAR_CELLS / 2);
        assert_eq!(bar(i64::MAX, i64::MAX).chars().count() as u64, BAR_CELLS);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("acme\n", 9), "acme·");
        assert_eq!(cut("ééééé", 4), "ééé…");
    }

    #[test]
    fn a_full_report_fits_on_a_screen() {
        let hour = 1_768_276_800_000_000;
        let rejected = ["bad_json", "bad_line", "bad_time", "empty", "missing_field", "not_utf8", "too_large"];
        let report = Report {
            title: "web-analytics in file:///tables/".repeat(5),
            versions: "counts version 17, raw version 15 with epoch 42".to_owned(),
            complete_until: Lane::ALL.map(|lane| (lane.name(), if lane == Lane::Late { 0 } else { hour })).to_vec(),
            sizes: (Granularity::ALL.map(|granularity| format!("counts, {granularity}")).into_iter())
                .chain(["raw".to_owned()])
                .map(|what| (what, [12, 3_456, 1_200_000]))
                .collect(),
            customers: 1_234_567,
            top: (0..TOP as i64).map(|index| (format!("customer-{index}"), 10_000 / (index + 1))).collect(),
            customer: "customer-0".to_owned(),
            hours: (0..HOURS).map(|index| (hour + index * HOUR_US, index * 1_000)).collect(),
            rejected: rejected
                .map(|reason| (reason.to_owned(), Rejected { count: 3, example: "x".repeat(200) }))
                .into(),
        };
        let text = report.text();
        assert!(text.lines().count() <= 40, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        for expected in [
            "Complete until minute 2026-01-13 04:00:00Z  hour 2026-01-13 04:00:00Z  day 2026-01-13 04:00:00Z\n",
            "               late not yet  coarse 2026-01-13 04:00:00Z\n",
            "counts, minute      12         3,456    1.2 MB    counts, month       12         3,456    1.2 MB\n",
            "counts, week        12         3,456    1.2 MB\n",
            "Top of 1,234,567 customers by events, all days",
            "2026-01-13 15:00Z                    11,000 ████",
            "Rejected records by reason: 21",
            "and too_large 3",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn what_it_says_is_read_back_from_the_tables() {
        let (job, root) = crate::verify::tests::right_tables().await;
        let text = gather(&job, &root, None).await.expect("a report").text();
        for expected in [
            "Top of 5 customers by events, all days",
            "acme                                      6 ████",
            "Last hours of acme\n2026-01-13 04:00Z                         6 ████",
            "Rejected records by reason: 4",
            "bad_json                   1  events/0@102 found \"{\\\"customer\\\": \", expected one JSON object",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        let text = gather(&job, &root, Some("bolt")).await.expect("a report").text();
        let hours =
            text.lines().skip_while(|line| *line != "Last hours of bolt").skip(1).take_while(|line| !line.is_empty());
        // Up to the newest hour with events, including empty ones in between.
        assert_eq!(hours.count() as i64, HOURS, "{text}");
        assert!(text.contains("\n2026-01-13 13:00Z                         0 \n"), "{text}");
        let text = gather(&job, &root, Some("nobody")).await.expect("a report").text();
        assert!(text.contains("none of its events"), "{text}");
    }

    #[tokio::test]
    async fn the_last_hours_are_the_same_in_files_of_any_period() {
        let [born, mixed] = crate::verify::tests::tables_of_many_periods().await;
        for customer in ["c1", "c2", "c30"] {
            let born = gather(&born.0, &born.1, Some(customer)).await.expect("a report");
            let mixed = gather(&mixed.0, &mixed.1, Some(customer)).await.expect("a report");
            assert!(!born.hours.is_empty());
            assert_eq!((born.hours, born.top), (mixed.hours, mixed.top));
        }
    }
}
