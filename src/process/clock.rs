//! The clock as a value: the system's, or one that a test controls.
//!
//! Out: the time in µs since 1970 UTC, cut to whole milliseconds. Time: the system's clock may go back; callers that need a time
//! that never does keep the newest one themselves. State: only the test's clock has one, its time. Failure: none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::model::TimeUs;

/// A source of the time, in whole milliseconds so that `ingested_at`, statistics and `complete_until` agree.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's clock.
    System,
    /// A test's clock.
    Manual(ManualClock),
}

/// A clock that shows the same time until it is set; clones share it.
#[derive(Clone, Debug)]
pub struct ManualClock(watch::Sender<TimeUs>);

impl ManualClock {
    /// A clock that shows `time`.
    pub fn at(time: TimeUs) -> Self {
        ManualClock(watch::Sender::new(time))
    }

    /// Sets the clock.
    pub fn set(&self, time: TimeUs) {
        self.0.send_replace(time);
    }
}

impl Clock {
    /// Microseconds since 1970 UTC, whole milliseconds.
    pub fn now(&self) -> TimeUs {
        let us = match self {
            Clock::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as TimeUs)
            }
            Clock::Manual(clock) => *clock.0.borrow(),
        };
        us - us.rem_euclid(1000)
    }

    /// Milliseconds since 1970 UTC.
    pub fn now_ms(&self) -> i64 {
        self.now() / 1000
    }

    /// Waits until the clock shows `time` or later.
    pub async fn reaches(&self, time: TimeUs) {
        match self {
            Clock::System => {
                let left = time - self.now();
                if left > 0 {
                    tokio::time::sleep(Duration::from_micros(left as u64)).await;
                }
            }
            Clock::Manual(clock) => {
                // The clock holds the sender, so the channel is not closed.
                clock.0.subscribe().wait_for(|now| *now >= time).await.map(drop).unwrap_or_default();
            }
        }
    }
}
