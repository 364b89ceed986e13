//! Lays out the files of `counts` in other periods, as the build before `floodmark.format` 2 did, or as another writer may.

use std::collections::BTreeMap;

use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
use floodmark::model::{Granularity, Period, Segment};
use floodmark::table::counts::segment_of;
use floodmark::table::segment::{Columns, SegmentWriter, read_segment};
use floodmark::table::store::write_file;
use floodmark::table::{Commit, FORMAT, File, Log};
use object_store::ObjectStoreExt;
use object_store::path::Path;

/// A row in the order of files, with its count.
type Row = (String, String, i64, String, i64);

/// Makes the tables those of the build before: days in files of months, weeks and months in files of years, and layout 1 on record.
pub(crate) async fn former(log: &Log, now_us: i64) {
    relaid(log, now_us, Granularity::former).await;
    let mut state = log.load().await.expect("readable").expect("a table");
    let first = BTreeMap::from([(FORMAT.to_owned(), "1".to_owned())]);
    log.set_properties(&mut state, &first, now_us / 1000).await.expect("committed");
}

/// Moves every row whose granularity has such a period into a file of it, in one commit.
pub(crate) async fn relaid(log: &Log, now_us: i64, period: impl Fn(Granularity) -> Option<Period>) {
    let mut state = log.load().await.expect("readable").expect("a table");
    let mut rows: BTreeMap<Segment, Vec<Row>> = BTreeMap::new();
    let mut change = Commit::default();
    for file in state.files.values() {
        let Segment { granularity, bucket, .. } = segment_of(file).expect("a segment");
        let Some(period) = period(granularity) else { continue };
        for row in rows_of(log, file).await {
            rows.entry(Segment::holding(granularity, bucket, period, row.2)).or_default().push(row);
        }
        change.remove.push(file.clone());
    }
    for (segment, mut rows) in rows {
        rows.sort();
        let text = |of: fn(&Row) -> &str| StringArray::from(rows.iter().map(of).collect::<Vec<_>>());
        let columns = Columns {
            customer: text(|row| &row.0),
            dimension: text(|row| &row.1),
            window_start: TimestampMicrosecondArray::from(rows.iter().map(|row| row.2).collect::<Vec<_>>()),
            value: text(|row| &row.3),
            event_count: Int64Array::from(rows.iter().map(|row| row.4).collect::<Vec<_>>()),
        };
        let mut writer = SegmentWriter::new(segment).expect("a writer");
        writer.write(columns).expect("encoded");
        let (file, bytes) =
            writer.finish(&format!("relaid-{}", state.version)).expect("encoded").expect("there are rows");
        write_file(log.store().as_ref(), &file.path, bytes).await.expect("written");
        change.add.push(file);
    }
    if !change.add.is_empty() {
        log.commit(&mut state, &change, "RELAY", now_us / 1000).await.expect("nobody else commits");
    }
}

async fn rows_of(log: &Log, file: &File) -> Vec<Row> {
    let bytes = log.store().get(&Path::from(file.path.as_str())).await.expect("there").bytes().await.expect("bytes");
    let mut rows = Vec::new();
    for batch in read_segment(file, bytes).expect("a segment") {
        let columns = Columns::of(&batch.expect("rows")).expect("columns");
        for row in 0..columns.len() {
            rows.push((
                columns.customer.value(row).to_owned(),
                columns.dimension.value(row).to_owned(),
                columns.window_start.value(row),
                columns.value.value(row).to_owned(),
                columns.event_count.value(row),
            ));
        }
    }
    rows
}
