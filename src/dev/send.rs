//! Sends records to a topic: checks or creates the topic, sends with back-pressure, and counts deliveries.
//!
//! In: records with their partition and timestamp, in order. Out: acknowledged records, in the same order within a partition (the producer
//! is idempotent). State: librdkafka's queue, bounded by `queue.buffering.max.*`; when it is full, the caller waits. Failure: a record that
//! is not delivered ends the work.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

/// How long Kafka may take to answer a request about a topic.
const ANSWER: Duration = Duration::from_secs(15);
/// Delivery reports are polled after this many records.
const POLL_EVERY: u32 = 1024;

/// How to reach Kafka.
#[derive(Args, Clone, Debug, Default)]
pub struct KafkaArgs {
    /// Addresses of the brokers, as host:port,host:port
    #[arg(long, value_name = "HOST:PORT", requires = "topic")]
    pub brokers: Option<String>,

    /// The topic to send to
    #[arg(long, value_name = "NAME", requires = "brokers")]
    pub topic: Option<String>,

    /// A librdkafka property, such as -X security.protocol=SASL_SSL or -X compression.type=zstd; may be repeated
    ///
    /// Defaults: enable.idempotence=true, compression.type=lz4, linger.ms=50, batch.size=1000000,
    /// message.max.bytes=4000000, client.id=floodmark-dev.
    #[arg(short = 'X', value_name = "KEY=VALUE", value_parser = property)]
    pub properties: Vec<(String, String)>,
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        // The value is not repeated, since it may be a secret.
        _ => Err("expected KEY=VALUE, such as compression.type=zstd".to_owned()),
    }
}

/// A topic to send to.
pub(super) struct Sender {
    producer: BaseProducer<Deliveries>,
    topic: String,
    partitions: i32,
    sent: u64,
    unpolled: u32,
}

/// What librdkafka reports about deliveries.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    last_error: Mutex<Option<(Instant, String)>>,
}

impl Deliveries {
    /// The client's last error as the end of a message; empty if it is older than `age_max`.
    fn last_error(&self, age_max: Duration) -> String {
        match &*self.last_error.lock().expect("no panic while locked") {
            Some((at, reason)) if at.elapsed() <= age_max => format!("; last error: {reason}"),
            _ => String::new(),
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka error");
        // "All brokers are down" says less than the error before it.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.last_error.lock().expect("no panic while locked") = Some((Instant::now(), reason.to_owned()));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if let Err((error, _)) = result {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.first_failure.lock().expect("no panic while locked").get_or_insert_with(|| error.to_string());
        }
    }
}

impl Sender {
    /// Connects, and makes sure that the topic exists. With `partitions` it is created if it is missing, and must have that many.
    ///
    /// # Errors
    /// A wrong property; no answer from Kafka; an unknown topic; another number of partitions.
    pub(super) fn open(args: &KafkaArgs, partitions: Option<i32>) -> anyhow::Result<Sender> {
        let (Some(brokers), Some(topic)) = (args.brokers.as_deref(), args.topic.as_deref()) else {
            bail!("--brokers and --topic are needed to send to Kafka");
        };
        let mut config = ClientConfig::new();
        for (key, value) in [
            ("enable.idempotence", "true"),
            ("compression.type", "lz4"),
            ("linger.ms", "50"),
            ("batch.size", "1000000"),
            ("message.max.bytes", "4000000"),
            ("client.id", "floodmark-dev"),
        ] {
            config.set(key, value);
        }
        for (key, value) in &args.properties {
            // These are two names of one property; the one that was given wins.
            if key == "compression.codec" {
                config.remove("compression.type");
            }
            config.set(key, value);
        }
        config.set("bootstrap.servers", brokers);
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).context("cannot create the Kafka producer (check -X)")?;
        let mut sender = Sender { producer, topic: topic.to_owned(), partitions: 0, sent: 0, unpolled: 0 };
        sender.partitions = match (sender.partitions_now(brokers)?, partitions) {
            (Some(found), None) => found,
            (Some(found), Some(expected)) => {
                ensure!(
                    found == expected,
                    "topic {topic} has {found} partitions, but --partitions is {expected}: omit --partitions, or set it to {found}"
                );
                found
            }
            (None, Some(partitions)) => {
                sender.create(&config, partitions)?;
                sender.wait_for_partitions(brokers, partitions)?;
                partitions
            }
            (None, None) => bail!("there is no topic {topic} at {brokers}: give --partitions N to create it"),
        };
        Ok(sender)
    }

    /// The number of partitions; `None` if there is no topic. Asks for all topics, since asking for one by name may create it.
    fn partitions_now(&self, brokers: &str) -> anyhow::Result<Option<i32>> {
        let metadata = self.producer.client().fetch_metadata(None, ANSWER).map_err(|error| {
            self.producer.poll(Duration::from_millis(10));
            let last = self.producer.context().last_error(ANSWER);
            anyhow::anyhow!("no answer from Kafka at {brokers} within {} s ({error}{last})", ANSWER.as_secs())
        })?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        Ok(topic.map(|topic| topic.partitions().len() as i32).filter(|&count| count > 0))
    }

    fn create(&self, config: &ClientConfig, partitions: i32) -> anyhow::Result<()> {
        let topic = &self.topic;
        // librdkafka's mock cluster has no controller: the request would wait for one until it times out.
        let cluster = self.producer.client().fetch_cluster_id(ANSWER).unwrap_or_default();
        ensure!(
            !cluster.starts_with("mockCluster"),
            "there is no topic {topic}, and the embedded broker cannot create topics on request: \
             start it with `floodmark dev broker --topic {topic}:{partitions}`"
        );
        // A replication of −1 means the broker's default.
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let mut config = config.clone();
        for key in ["enable.idempotence", "compression.type", "compression.codec", "linger.ms", "batch.size"] {
            config.remove(key);
        }
        let admin: AdminClient<DefaultClientContext> = config.create().context("can not set up the Kafka client")?;
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        let results = block_on(admin.create_topics([&new], &options));
        let code = match results.map(|results| results.into_iter().next()) {
            Ok(Some(Err((_, code)))) => code,
            Ok(_) => return Ok(()),
            Err(KafkaError::AdminOp(code)) => code,
            Err(error) => return Err(error).with_context(|| format!("can not create topic {topic}")),
        };
        match code {
            RDKafkaErrorCode::TopicAlreadyExists => Ok(()),
            code => bail!("can not create topic {topic} with {partitions} partitions: {code}"),
        }
    }

    fn wait_for_partitions(&self, brokers: &str, partitions: i32) -> anyhow::Result<()> {
        let deadline = Instant::now() + ANSWER;
        while self.partitions_now(brokers)? != Some(partitions) {
            ensure!(
                Instant::now() < deadline,
                "topic {} was created, but its {partitions} partitions were not ready after {} s",
                self.topic,
                ANSWER.as_secs()
            );
            self.producer.poll(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The number of partitions of the topic.
    pub(super) fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Hands a record to librdkafka, and waits while its queue is full. A `timestamp_ms` of `None` means now.
    ///
    /// # Errors
    /// A record that can not be sent at all, such as one over `message.max.bytes`; failed deliveries.
    pub(super) fn send(
        &mut self,
        partition: i32,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(partition);
        (record.key, record.payload, record.timestamp) = (key, value, timestamp_ms);
        while let Err((error, unsent)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                let bytes = value.map_or(0, <[u8]>::len);
                return Err(error).with_context(|| {
                    format!("can not send record {} ({bytes} bytes) to {}", self.sent + 1, self.topic)
                });
            }
            record = unsent;
            self.producer.poll(Duration::from_millis(20));
            self.check_failures()?;
        }
        self.sent += 1;
        self.unpolled += 1;
        if self.unpolled == POLL_EVERY {
            self.unpolled = 0;
            self.producer.poll(Duration::ZERO);
            self.check_failures()?;
        }
        Ok(())
    }

    /// Handles delivery reports for about this long.
    pub(super) fn idle(&self, time: Duration) {
        self.producer.poll(time);
    }

    /// How many records are not acknowledged yet, and the last error if there are any; as the end of a message.
    pub(super) fn in_flight(&self) -> String {
        match self.producer.in_flight_count() {
            0 => String::new(),
            count => format!("{count} in flight{}", self.producer.context().last_error(ANSWER)),
        }
    }

    /// A failed delivery ends the work immediately: records after it would leave a gap.
    fn check_failures(&self) -> anyhow::Result<()> {
        if self.producer.context().failed.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.fail()
    }

    fn fail(&self) -> anyhow::Result<()> {
        let deliveries = self.producer.context();
        let failed = deliveries.failed.load(Ordering::Relaxed);
        let first = deliveries.first_failure.lock().expect("no panic while locked").clone().unwrap_or_default();
        bail!(
            "{failed} of {} records were not delivered to topic {}; the first: {first}{}",
            self.sent,
            self.topic,
            deliveries.last_error(Duration::MAX)
        )
    }

    /// Waits until every record is acknowledged; `waiting` is called about five times a second.
    ///
    /// # Errors
    /// A record was not delivered (after librdkafka's `message.timeout.ms`).
    pub(super) fn finish(&self, mut waiting: impl FnMut(&Sender)) -> anyhow::Result<()> {
        while self.producer.in_flight_count() > 0 {
            match self.producer.flush(Duration::from_millis(200)) {
                Ok(()) | Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => waiting(self),
                Err(error) => return Err(error).context("can not flush the Kafka producer"),
            }
        }
        self.producer.poll(Duration::ZERO);
        self.check_failures()
    }
}
