//! The metrics of a process, in Prometheus' text format.
//!
//! In: [`Progress`], the lags of partitions, what the system knows of the process. Out: a text; each scrape fills a registry of its
//! own. State: none. Failure: a number that the system does not give is left out.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TextEncoder};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use crate::dataflow::{LaneStand, Merged, Progress};
use crate::model::{Granularity, Lane, Reason};

/// The media type of the text.
pub(super) const FORMAT: &str = prometheus::TEXT_FORMAT;

/// All metrics of a process.
pub(super) fn text(progress: &Progress, lags: Vec<((String, i32), u64)>, process: usize) -> String {
    let labels = HashMap::from([("process".to_owned(), process.to_string())]);
    let registry = Registry::new_custom(None, Some(labels)).expect("without a prefix there is nothing wrong");
    let families = Families(registry);
    families.records(progress);
    families.lags(lags);
    if let Some(lanes) = progress.lanes() {
        families.committer(progress, lanes);
    }
    families.process();
    // This fails only for a metric name that is not valid, which a test would have found.
    TextEncoder::new().encode_to_string(&families.0.gather()).unwrap_or_default()
}

/// One sample: values of the labels, and the value.
type Sample = (Vec<String>, f64);

struct Families(Registry);

impl Families {
    /// The metrics of each process: what it reads, and what it holds.
    fn records(&self, progress: &Progress) {
        let outcomes = progress.outcomes();
        let read = progress.read.load(Relaxed);
        self.gauge(
            "build_info",
            "The build, as a label; the value is always 1.",
            &["build"],
            [(vec![env!("FLOODMARK_BUILD").to_owned()], 1.0)],
        );
        self.counter("records_read_total", "Records read from Kafka.", &[], one(read));
        self.counter(
            "read_bytes_total",
            "Bytes of the records read from Kafka.",
            &[],
            one(progress.bytes.load(Relaxed)),
        );
        self.counter(
            "records_fed_total",
            "Records read from the archive after a start, for lanes that had not absorbed them.",
            &[],
            one(progress.fed.load(Relaxed)),
        );
        self.counter(
            "records_counted_total",
            "Records read and counted, in epochs that have ended.",
            &[],
            one(outcomes.counted),
        );
        self.counter(
            "records_filtered_total",
            "Records read and left out by the job's filters, in epochs that have ended.",
            &[],
            one(outcomes.filtered),
        );
        self.counter(
            "records_rejected_total",
            "Records read and rejected, in epochs that have ended.",
            &["reason"],
            Reason::ALL.map(|reason| {
                let count = outcomes.rejected.get(reason.name()).copied().unwrap_or_default();
                (vec![reason.name().to_owned()], count as f64)
            }),
        );
        self.gauge(
            "pending_bytes",
            "Bytes of updates that are not published yet.",
            &["lane"],
            Lane::ALL.map(|lane| labelled(lane.name(), progress.pending_bytes[lane as usize].load(Relaxed) as f64)),
        );
    }

    fn lags(&self, lags: Vec<((String, i32), u64)>) {
        self.gauge(
            "lag_records",
            "Records of a partition that are not read yet, up to its end at the start of the open epoch.",
            &["topic", "partition"],
            lags.into_iter().map(|((topic, partition), lag)| (vec![topic, partition.to_string()], lag as f64)),
        );
    }

    /// The metrics of the process that commits, about both tables.
    fn committer(&self, progress: &Progress, lanes: [LaneStand; Lane::ALL.len()]) {
        let of =
            |value: fn(&LaneStand) -> f64| Lane::ALL.map(|lane| labelled(lane.name(), value(&lanes[lane as usize])));
        // A time that is not known yet is left out; it must not appear as 1970.
        let known = |(_, value): &Sample| *value > 0.0;
        self.gauge("raw_epoch", "Newest epoch in the archive.", &[], one(progress.epochs().0));
        self.gauge("lane_epoch", "Newest epoch that a lane has published.", &["lane"], of(|lane| lane.epoch as f64));
        self.gauge(
            "lane_complete_until_timestamp_seconds",
            "The time up to which a lane's windows are complete.",
            &["lane"],
            of(|lane| lane.complete_until_ms as f64 / 1e3).into_iter().filter(known),
        );
        self.gauge(
            "lane_published_timestamp_seconds",
            "Time at which this process last published a lane.",
            &["lane"],
            of(|lane| lane.published_ms as f64 / 1e3).into_iter().filter(known),
        );
        self.gauge(
            "lane_interval_seconds",
            "The time between two publishes of a lane, and what sets it: setting, cost, hour or budget.",
            &["lane", "set_by"],
            Lane::ALL.into_iter().zip(&lanes).filter_map(|(lane, stand)| {
                let interval = stand.interval?;
                Some((vec![lane.name().to_owned(), interval.set_by.name().to_owned()], interval.us as f64 / 1e6))
            }),
        );
        let merged = progress.merged();
        let by = |value: fn(&Merged) -> u64| {
            Granularity::ALL.map(|it| labelled(it.name(), value(&merged[it as usize]) as f64))
        };
        self.counter("updates_published_total", "Updates merged into counts.", &["granularity"], by(|it| it.updates));
        self.counter("rows_written_total", "Rows of files written to counts.", &["granularity"], by(|it| it.written));
        self.counter(
            "rows_rewritten_total",
            "Rows of files of counts that were replaced by merged ones.",
            &["granularity"],
            by(|it| it.replaced),
        );
        let (decoded, copied) = (by(|it| it.decoded), by(|it| it.copied_bytes));
        self.counter(
            "rows_decoded_total",
            "Rows of counts that were decoded to merge into them.",
            &["granularity"],
            decoded,
        );
        self.counter(
            "bytes_copied_total",
            "Bytes of counts that were copied without decoding them.",
            &["granularity"],
            copied,
        );
        self.register(progress.commit_seconds().clone());
    }

    /// What Prometheus' own client libraries report of a process, under the same names.
    fn process(&self) {
        let Ok(pid) = sysinfo::get_current_pid() else { return };
        let mut system = System::new();
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        let Some(process) = system.process(pid) else { return };
        let cpu = process.accumulated_cpu_time() as f64 / 1e3;
        self.add_gauge("process_resident_memory_bytes", "Resident memory.", &[], one(process.memory()));
        self.add_gauge("process_virtual_memory_bytes", "Virtual memory.", &[], one(process.virtual_memory()));
        self.add_gauge(
            "process_open_fds",
            "Open file descriptors.",
            &[],
            process.open_files().map(|it| (Vec::new(), it as f64)),
        );
        self.add_gauge("process_start_time_seconds", "Start time of the process.", &[], one(process.start_time()));
        self.add_counter("process_cpu_seconds_total", "CPU time, user and system together.", &[], [(Vec::new(), cpu)]);
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str], samples: impl IntoIterator<Item = Sample>) {
        self.add_counter(&format!("floodmark_{name}"), help, labels, samples);
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str], samples: impl IntoIterator<Item = Sample>) {
        self.add_gauge(&format!("floodmark_{name}"), help, labels, samples);
    }

    fn add_counter(&self, name: &str, help: &str, labels: &[&str], samples: impl IntoIterator<Item = Sample>) {
        let family = CounterVec::new(Opts::new(name, help), labels).expect("names of ours are right");
        samples.into_iter().for_each(|(labels, value)| family.with_label_values(&labels).inc_by(value));
        self.register(family);
    }

    fn add_gauge(&self, name: &str, help: &str, labels: &[&str], samples: impl IntoIterator<Item = Sample>) {
        let family = GaugeVec::new(Opts::new(name, help), labels).expect("names of ours are right");
        samples.into_iter().for_each(|(labels, value)| family.with_label_values(&labels).set(value));
        self.register(family);
    }

    fn register(&self, family: impl Collector + 'static) {
        self.0.register(Box::new(family)).expect("each name is used once");
    }
}

fn one(value: u64) -> [Sample; 1] {
    [(Vec::new(), value as f64)]
}

fn labelled(label: &str, value: f64) -> Sample {
    (vec![label.to_owned()], value)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::dataflow::Standing;
    use crate::dataflow::interval::{Interval, SetBy};

    #[test]
    fn a_scrape_says_what_the_process_has_seen() {
        let progress = Progress::default();
        progress.read.store(1_000_000_000_000_007, Relaxed);
        progress.pending_bytes[Lane::Late as usize].store(512, Relaxed);
        progress.stands(Standing::Running);
        progress.minute_published(Instant::now());
        let text = text(&progress, vec![(("odd \"topic\"".to_owned(), 3), 12)], 2);
        for line in [
            "# TYPE floodmark_records_read_total counter",
            "floodmark_records_read_total{process=\"2\"} 1000000000000007",
            "floodmark_records_rejected_total{reason=\"bad_json\",process=\"2\"} 0",
            "floodmark_pending_bytes{lane=\"late\",process=\"2\"} 512",
            r#"floodmark_lag_records{partition="3",topic="odd \"topic\"",process="2"} 12"#,
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        let memory = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes{process=\"2\"} "));
        assert!(memory.is_some_and(|bytes| bytes.parse::<f64>().is_ok_and(|bytes| bytes > 1e6)), "{text}");
        assert!(!text.contains("_epoch") && !text.contains("_commit_"), "it does not commit\n{text}");
    }

    #[test]
    fn who_commits_says_how_far_the_lanes_are() {
        let progress = Progress::default();
        progress.epoch.store(9, Relaxed);
        let interval = Interval { us: 1_500_000, set_by: SetBy::Cost };
        progress.stand(|lane| if lane == Lane::Minute { (8, 1_700_000_000_500, interval) } else { (3, 0, interval) });
        progress.published_at(&[Lane::Minute], 1_700_000_020_000);
        let of_hours = Merged { updates: 2, written: 30, replaced: 28, decoded: 16, copied_bytes: 100 };
        progress.merge(Granularity::Hour, of_hours);
        progress.merge(Granularity::Hour, of_hours);
        progress.committed("raw", Duration::from_millis(30));
        let text = text(&progress, Vec::new(), 0);
        for line in [
            "floodmark_raw_epoch{process=\"0\"} 9",
            "floodmark_lane_epoch{lane=\"minute\",process=\"0\"} 8",
            "floodmark_lane_epoch{lane=\"coarse\",process=\"0\"} 3",
            "floodmark_lane_complete_until_timestamp_seconds{lane=\"minute\",process=\"0\"} 1700000000.5",
            "floodmark_lane_published_timestamp_seconds{lane=\"minute\",process=\"0\"} 1700000020",
            "floodmark_lane_interval_seconds{lane=\"coarse\",set_by=\"cost\",process=\"0\"} 1.5",
            "floodmark_rows_rewritten_total{granularity=\"hour\",process=\"0\"} 56",
            "floodmark_rows_decoded_total{granularity=\"hour\",process=\"0\"} 32",
            "floodmark_bytes_copied_total{granularity=\"hour\",process=\"0\"} 200",
            "floodmark_commit_duration_seconds_bucket{table=\"raw\",process=\"0\",le=\"0.025\"} 0",
            "floodmark_commit_duration_seconds_bucket{table=\"raw\",process=\"0\",le=\"0.05\"} 1",
            "floodmark_commit_duration_seconds_count{table=\"raw\",process=\"0\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("timestamp_seconds{lane=\"hour\""), "never is not 1970\n{text}");
    }
}
