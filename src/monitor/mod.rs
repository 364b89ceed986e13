//! How a running process can be watched: `/metrics` for Prometheus, `/healthz`, `/readyz`.
//!
//! In: the process' [`Progress`], its source. Out: answers over HTTP, by a thread of its own that the job does not wait for. State:
//! none. Failure: if the address can not be used, the start fails; a later failure ends the answers, not the job.

mod metrics;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;

use crate::dataflow::Progress;
use crate::http::{self, Answer, BindError, Listen};
use crate::job::Settings;
use crate::model::Lane;
use crate::process::{Exit, HasExit};
use crate::source::SourceFactory;

/// Why nothing can answer.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address can not be used.
    #[error("--http {0}")]
    Bind(BindError),
    /// There is no thread to answer on.
    #[error("--http: the system could not start a thread: {0}; raise the process limit")]
    Thread(std::io::Error),
}

impl HasExit for ListenError {
    fn exit(&self) -> Exit {
        match self {
            ListenError::Bind(error) => error.exit(),
            ListenError::Thread(_) => Exit::Failed,
        }
    }
}

/// Answers from now on until the process ends, and returns the address. `process` is the index of this process.
///
/// # Errors
/// [`ListenError`].
pub fn serve(
    listen: Listen,
    progress: Arc<Progress>,
    source: Arc<dyn SourceFactory>,
    process: usize,
    settings: &Settings,
) -> Result<SocketAddr, ListenError> {
    let within = publishes_within(settings);
    let answer = move |path: &str| match path {
        "/metrics" => http::answer(StatusCode::OK, metrics::FORMAT, metrics::text(&progress, source.lags(), process)),
        "/healthz" => is("alive", progress.alive()),
        "/readyz" => is("ready", progress.ready(Instant::now(), within)),
        _ => http::text(StatusCode::NOT_FOUND, "not found; try /metrics, /healthz or /readyz"),
    };
    let listener = listen.bind().map_err(ListenError::Bind)?;
    let at = listener.address();
    server::start(listener, answer).map_err(ListenError::Thread)?;
    Ok(at)
}

fn is(what: &str, said: Result<(), String>) -> Answer {
    match said {
        Ok(()) => http::text(StatusCode::OK, what),
        Err(why) => http::text(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

/// Within what time the minute lane must be published again. When all is well, the longest time between two publishes is that of an
/// idle epoch and of the lane's pace. This is twice as long, and a minute more for large merges and a slow store.
fn publishes_within(settings: &Settings) -> Duration {
    Duration::from_secs(2 * (settings.idle_epoch_seconds + settings.publish_seconds[Lane::Minute as usize]) + 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_expected_within_a_time_that_the_settings_allow() {
        assert_eq!(publishes_within(&Settings::default()), Duration::from_secs(180));
    }
}
