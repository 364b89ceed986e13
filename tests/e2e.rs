//! End to end: the real binary with a real Kafka broker and a real S3 server, through `kill -9`, lost replies, servers that go away,
//! networks that break, rival copies, and topics that were changed or recreated.
//!
//! All tests are `#[ignore]`d, so that a plain `cargo test` needs no server. `scripts/test` runs them, or
//! `cargo test --release --test e2e -- --ignored --test-threads=1`. What was sent is known record by record, from Kafka's own
//! acknowledgements. What is in the tables is read by DuckDB, without our code (`tests/e2e_check.py`, `scripts/recount`).

mod e2e {
    mod away;
    mod check;
    mod cluster;
    mod identity;
    mod job;
    mod kafka;
    mod kills;
    mod portions;
    mod proxy;
    mod replays;
    mod rivals;
    mod secure;
    mod servers;
    mod start;
    mod steps;
    mod traffic;
    mod transactions;
}
