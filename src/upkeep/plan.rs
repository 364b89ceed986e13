//! Which files of `raw` are worth merging: a pure choice by size, so that a row is rewritten about twice in its life.
//!
//! In: live files of epochs that every lane has absorbed. Out: groups of neighbours by epoch, of one day and one kind, each to
//! become one file. While a day goes on, a group must climb: its result is of a higher size class than any of its
//! inputs. When the day is over, what is small is merged once more, so that a day ends in as few files as its size asks for.

use std::collections::BTreeMap;

use crate::model::Epoch;
use crate::table::raw::{Kind, epochs_of};
use crate::table::{File, State, TableError};

/// Fewer small files than this are not worth a rewrite before their day is over.
const INPUTS_MIN: usize = 8;

/// The factor between two size classes. A file of 1/64² of a full one or more is rewritten at most twice while its day goes on.
const CLASS_FACTOR: u64 = 64;

/// Files that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// All main, or all apart.
    pub kind: Kind,
    /// Neighbours by epoch.
    pub files: Vec<File>,
    /// The least epoch.
    pub first: Epoch,
    /// The greatest epoch.
    pub last: Epoch,
}

impl Group {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Rows of all files.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }
}

struct Input {
    first: Epoch,
    last: Epoch,
    file: File,
}

/// The groups that are worth merging now. `absorbed` is the epoch of the lane that is furthest behind, `file_bytes` the size of
/// a full file.
///
/// # Errors
/// [`TableError::Corrupt`] when a file's statistics do not say its epochs.
pub fn plan(raw: &State, absorbed: Epoch, file_bytes: u64) -> Result<Vec<Group>, TableError> {
    let mut days: BTreeMap<(&str, Kind), Vec<Input>> = BTreeMap::new();
    let mut open_days: Vec<&str> = Vec::new();
    let mut newest_day = "";
    for file in raw.files.values() {
        let day = file.partition.get("ingest_date").map(String::as_str).unwrap_or_default();
        newest_day = newest_day.max(day);
        let (first, last) = epochs_of(file)?;
        if last > absorbed {
            open_days.push(day);
        } else if let Some(kind) = Kind::of_file(file) {
            days.entry((day, kind)).or_default().push(Input { first, last, file: file.clone() });
        }
    }
    let mut groups = Vec::new();
    for ((day, kind), mut files) in days {
        files.sort_by(|a, b| (a.first, a.last, &a.file.path).cmp(&(b.first, b.last, &b.file.path)));
        // `ingested_at` never goes back, so a day is over when the table has a later one.
        let over = day < newest_day && !open_days.contains(&day);
        let full = file_bytes / 2;
        for run in files.split(|input| input.file.size >= full) {
            of_neighbours(run, kind, file_bytes, over, &mut groups);
        }
    }
    Ok(groups)
}

fn of_neighbours(mut run: &[Input], kind: Kind, file_bytes: u64, over: bool, groups: &mut Vec<Group>) {
    // Groups that make full files. Two files that are not full fit into one, so each group but the last is full.
    loop {
        let mut bytes = 0;
        let fits = run.iter().take_while(|input| {
            bytes += input.file.size;
            bytes <= file_bytes
        });
        let count = fits.count();
        let (group, rest) = run.split_at(count);
        if count < 2 || (rest.is_empty() && !over && size(group) < file_bytes / 2) {
            break;
        }
        groups.push(group_of(group, kind));
        run = rest;
    }
    // Groups that climb to a higher class.
    let class = file_bytes / 2 / CLASS_FACTOR;
    for part in run.split(|input| input.file.size >= class) {
        if part.len() >= INPUTS_MIN && size(part) >= class {
            groups.push(group_of(part, kind));
            continue;
        }
        let class = class / CLASS_FACTOR;
        for part in part.split(|input| input.file.size >= class) {
            if part.len() >= INPUTS_MIN && size(part) >= class {
                groups.push(group_of(part, kind));
            }
        }
    }
}

fn size(inputs: &[Input]) -> u64 {
    inputs.iter().map(|input| input.file.size).sum()
}

fn group_of(inputs: &[Input], kind: Kind) -> Group {
    Group {
        kind,
        files: inputs.iter().map(|input| input.file.clone()).collect(),
        first: inputs.iter().map(|input| input.first).min().unwrap_or(0),
        last: inputs.iter().map(|input| input.last).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const FULL: u64 = 256 * MIB;

    fn file(day: u32, first: Epoch, last: Epoch, size: u64, kind: &str) -> File {
        let date = format!("2026-01-{day:02}");
        File {
            path: format!("ingest_date={date}/e{first:012}-{last:012}-{kind}.parquet"),
            size,
            rows: size / 100,
            partition: BTreeMap::from([("ingest_date".to_owned(), date)]),
            stats: format!(r#"{{"numRecords":1,"minValues":{{"epoch":{first}}},"maxValues":{{"epoch":{last}}}}}"#),
        }
    }

    fn table(files: impl IntoIterator<Item = File>) -> State {
        let files = files.into_iter().map(|file| (file.path.clone(), file)).collect();
        State { files, ..State::default() }
    }

    fn planned(state: &State, absorbed: Epoch) -> Vec<(Kind, usize, Epoch, Epoch)> {
        let groups = plan(state, absorbed, FULL).expect("statistics");
        groups.iter().map(|group| (group.kind, group.files.len(), group.first, group.last)).collect()
    }

    #[test]
    fn small_neighbours_of_one_day_and_kind_that_are_absorbed() {
        let main = (1..=20).map(|epoch| file(13, epoch, epoch, MIB, "main"));
        let apart = (1..=20).map(|epoch| file(13, epoch, epoch, MIB / 2, "apart"));
        let state = table(main.chain(apart));
        assert_eq!(planned(&state, 20), [(Kind::Main, 20, 1, 20), (Kind::Apart, 20, 1, 20)]);
        assert_eq!(planned(&state, 12), [(Kind::Main, 12, 1, 12), (Kind::Apart, 12, 1, 12)]);
        assert_eq!(planned(&state, 7), [], "too few");
        let others = table((1..=20).map(|epoch| file(13, epoch, epoch, MIB, "other")));
        assert_eq!(planned(&others, 20), [], "named by another program");
    }

    #[test]
    fn full_files_are_left_alone_and_part_their_neighbours() {
        let small = (1..=9).chain(11..=14).map(|epoch| file(13, epoch, epoch, MIB, "main"));
        let state = table(small.chain([file(13, 10, 10, FULL / 2, "main")]));
        assert_eq!(planned(&state, 20), [(Kind::Main, 9, 1, 9)]);
        let two = table([1, 2].map(|epoch| file(13, epoch, epoch, FULL / 2 - 1, "main")));
        assert_eq!(planned(&two, 20), [(Kind::Main, 2, 1, 2)], "they make a full one");
        let many = table((1..=20).map(|epoch| file(13, epoch, epoch, 40 * MIB, "main")));
        let groups = [(Kind::Main, 6, 1, 6), (Kind::Main, 6, 7, 12), (Kind::Main, 6, 13, 18)];
        assert_eq!(planned(&many, 20), groups, "none is larger than a full file");
    }

    #[test]
    fn a_day_that_is_over_is_merged_to_its_end() {
        let day =
            |day, epochs: std::ops::RangeInclusive<u64>| epochs.map(move |epoch| file(day, epoch, epoch, 10, "main"));
        let state = table(day(13, 1..=3).chain(day(14, 4..=4)));
        assert_eq!(planned(&state, 4), [(Kind::Main, 3, 1, 3)]);
        assert_eq!(planned(&state, 2), [], "epoch 3 is not absorbed: the day is not over");
        assert_eq!(planned(&table(day(13, 1..=3)), 4), [], "nothing later was read yet");
        assert_eq!(planned(&table([file(13, 1, 3, 30, "main"), file(14, 4, 4, 10, "main")]), 4), []);
    }

    /// Three days of 8640 epochs, planned every 60: how often a byte is written by compaction, and how many files are left.
    /// (Measured, by size of an epoch: 2 kB 2.8 times, 20 kB 2.5, 200 kB 1.9, 3 MiB and more 1.0.)
    #[test]
    fn write_amplification_is_about_two() {
        for (epoch_bytes, amplification_max) in
            [(2_000, 3.1), (20_000, 3.1), (200_000, 2.1), (3 * MIB, 1.1), (100 * MIB, 1.1)]
        {
            let (mut state, mut arrived, mut written) = (State::default(), 0, 0);
            for epoch in 1..=3 * 8640 {
                let new = file(1 + (epoch / 8640) as u32, epoch, epoch, epoch_bytes, "main");
                arrived += new.size;
                state.files.insert(new.path.clone(), new);
                if epoch % 60 == 0 {
                    for group in plan(&state, epoch, FULL).expect("statistics") {
                        let day = group.files[0].partition["ingest_date"][8..].parse().expect("a day");
                        for file in &group.files {
                            state.files.remove(&file.path);
                        }
                        written += group.bytes();
                        let merged = file(day, group.first, group.last, group.bytes(), "main");
                        state.files.insert(merged.path.clone(), merged);
                    }
                }
            }
            let amplification = written as f64 / arrived as f64;
            let files = state.files.len() as u64;
            assert!(amplification <= amplification_max, "{epoch_bytes}: {amplification}");
            assert!(files <= 300 + 2 * arrived / FULL, "{epoch_bytes}: {files} files");
        }
    }
}
