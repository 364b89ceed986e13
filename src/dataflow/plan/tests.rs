//! Which files a publish writes, by granularity, age and layout of what is live.

use chrono::{DateTime, Utc};

use super::*;
use crate::model::{Cell, Tally};
use crate::table::counts;

fn at(text: &str) -> TimeUs {
    text.parse::<DateTime<Utc>>().expect("a time").timestamp_micros()
}

fn dimensions() -> Arc<[Dimension]> {
    let dimension = |name: &str, granularities: &[Granularity]| Dimension {
        name: name.to_owned(),
        field: None,
        granularities: granularities.to_vec(),
    };
    Arc::new([dimension("page", &[Granularity::Day, Granularity::Month]), dimension("total", &Granularity::ALL)])
}

fn run(granularity: Granularity, cells: &[(&str, &str)]) -> Arc<Run> {
    let mut keys: Vec<Vec<u8>> = (cells.iter())
        .map(|(dimension, time)| {
            let mut key = Run::group(granularity as u8, 3).to_vec();
            Cell::encode(b"c", dimension.as_bytes(), granularity.window_start(at(time), Zone::Utc), b"", &mut key);
            key
        })
        .collect();
    keys.sort();
    let mut run = Run::default();
    keys.iter().for_each(|key| run.push(key, Tally::ONE));
    Arc::new(run)
}

fn file(granularity: Granularity, label: &str, size: u64) -> File {
    File {
        path: format!("{granularity}/{label}"),
        size,
        rows: 1,
        partition: BTreeMap::from([
            ("granularity".to_owned(), granularity.name().to_owned()),
            ("period".to_owned(), label.to_owned()),
            ("bucket".to_owned(), "3".to_owned()),
        ]),
        stats: String::new(),
    }
}

fn wanted(live: &[File], now: &str) -> Wanted {
    Wanted {
        fine: Vec::new(),
        coarse: Vec::new(),
        dimensions: dimensions(),
        layout: Arc::new(Layout::new(live, |_| true).expect("no overlap")),
        now: at(now),
        seal: false,
        only: None,
    }
}

/// Each file to write: granularity, period, what it replaces, number of updates.
fn planned(wanted: &Wanted) -> Vec<(&'static str, String, Vec<String>, usize)> {
    (wanted.plan().into_iter())
        .map(|work| {
            let label = work.segment.period.label(work.segment.period_start);
            let live = work.live.into_iter().map(|file| file.path).collect();
            let updates = work.updates.iter().map(|part| part.indices.len()).sum();
            (work.segment.granularity.name(), label, live, updates)
        })
        .collect()
}

#[test]
fn a_window_is_born_in_the_longest_period_that_is_old_and_free() {
    let live = [file(Granularity::Minute, "2026-01-12T07", 1)];
    let times = ["2026-01-11T01:02:03Z", "2026-01-11T23:59:59Z", "2026-01-12T07:30:00Z", "2026-01-12T09:10:00Z"];
    let recent = ["2026-01-13T04:30:00Z", "2026-01-13T05:00:00Z"];
    let cells: Vec<_> = times.iter().chain(&recent).map(|time| ("total", *time)).collect();
    let wanted = Wanted { fine: vec![run(Granularity::Minute, &cells)], ..wanted(&live, "2026-01-13T05:10:00Z") };
    let none = Vec::<String>::new;
    assert_eq!(
        planned(&wanted),
        [
            ("minute", "2026-01-11".to_owned(), none(), 2),
            ("minute", "2026-01-12T07".to_owned(), vec!["minute/2026-01-12T07".to_owned()], 1),
            ("minute", "2026-01-12T09".to_owned(), none(), 1),
            ("minute", "2026-01-13T04".to_owned(), none(), 1),
            ("minute", "2026-01-13T0500".to_owned(), none(), 1),
        ]
    );
}

#[test]
fn day_updates_become_weeks_months_and_years() {
    let cells =
        [("total", "2024-12-30T00:00:00Z"), ("total", "2025-01-01T00:00:00Z"), ("page", "2025-01-02T00:00:00Z")];
    let wanted = Wanted { coarse: vec![run(Granularity::Day, &cells)], ..wanted(&[], "2025-01-03T00:00:00Z") };
    let none = Vec::<String>::new;
    assert_eq!(
        planned(&wanted),
        [
            // The week of 2025-01-01 began in 2024.
            ("week", "2024-12-30".to_owned(), none(), 2),
            ("month", "2024-12".to_owned(), none(), 1),
            ("month", "2025-01".to_owned(), none(), 2),
            ("year", "2024".to_owned(), none(), 1),
            ("year", "2025".to_owned(), none(), 1),
        ]
    );
}

/// A replay may remove counts of a dimension that the job no longer has: here `gone`.
#[test]
fn weeks_and_months_of_a_replay_are_taken_as_they_are() {
    let fine = [Granularity::Week, Granularity::Month]
        .map(|granularity| run(granularity, &[("total", "2025-01-01T00:00:00Z"), ("gone", "2025-01-01T00:00:00Z")]));
    let wanted = Wanted { fine: fine.into(), ..wanted(&[], "2025-03-03T00:00:00Z") };
    let none = Vec::<String>::new;
    assert_eq!(
        planned(&wanted),
        [("week", "2024-12-30".to_owned(), none(), 2), ("month", "2025-01".to_owned(), none(), 2)]
    );
}

#[test]
fn days_are_born_alone_and_sealed_when_their_month_is_old() {
    let days = ["2026-01-05", "2026-01-31", "2026-02-01"];
    let live: Vec<_> = days.iter().map(|day| file(Granularity::Day, day, 1)).collect();
    let cells = [("total", "2026-01-05T00:00:00Z"), ("total", "2026-01-06T00:00:00Z")];
    let day = |label: &str, live: &[&str], updates| {
        let live = live.iter().map(|label| format!("day/{label}")).collect::<Vec<_>>();
        ("day", label.to_owned(), live, updates)
    };
    let at = |now: &str| Wanted { fine: vec![run(Granularity::Day, &cells)], seal: true, ..wanted(&live, now) };
    // 35 days after 2026-02-01.
    let young = [day("2026-01-05", &["2026-01-05"], 1), day("2026-01-06", &[], 1)];
    assert_eq!(planned(&at("2026-03-07T23:59:59Z")), young);
    assert_eq!(planned(&at("2026-03-08T00:00:00Z")), [day("2026-01", &["2026-01-05", "2026-01-31"], 2)]);
}

#[test]
fn sealing_stops_at_a_number_of_rows_and_begins_with_the_smallest() {
    let days = |month: &str, rows: u64| {
        ["03", "04"].map(|day| File { rows: rows / 2, ..file(Granularity::Day, &format!("{month}-{day}"), 1) })
    };
    let sealed = |rows: [u64; 3]| {
        let months = ["2025-01", "2025-02", "2025-03"];
        let live: Vec<_> = months.iter().zip(rows).flat_map(|(month, rows)| days(month, rows)).collect();
        let found = planned(&Wanted { seal: true, ..wanted(&live, "2026-01-13T05:05:00Z") });
        found.into_iter().map(|(_, label, _, _)| label).collect::<Vec<_>>()
    };
    assert_eq!(sealed([2, 2, 2]).len(), 3);
    assert_eq!(sealed([2, SEAL_ROWS_MAX, 2]).len(), 3, "the one that reaches the bound is made");
    assert_eq!(sealed([SEAL_ROWS_MAX, SEAL_ROWS_MAX + 2, 2]), ["2025-01", "2025-03"]);
    assert_eq!(sealed([SEAL_ROWS_MAX * 9, SEAL_ROWS_MAX * 8, SEAL_ROWS_MAX * 8]), ["2025-02"], "at least one");
}

/// Each file to write with whether it is a split.
fn splits(wanted: &Wanted) -> Vec<(String, bool)> {
    wanted.plan().into_iter().map(|work| (work.segment.period.label(work.segment.period_start), work.split)).collect()
}

#[test]
fn a_long_file_of_the_former_layout_is_split_as_long_as_it_holds_an_open_window() {
    let live = [
        file(Granularity::Day, "2026-01", 1),
        file(Granularity::Month, "2025", 1),
        file(Granularity::Month, "2026", 1),
        file(Granularity::Year, "2026", 1),
    ];
    let times = ["2026-01-05T00:00:00Z", "2026-01-13T00:00:00Z", "2025-12-13T00:00:00Z"];
    let cells = times.map(|time| ("total", time));
    let at = |now: &str| Wanted {
        fine: vec![run(Granularity::Day, &cells[..2])],
        coarse: vec![run(Granularity::Day, &cells)],
        ..wanted(&live, now)
    };
    let found = |now: &str| {
        let label = |(label, split): (String, bool)| if split { format!("{label}!") } else { label };
        splits(&at(now)).into_iter().map(label).collect::<Vec<_>>()
    };
    let expected = |days: &'static str, months: [&'static str; 2]| {
        [&[days, "2025-12-08", "2026-01-05", "2026-01-12"], &months[..], &["2025", "2026"]].concat()
    };
    // One piece of work for all windows of a file. 2025 is over, and a file of a year is never too long for years.
    assert_eq!(found("2026-01-31T23:59:59Z"), expected("2026-01!", ["2025", "2026!"]));
    assert_eq!(found("2026-02-01T00:00:00Z"), expected("2026-01", ["2025", "2026!"]));
    assert_eq!(found("2027-01-01T00:00:00Z"), expected("2026-01", ["2025", "2026"]));
    // If the file has lost its base, it is split again; if another writer has split it, its windows have homes of their own.
    let lost = |label: &str| counts::segment_of(&file(Granularity::Day, label, 1)).expect("a segment");
    let again = Wanted { only: Some(vec![lost("2026-01")]), ..at("2026-01-14T00:00:00Z") };
    assert_eq!(splits(&again), [("2026-01".to_owned(), true)]);
    let layout = Layout::new(&[file(Granularity::Day, "2026-01-05", 1)], |_| true).expect("no overlap");
    let again = Wanted { layout: Arc::new(layout), ..again };
    assert_eq!(splits(&again), [("2026-01-05".to_owned(), false), ("2026-01-13".to_owned(), false)]);
}

#[test]
fn weeks_lie_between_the_years_of_the_former_layout() {
    let live = [file(Granularity::Week, "2024", 1), file(Granularity::Week, "2026", 1)];
    let weeks = ["2024-12-30T00:00:00Z", "2025-01-06T00:00:00Z", "2025-12-29T00:00:00Z", "2026-01-05T00:00:00Z"];
    let fine = vec![run(Granularity::Week, &weeks.map(|week| ("total", week)))];
    let mut wanted = Wanted { fine, ..wanted(&live, "2025-01-05T23:59:59Z") };
    let of = |label: &str, split| (label.to_owned(), split);
    let (first, last) = (of("2025-01-06", false), of("2025-12-29", false));
    // The last week of 2024 ends in January. The last one of 2025 is outside 2026, although it ends in it.
    let open = [of("2024", true), first.clone(), last.clone(), of("2026", true)];
    assert_eq!(splits(&wanted), open);
    wanted.now = at("2025-01-06T00:00:00Z");
    assert_eq!(splits(&wanted), [of("2024", false), first, last, of("2026", true)]);
}

#[test]
fn old_periods_are_sealed_the_longest_first() {
    let minute = |label: &str| file(Granularity::Minute, label, 1);
    let live = vec![
        minute("2025-11-03"),
        minute("2025-11-04T05"),
        minute("2026-01-12T05"),
        minute("2026-01-12T06"),
        minute("2026-01-13T0300"),
        minute("2026-01-13T0359"),
        minute("2026-01-13T0400"),
        minute("2026-01-13T0401"),
    ];
    let fine = vec![run(Granularity::Minute, &[("total", "2026-01-12T09:00:00Z"), ("total", "2026-01-13T04:00:00Z")])];
    let mut wanted = Wanted { fine, seal: true, ..wanted(&live, "2026-01-13T05:05:00Z") };
    let paths = |labels: &[&str]| labels.iter().map(|label| format!("minute/{label}")).collect::<Vec<_>>();
    assert_eq!(
        planned(&wanted),
        [
            ("minute", "2025-11".to_owned(), paths(&["2025-11-03", "2025-11-04T05"]), 0),
            ("minute", "2026-01-12".to_owned(), paths(&["2026-01-12T05", "2026-01-12T06"]), 1),
            ("minute", "2026-01-13T03".to_owned(), paths(&["2026-01-13T0300", "2026-01-13T0359"]), 0),
            ("minute", "2026-01-13T0400".to_owned(), paths(&["2026-01-13T0400"]), 1),
        ]
    );
    // A piece that has lost its base is planned again, and nothing else.
    let lost = Segment {
        granularity: Granularity::Minute,
        bucket: 3,
        period: Period::Day,
        period_start: at("2026-01-12T00:00:00Z"),
    };
    wanted.only = Some(vec![lost]);
    assert_eq!(planned(&wanted), [("minute", "2026-01-12T09".to_owned(), Vec::new(), 1)]);
    // Also if its base is gone and the whole day is free: the hour beside it may be staged.
    let lost = Segment { period: Period::Hour, period_start: at("2026-01-12T09:00:00Z"), ..lost };
    let wanted = Wanted { layout: Arc::default(), only: Some(vec![lost]), ..wanted };
    assert_eq!(planned(&wanted), [("minute", "2026-01-12T09".to_owned(), Vec::new(), 1)]);
}
