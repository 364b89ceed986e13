//! Turns a message into a record, and keeps what is remembered of a partition's last one.
//!
//! In: messages. Out: records with their headers; a copy of the last record, and its check. Pure: no state. Failure: none; a
//! header whose name is not UTF-8 gets the name U+FFFD and no value.

use md5::{Digest, Md5};
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};

use crate::model::{RecordRef, Records, TimestampType, plausible_ms};
use crate::process::panics::guarded;
use crate::source::Stamp;

/// A copy of a partition's last record.
pub(super) struct LastRecord {
    pub(super) offset: i64,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl LastRecord {
    pub(super) fn of(message: &BorrowedMessage<'_>) -> LastRecord {
        LastRecord {
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
        }
    }
}

/// The check of a record: 63 bits of the MD5 hash of its timestamp (8 bytes, big-endian, −1 for none), then key and value, each
/// as length (8 bytes, big-endian, −1 for null) and bytes.
pub(super) fn check_of(record: &LastRecord) -> i64 {
    let mut md5 = Md5::new();
    md5.update(record.timestamp_ms.to_be_bytes());
    for part in [&record.key, &record.value] {
        let length = part.as_ref().map_or(-1, |bytes| bytes.len() as i64);
        md5.update(length.to_be_bytes());
        md5.update(part.as_deref().unwrap_or_default());
    }
    let digest = md5.finalize();
    let first = digest.first_chunk::<8>().expect("an md5 has 16 bytes");
    (u64::from_be_bytes(*first) >> 1) as i64
}

/// Appends a message as a record.
pub(super) fn push(records: &mut Records, stamp: Stamp, topic: u16, message: &BorrowedMessage<'_>) {
    records.push(record_of(message, stamp, topic), headers_of(message));
}

/// A message as a record.
pub(crate) fn record_of<'m>(message: &'m BorrowedMessage<'_>, stamp: Stamp, topic: u16) -> RecordRef<'m> {
    let (timestamp_ms, timestamp_type) = match message.timestamp() {
        Timestamp::NotAvailable => (None, TimestampType::NotAvailable),
        // The client reports −1 as not available.
        Timestamp::CreateTime(ms) => (plausible_ms(ms), TimestampType::CreateTime),
        Timestamp::LogAppendTime(ms) => (plausible_ms(ms), TimestampType::LogAppendTime),
    };
    RecordRef {
        epoch: stamp.epoch,
        ingested_at: stamp.ingested_at,
        topic,
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms,
        timestamp_type,
        key: message.key(),
        value: message.payload(),
    }
}

/// The headers of a message: name, value.
pub(crate) fn headers_of<'m>(
    message: &'m BorrowedMessage<'_>,
) -> impl Iterator<Item = (&'m [u8], Option<&'m [u8]>)> + use<'m> {
    let headers = message.headers();
    let count = headers.map_or(0, Headers::count);
    (0..count).map(move |index| {
        // The client panics on a header name that is not UTF-8; the record must be processed anyway.
        let header = guarded(|| headers.and_then(|headers| headers.try_get(index)));
        match header {
            Ok(Some(header)) => (header.key.as_bytes(), header.value),
            Ok(None) | Err(_) => ("\u{fffd}".as_bytes(), None),
        }
    })
}
