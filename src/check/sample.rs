//! The records of a sample.
//!
//! In: the lines of a file, or the first records of the job's topics, which are read by the job's own Kafka source. Out: the outcomes, as
//! [`SampleFacts`]. State: one line, or what the Kafka client returns at once. Failure: a sample that is empty, or can not be read, is an
//! error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::CheckError;
use super::facts::{Collector, Position, SampleFacts};
use crate::dev::read_record_line;
use crate::job::{Job, Start};
use crate::model::{RecordRef, Records, TimestampType, plausible_ms};
use crate::source::kafka::Kafka;
use crate::source::{SourceError, SourceFactory, Stamp, Txns};
use crate::terminal::{LiveLine, grouped};

/// A longer line ends the check, unless records may be longer than this: a file without line breaks would fill the memory.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// How long to wait for the next record of a topic.
const WAIT: Duration = Duration::from_secs(20);

/// Decodes every line of a file.
pub(super) fn of_file(job: &Job, file: &Path, gen_format: bool, show: usize) -> Result<SampleFacts, CheckError> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "stdin".to_owned() } else { file.display().to_string() };
    let unreadable = |error: std::io::Error| {
        CheckError::Sample(format!(
            "--sample: cannot read {name}: {error}; expected a file with one record per line, - for stdin, or a \
             number of records"
        ))
    };
    let mut input: Box<dyn BufRead> = if is_stdin {
        Box::new(stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(1 << 20, File::open(file).map_err(unreadable)?))
    };
    let mut collector = Collector::new(job, name.clone(), show);
    let mut progress = LiveLine::new("check", None);
    let mut line = Vec::new();
    let line_bytes_max = LINE_BYTES_MAX.max(2 * job.logic.record_bytes_max as u64);
    loop {
        line.clear();
        if input.by_ref().take(line_bytes_max + 1).read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        let number = collector.records() + 1;
        if line.len() as u64 > line_bytes_max {
            let (number, bytes) = (grouped(number), grouped(line_bytes_max));
            let what =
                format!("--sample: line {number} of {name} is longer than {bytes} bytes; expected one record per line");
            return Err(CheckError::Sample(what));
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let mut record = RecordRef { value: Some(line), ..RecordRef::default() };
        let generated;
        if gen_format {
            generated = read_record_line(line).map_err(|error| {
                CheckError::Sample(format!("line {} of {name}: {error}; or leave out --gen-format", grouped(number)))
            })?;
            record.partition = generated.partition;
            record.timestamp_ms = plausible_ms(generated.timestamp_ms);
            record.timestamp_type = TimestampType::CreateTime;
            record.value = generated.value.as_deref();
        }
        collector.add(record, Position::Line { line: number });
        if number.is_multiple_of(1024) {
            progress.tick(number, String::new);
        }
    }
    progress.clear();
    if collector.records() == 0 {
        return Err(CheckError::Sample(format!("--sample: {name} is empty; expected one record per line")));
    }
    Ok(collector.finish())
}

/// Decodes the first records of the topics, the same number from each partition as far as they hold so many.
pub(super) fn of_topics(job: &Job, records_max: u64, show: usize) -> Result<SampleFacts, CheckError> {
    let mut job = job.clone();
    // A first start may begin after the newest record, where there would be nothing to read.
    job.source.start = Start::Earliest;
    let kafka = Kafka::new(&job, false);
    kafka.check()?;
    // Resumes as from an empty archive, which is at the beginning.
    kafka.resume(&Txns::new())?;
    let topics = &job.source.topics;
    let held: BTreeMap<(u16, i32), u64> = (kafka.starts().iter())
        .map(|start| ((start.topic, start.partition), (start.end - start.offset).max(0) as u64))
        .collect();
    let mut wanted = shares(&held, records_max);
    let all: u64 = wanted.values().sum();
    let nothing = || {
        CheckError::Sample(format!(
            "--sample: {} no records; send some, or give a file with one record per line",
            if topics.len() == 1 {
                format!("topic {} holds", topics[0])
            } else {
                format!("topics {} hold", topics.join(", "))
            }
        ))
    };
    if all == 0 {
        return Err(nothing());
    }

    let reader = std::thread::current();
    let mut share = kafka.open(0, 1, Arc::new(move || reader.unpark()))?;
    let mut collector = Collector::new(&job, topics.join(", "), show);
    let mut progress = LiveLine::new("check", Some(all));
    let mut heard = Instant::now();
    // A partition may end before its end offset: transaction markers have offsets but are no records.
    while collector.records() < all {
        let mut records = Records::default();
        let more = share.read(Stamp { epoch: 1, ingested_at: 0 }, &mut records)?;
        for record in records.iter() {
            heard = Instant::now();
            let Some(left) = wanted.get_mut(&(record.topic, record.partition)).filter(|left| **left > 0) else {
                continue;
            };
            *left -= 1;
            let topic = topics[usize::from(record.topic)].clone();
            let position = Position::Offset { topic, partition: record.partition, offset: record.offset };
            collector.add(record, position);
        }
        progress.tick(collector.records(), String::new);
        if more {
            continue;
        }
        if share.drained() {
            break;
        }
        if heard.elapsed() > WAIT {
            progress.clear();
            return Err(CheckError::Source(SourceError::Retry(format!(
                "the brokers sent {} of {} records, then none for {} s; check that they are up, then try again",
                grouped(collector.records()),
                grouped(all),
                WAIT.as_secs()
            ))));
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    progress.clear();
    if collector.records() == 0 {
        return Err(nothing());
    }
    Ok(collector.finish())
}

/// How many records to take from each partition: the same number from all, except those that hold fewer.
fn shares(held: &BTreeMap<(u16, i32), u64>, records_max: u64) -> BTreeMap<(u16, i32), u64> {
    let mut smallest_first: Vec<_> = held.iter().map(|(key, held)| (*held, *key)).collect();
    smallest_first.sort_unstable();
    let (mut left, count) = (records_max, smallest_first.len());
    let share = |(index, (held, key)): (usize, (u64, (u16, i32)))| {
        let share = held.min(left.div_ceil((count - index) as u64));
        left -= share;
        (key, share)
    };
    smallest_first.into_iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_give_the_same_as_far_as_they_can() {
        for (held, records, expected) in [
            ([10, 10, 10], 9, [3, 3, 3]),
            ([10, 0, 1], 9, [8, 0, 1]),
            ([1, 2, 3], 100, [1, 2, 3]),
            ([5, 5, 5], 1, [1, 0, 0]),
            ([0, 0, 0], 5, [0, 0, 0]),
            ([u64::MAX, 1, 1], u64::MAX, [u64::MAX - 2, 1, 1]),
        ] {
            let held = BTreeMap::from([((0, 0), held[0]), ((0, 1), held[1]), ((1, 0), held[2])]);
            let shares = shares(&held, records);
            assert_eq!(shares.into_values().collect::<Vec<_>>(), expected, "{records}");
        }
    }
}
