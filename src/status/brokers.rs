//! Where the job's partitions end in Kafka: asked once, for a few seconds at most.
//!
//! In: the job's topics and properties. Out: the next offset of each partition, or a sentence that says why it is not known; and
//! which partitions hold nothing more to read. State: none. Failure: brokers that are away or refuse us are no error, because the
//! tables show the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::job::Source;
use crate::source::kafka::{Offsets, ends_of, without_records};

/// How long each request may take.
const ASK: Duration = Duration::from_secs(4);

/// Topic and partition → the offset that the next record will get. Blocks.
///
/// # Errors
/// A sentence that says why it is not known, and what to do.
pub(super) fn ends(source: &Source) -> Result<Offsets, String> {
    ends_of(&client(source), &source.topics, ASK).map_err(|error| error.to_string())
}

/// Which of these partitions are not behind, although they do not end at these offsets: only markers of transactions follow, or
/// records of aborted ones. Blocks. Empty if the brokers do not answer in time: then all count as behind.
pub(super) fn at_rest(source: &Source, archived: Offsets) -> BTreeSet<(String, i32)> {
    if archived.is_empty() {
        return BTreeSet::new();
    }
    without_records(&client(source), archived, ASK).unwrap_or_default()
}

fn client(source: &Source) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "floodmark-status").set("enable.auto.commit", "false");
    client.set("group.id", "floodmark-status").set("fetch.wait.max.ms", "50");
    for (key, value) in &source.kafka {
        client.set(key, value);
    }
    client
}
