//! How a running process can be watched: `/metrics` for Prometheus, `/healthz`, `/readyz`.
//!
//! In: the process' [`Progress`], its source. Out: answers over HTTP, by a thread of its own that the job does not wait for. State:
//! none. Failure: if the address can not be used, the start fails; a later failure ends the answers, not the job.

mod metrics;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataflow::Progress;
use crate::job::Settings;
use crate::model::Lane;
use crate::process::{Exit, HasExit};
use crate::source::SourceFactory;
use server::{Answer, PLAIN};

/// Where to listen. A port alone is one of 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        port.or_else(|_| text.parse()).map(Listen).map_err(|_| {
            "expected a port, to listen on 127.0.0.1, or an address and a port, such as 0.0.0.0:9464".to_owned()
        })
    }
}

/// Why nothing can listen at an address.
#[derive(Debug, thiserror::Error)]
#[error("--http {at}: {error}; {way_out}")]
pub struct ListenError {
    at: SocketAddr,
    error: std::io::Error,
    way_out: &'static str,
}

impl HasExit for ListenError {
    fn exit(&self) -> Exit {
        match self.error.kind() {
            // The process that holds the port may be ending.
            std::io::ErrorKind::AddrInUse => Exit::TryAgain,
            _ => Exit::Configuration,
        }
    }
}

/// Answers from now on until the process ends, and returns the address. `process` is the index of this process.
///
/// # Errors
/// [`ListenError`].
pub fn serve(
    Listen(at): Listen,
    progress: Arc<Progress>,
    source: Arc<dyn SourceFactory>,
    process: usize,
    settings: &Settings,
) -> Result<SocketAddr, ListenError> {
    let within = publishes_within(settings);
    let answer = move |path: &str| match path {
        "/metrics" => {
            Answer { code: 200, kind: metrics::FORMAT, body: metrics::text(&progress, source.lags(), process) }
        }
        "/healthz" => is("alive", progress.alive()),
        "/readyz" => is("ready", progress.ready(Instant::now(), within)),
        _ => Answer { code: 404, kind: PLAIN, body: "not found; try /metrics, /healthz or /readyz\n".to_owned() },
    };
    server::start(at, answer).map_err(|error| {
        let way_out = match error.kind() {
            std::io::ErrorKind::AddrInUse => "give each process on a host its own port",
            std::io::ErrorKind::AddrNotAvailable => "give an address of this machine",
            _ => "give another address",
        };
        ListenError { at, error, way_out }
    })
}

fn is(what: &str, said: Result<(), String>) -> Answer {
    match said {
        Ok(()) => Answer { code: 200, kind: PLAIN, body: format!("{what}\n") },
        Err(why) => Answer { code: 503, kind: PLAIN, body: why + "\n" },
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
    fn a_port_is_one_of_loopback() {
        let at = |text: &str| text.parse::<Listen>().map(|Listen(at)| at.to_string());
        assert_eq!(at("9464").as_deref(), Ok("127.0.0.1:9464"));
        assert_eq!(at("0.0.0.0:9464").as_deref(), Ok("0.0.0.0:9464"));
        assert_eq!(at("[::1]:0").as_deref(), Ok("[::1]:0"));
        for wrong in ["", ":9464", "localhost:9464", "70000", "127.0.0.1"] {
            assert!(at(wrong).is_err_and(|error| error.contains("0.0.0.0:9464")), "{wrong}");
        }
    }

    #[test]
    fn a_publish_is_expected_within_a_time_that_the_settings_allow() {
        assert_eq!(publishes_within(&Settings::default()), Duration::from_secs(180));
    }
}
