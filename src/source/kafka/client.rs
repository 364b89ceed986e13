//! The Kafka client: its configuration, its complaints, and the requests that several modules make.
//!
//! In: a job's properties. Out: consumers; topics with their numbers of partitions; offsets of partitions, all in one request.
//! Time: a request blocks for [`ASK`] at most. It ends within seconds if the brokers refuse the client, because a later attempt
//! would be refused too. State: the last complaint of each client. Failure: [`SourceError`], with that complaint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::job::Job;
use crate::process::lock;
use crate::process::panics::caught_in;
use crate::source::SourceError;

/// How long a request to the brokers may take.
pub(super) const ASK: Duration = Duration::from_secs(15);

/// How often the client's events are polled during a request.
const LISTEN: Duration = Duration::from_millis(20);

/// How long another broker may still answer after one has refused the client.
const REFUSED: Duration = Duration::from_secs(2);

/// How often the same complaint of a client is logged.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// The client's properties, unless the job sets others. Queues are bounded: the broker is the buffer.
const DEFAULTS: [(&str, &str); 9] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    // With the default of a second, reading stops for up to a second after a queue was full.
    ("fetch.queue.backoff.ms", "5"),
    // While a partition's queue is full, the client fetches only the others. If these are at their ends, the broker waits this
    // long before it answers, and nothing of the full partition comes meanwhile: with the default of 500, one partition with most
    // of the records halved the rate.
    ("fetch.wait.max.ms", "50"),
    ("queued.min.messages", "20000"),
    ("queued.max.messages.kbytes", "32768"),
    ("socket.keepalive.enable", "true"),
];

/// Logs what the client reports, but not the same hundreds of times.
pub(crate) struct Context {
    /// Whether to log nothing, because the answer reports it.
    silent: bool,
    /// How long a request may take.
    patience: Duration,
    /// Whether the credentials may expire and be renewed: a token or a ticket, not a password.
    expires: bool,
    said: Mutex<Option<(Instant, String)>>,
    complaints: Mutex<Complaints>,
}

/// Complaints since the last answer.
#[derive(Clone, Default)]
struct Complaints {
    last: Option<String>,
    /// A complaint that does not pass by itself, and what to correct.
    refusal: Option<String>,
}

impl Context {
    fn new(client: &ClientConfig, silent: bool, patience: Duration) -> Context {
        let mechanism = client.get("sasl.mechanism").or_else(|| client.get("sasl.mechanisms")).unwrap_or("GSSAPI");
        let expires = ["OAUTHBEARER", "GSSAPI"].iter().any(|name| mechanism.eq_ignore_ascii_case(name));
        Context { silent, patience, expires, said: Mutex::default(), complaints: Mutex::default() }
    }

    fn complaints(&self) -> Complaints {
        lock(&self.complaints).clone()
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code.is_some_and(is_nothing) {
            return;
        }
        let mut complaints = lock(&self.complaints);
        // "All brokers are down" follows from what is wrong with each of them, and says less.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || complaints.last.is_none() {
            complaints.last = Some(reason.to_owned());
        }
        if let Some(correct) = code.and_then(|code| refusal(code, reason, self.expires)) {
            complaints.refusal = Some(format!("{reason}; {correct}"));
        }
        drop(complaints);
        let mut said = lock(&self.said);
        let again = said.as_ref().is_some_and(|(at, last)| at.elapsed() < SAY_AGAIN && last == reason);
        if !again && !self.silent {
            tracing::warn!(%error, reason, "error of the Kafka client, which retries");
            *said = Some((Instant::now(), reason.to_owned()));
        }
    }
}

impl ConsumerContext for Context {}

/// Whether an error means nothing: the end of a partition comes as an error, and since no group is joined, no right to one is
/// needed.
pub(super) fn is_nothing(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// What to correct, if a complaint does not pass by itself. A handshake that breaks off may pass; its reason is then an error of
/// the client's own, or of the transport.
fn refusal(code: RDKafkaErrorCode, reason: &str, expires: bool) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::Authentication if !expires && !reason.contains("Local: ") => {
            Some("correct \"sasl.username\", \"sasl.password\", \"sasl.mechanism\" or \"security.protocol\"")
        }
        RDKafkaErrorCode::SSL if reason.contains("wrong version number") => Some(
            "that broker does not speak TLS there: correct \"security.protocol\", or the port in \"bootstrap.servers\"",
        ),
        RDKafkaErrorCode::SSL if !reason.contains("transport error") => Some(
            "correct \"ssl.ca.location\" (the CA that signed the brokers' certificates), the names in \"bootstrap.servers\", or \
             this client's own certificate",
        ),
        _ => None,
    }
}

pub(crate) type KafkaConsumer = BaseConsumer<Context>;

/// The configuration of a job's client.
pub(crate) fn client_config(job: &Job) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "floodmark").set("group.id", format!("floodmark-{}", job.name));
    for (key, value) in DEFAULTS {
        client.set(key, value);
    }
    // A job file that sets a property on which exactness depends was refused before.
    for (key, value) in &job.source.kafka {
        client.set(key, value);
    }
    client
}

/// A client with these properties.
///
/// # Errors
/// [`SourceError::Invalid`] with the property that it refuses.
pub(super) fn consumer(client: &ClientConfig) -> Result<Arc<KafkaConsumer>, SourceError> {
    made(client, false, ASK).map(Arc::new)
}

/// A client that logs nothing of its own, and whose requests take at most `patience`.
///
/// # Errors
/// As [`consumer`].
pub(super) fn silent_consumer(client: &ClientConfig, patience: Duration) -> Result<Arc<KafkaConsumer>, SourceError> {
    made(client, true, patience).map(Arc::new)
}

/// A client that calls `wake` when there is something to read.
///
/// # Errors
/// As [`consumer`].
pub(super) fn waking_consumer(
    client: &ClientConfig,
    wake: impl Fn() + Send + Sync + 'static,
) -> Result<Arc<KafkaConsumer>, SourceError> {
    let mut made = made(client, false, ASK)?;
    made.set_nonempty_callback(wake);
    Ok(Arc::new(made))
}

fn made(client: &ClientConfig, silent: bool, patience: Duration) -> Result<KafkaConsumer, SourceError> {
    client.create_with_context(Context::new(client, silent, patience)).map_err(|error| {
        SourceError::Invalid(format!(
            "source.kafka: the client refuses the properties: {error}; correct them in the job file"
        ))
    })
}

/// Makes a request to the brokers. The request blocks on a thread of its own. Meanwhile the client's events are polled, because
/// they report a refusal long before the request times out.
///
/// # Errors
/// [`SourceError::Invalid`] if the brokers refuse the client or what it asks for; [`SourceError::Retry`] if they do not answer,
/// both with the client's last complaint; [`SourceError::Bug`] if the request panics.
pub(super) fn ask<T: Send + 'static>(
    consumer: &Arc<KafkaConsumer>,
    question: impl FnOnce(&KafkaConsumer) -> KafkaResult<T> + Send + 'static,
) -> Result<T, SourceError> {
    let (sender, answer) = mpsc::channel();
    let asked = Arc::clone(consumer);
    // If the caller no longer waits, nobody needs the answer.
    let body = move || sender.send(caught_in("asking the brokers", || question(&asked))).unwrap_or_default();
    thread::Builder::new().name("ask".to_owned()).spawn(body).map_err(|error| {
        SourceError::Retry(format!(
            "the system could not start a thread: {error}; raise the process limit, then start again"
        ))
    })?;
    let mut refused: Option<Instant> = None;
    loop {
        let answer = answer.recv_timeout(LISTEN);
        listen(consumer);
        match answer {
            Ok(Ok(Ok(value))) => {
                *lock(&consumer.context().complaints) = Complaints::default();
                return Ok(value);
            }
            Ok(Ok(Err(error))) => return Err(unanswered(consumer, "", &error)),
            Ok(Err(panic)) => return Err(SourceError::Bug(panic)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(SourceError::Bug(
                    "the thread that asks the brokers has ended without an answer".to_owned(),
                ));
            }
        }
        if consumer.context().complaints().refusal.is_some()
            && refused.get_or_insert_with(Instant::now).elapsed() >= REFUSED
        {
            return Err(unanswered(consumer, "", &KafkaError::Global(RDKafkaErrorCode::Authentication)));
        }
    }
}

/// Polls the client's events. Records of partitions that were split off come in queues of their own.
pub(super) fn listen(consumer: &KafkaConsumer) {
    while consumer.poll(Duration::ZERO).is_some() {}
}

/// Why there is no answer, by the client's last complaint. `what`: the partition that was asked for, or empty.
pub(super) fn unanswered(consumer: &KafkaConsumer, what: &str, error: &KafkaError) -> SourceError {
    let Complaints { last, refusal } = consumer.context().complaints();
    if let Some(code) = error.rdkafka_error_code().filter(is_denial) {
        return SourceError::Invalid(format!(
            "the brokers deny the job's request: {code}; grant its user DESCRIBE and READ on its topics, or correct \
             \"sasl.username\" in source.kafka"
        ));
    }
    if let Some(refusal) = refusal {
        return SourceError::Invalid(format!("the brokers refuse the client: {refusal} in source.kafka"));
    }
    let what = if what.is_empty() { String::new() } else { format!(" for {what}") };
    let last = last.map_or_else(String::new, |last| format!(" (the client's last error: {last})"));
    SourceError::Retry(format!(
        "the brokers do not answer{what}: {error}{last}; check source.kafka \"bootstrap.servers\" and \
         \"security.protocol\", and that the brokers are up"
    ))
}

/// The error if the client gives no queue for a partition.
pub(super) fn no_queue(topic: &str, partition: i32) -> SourceError {
    SourceError::Retry(format!("the Kafka client returned no queue for {topic}/{partition}; start again"))
}

/// The error if the client itself fails.
pub(super) fn failed(error: &KafkaError) -> SourceError {
    SourceError::Retry(format!("the Kafka client failed: {error}; start again"))
}

fn is_denial(code: &RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{ClusterAuthorizationFailed, GroupAuthorizationFailed, TopicAuthorizationFailed};
    matches!(code, TopicAuthorizationFailed | GroupAuthorizationFailed | ClusterAuthorizationFailed)
}

/// The error if the brokers deny a topic.
pub(super) fn denied(topic: &str, code: RDKafkaErrorCode) -> Option<SourceError> {
    is_denial(&code).then(|| {
        SourceError::Invalid(format!(
            "source.topics: the brokers deny access to topic {topic:?}: {code}; grant the job's user DESCRIBE and \
             READ on it, or correct the topic or \"sasl.username\" in the job file"
        ))
    })
}

/// The number of partitions of each topic, by its index in `topics`.
///
/// # Errors
/// See [`ask`]; [`SourceError::Invalid`] if a topic does not exist, or may not be read.
pub(super) fn partitions(consumer: &Arc<KafkaConsumer>, topics: &[String]) -> Result<BTreeMap<u16, i32>, SourceError> {
    // All topics are requested: a request for one by name could create it.
    let all = ask(consumer, |consumer| {
        let metadata = consumer.fetch_metadata(None, consumer.context().patience)?;
        let count =
            |topic: &rdkafka::metadata::MetadataTopic| (topic.name().to_owned(), topic.partitions().len() as i32);
        Ok(metadata.topics().iter().map(count).collect::<BTreeMap<String, i32>>())
    })?;
    let mut found = BTreeMap::new();
    for (index, name) in topics.iter().enumerate() {
        match all.get(name) {
            Some(&count) if count > 0 => found.insert(index as u16, count),
            _ => return Err(missing(consumer, name)?),
        };
    }
    Ok(found)
}

/// Why a topic is not in the list of all: it does not exist, or it is hidden from this user. Only a request by name can tell;
/// these consumers do not allow it to create the topic.
fn missing(consumer: &Arc<KafkaConsumer>, topic: &str) -> Result<SourceError, SourceError> {
    let name = topic.to_owned();
    let code = ask(consumer, move |consumer| {
        let metadata = consumer.fetch_metadata(Some(&name), consumer.context().patience)?;
        Ok(metadata.topics().first().and_then(|topic| topic.error()).map(RDKafkaErrorCode::from))
    })?;
    Ok(code.and_then(|code| denied(topic, code)).unwrap_or_else(|| {
        SourceError::Invalid(format!(
            "source.topics: the brokers have no topic {topic:?}; create it, or correct the job file"
        ))
    }))
}

/// Topic and partition → offset.
pub(crate) type Offsets = BTreeMap<(String, i32), i64>;

/// The first `count` partitions of a topic, by its name.
pub(super) fn named(topics: &[String], topic: u16, count: i32) -> impl Iterator<Item = (String, i32)> + use<> {
    let name = topics[usize::from(topic)].clone();
    (0..count).map(move |partition| (name.clone(), partition))
}

/// The end of each partition: the offset that its next record will get.
///
/// # Errors
/// See [`ask`].
pub(super) fn end_offsets(
    consumer: &Arc<KafkaConsumer>,
    partitions: Vec<(String, i32)>,
) -> Result<Offsets, SourceError> {
    offsets(consumer, partitions, Offset::End)
}

/// The offsets of partitions at a position: [`Offset::Beginning`], [`Offset::End`], or a time in milliseconds as
/// [`Offset::Offset`]. One request for all. A partition that is not in the answer has no such offset: no record is that recent,
/// or it has no leader.
///
/// # Errors
/// See [`ask`].
pub(super) fn offsets(
    consumer: &Arc<KafkaConsumer>,
    partitions: Vec<(String, i32)>,
    at: Offset,
) -> Result<Offsets, SourceError> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    ask(consumer, move |consumer| {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in &partitions {
            list.add_partition_offset(topic, *partition, at)?;
        }
        let found = consumer.offsets_for_times(list, consumer.context().patience)?;
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => Some(((element.topic().to_owned(), element.partition()), offset)),
            _ => None,
        };
        Ok(found.elements().iter().filter_map(offset).collect())
    })
}

/// Whether the cluster is librdkafka's mock cluster (`floodmark dev broker`).
pub(super) fn is_embedded(consumer: &Arc<KafkaConsumer>) -> bool {
    let cluster = ask(consumer, |consumer| Ok(consumer.client().fetch_cluster_id(consumer.context().patience)));
    cluster.is_ok_and(|cluster| cluster.is_some_and(|cluster| cluster.starts_with("mockCluster")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_panics_says_so() {
        let mut client = ClientConfig::new();
        client.set("group.id", "test");
        let consumer = silent_consumer(&client, ASK).expect("a client");
        let asked = ask(&consumer, |_| -> KafkaResult<()> { panic!("by the test") });
        assert!(
            matches!(&asked, Err(SourceError::Bug(said)) if said == "asking the brokers panicked: by the test"),
            "{asked:?}"
        );
    }

    /// The reasons are worded as in librdkafka 2.12.
    #[test]
    fn what_brokers_refuse_is_told_from_what_may_pass() {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, BrokerTransportFailure, SSL};
        let password =
            "sasl_ssl://h:1/bootstrap: SASL authentication error: Authentication failed: Invalid username or password";
        let handshake = "sasl_ssl://h:1/bootstrap: SASL PLAIN mechanism handshake failed: ";
        let ssl = "ssl://h:1/bootstrap: SSL handshake failed: ";
        for (code, reason, expires, correct) in [
            (Authentication, password.to_owned(), false, Some("sasl.password")),
            (Authentication, password.to_owned(), true, None),
            (Authentication, format!("{handshake}Broker: Unsupported SASL mechanism"), false, Some("sasl.mechanism")),
            (Authentication, format!("{handshake}Local: Broker transport failure"), false, None),
            (
                SSL,
                format!("{ssl}error:0A000086:SSL routines::certificate verify failed"),
                false,
                Some("ssl.ca.location"),
            ),
            (SSL, format!("{ssl}error:0A00010B:SSL routines::wrong version number"), false, Some("security.protocol")),
            (SSL, format!("{ssl}SSL transport error: Connection timed out"), false, None),
            (BrokerTransportFailure, format!("{ssl}Disconnected"), false, None),
            (AllBrokersDown, "1/1 brokers are down".to_owned(), false, None),
        ] {
            let found = refusal(code, &reason, expires);
            assert_eq!(found.is_some(), correct.is_some(), "{reason}");
            assert!(found.unwrap_or_default().contains(correct.unwrap_or_default()), "{reason}: {found:?}");
        }
    }

    #[test]
    fn the_cause_is_named_rather_than_that_all_are_down() {
        let context = Context::new(&ClientConfig::new(), true, ASK);
        let down = || context.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        down();
        assert_eq!(context.complaints().last.as_deref(), Some("1/1 brokers are down"));
        context.error(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "Connection refused");
        down();
        assert_eq!(context.complaints().last.as_deref(), Some("Connection refused"));
        assert!(context.complaints().refusal.is_none());
    }
}
