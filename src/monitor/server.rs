//! Answers on a thread of its own. No connection affects the job.
//!
//! In: GET and HEAD requests. Out: the answer for the path, after which the connection is closed. State: connections,
//! within [`LIMITS`]. Failure: if the server itself panics, nothing answers any more; that is logged, and the job goes on.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::runtime::Runtime;

use crate::http::{self, Answer, Limits, Listener};

const LIMITS: Limits =
    Limits { connections: 32, head_bytes: 16 << 10, head: Duration::from_secs(5), answer: Duration::from_secs(5) };

/// Answers each path from now on.
pub(super) fn start(listener: Listener, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = move || run(&runtime, listener, answer, pending());
    std::thread::Builder::new().name("http".to_owned()).spawn(body).map(drop)
}

fn run(
    runtime: &Runtime,
    listener: Listener,
    answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    shutdown: impl Future<Output = Duration>,
) {
    let answer = Arc::new(answer);
    let handler = move |request: Request<Incoming>| {
        let answer = Arc::clone(&answer);
        async move { respond(&request, &*answer) }
    };
    if let Err(why) = runtime.block_on(http::serve(listener, LIMITS, handler, shutdown)) {
        tracing::error!("{why}; nothing answers over HTTP any more, the job goes on");
    }
}

fn respond(request: &Request<Incoming>, answer: impl Fn(&str) -> Answer) -> Answer {
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => answer(request.uri().path()),
        _ => http::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD"),
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    http::closing(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked first in the loop that accepts is whether it ends.
    #[test]
    fn a_panic_of_the_server_is_logged() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let log = tracing_subscriber::fmt().with_writer(Arc::new(file.reopen().expect("opened"))).with_ansi(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = "0".parse::<http::Listen>().expect("a port").bind().expect("bound");
        tracing::subscriber::with_default(log.finish(), || {
            run(&runtime, listener, |_| http::text(StatusCode::OK, "alive"), async { panic!("by the test") });
        });
        let said = std::fs::read_to_string(file.path()).expect("UTF-8");
        assert!(
            said.contains("ERROR") && said.contains("panicked: by the test; nothing answers over HTTP any more"),
            "{said}"
        );
    }
}
