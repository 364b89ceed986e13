//! A small HTTP server on a thread of its own. No connection affects the job.
//!
//! In: GET and HEAD requests. Out: the answer for the path. State: at most [`CONNECTIONS_MAX`] connections at once, each with one
//! request, [`CONNECTION_TIME`] from the connection to the end of the answer, and a head of [`HEAD_BYTES_MAX`]; a body is not read.
//! Failure: a connection beyond these bounds is closed; a panic in an answer is answered with 500.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::process::panics::caught_in;

const CONNECTIONS_MAX: usize = 32;
const CONNECTION_TIME: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The pause when no connection can be accepted, for example for lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

pub(super) struct Answer {
    pub(super) code: u16,
    /// Its media type.
    pub(super) kind: &'static str,
    pub(super) body: String,
}

/// Listens, and answers each path from now on.
pub(super) fn start(at: SocketAddr, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = move || {
        if let Err(panic) = caught_in("the thread for HTTP", || runtime.block_on(run(listener, Arc::new(answer)))) {
            tracing::error!("{panic}; nothing answers over HTTP any more, the job goes on");
        }
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(body)?;
    Ok(at)
}

async fn run(listener: TcpListener, answer: Arc<impl Fn(&str) -> Answer + Send + Sync + 'static>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no metrics: the socket can not be watched"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    tracing::debug!(%from, "too many HTTP connections at once, let go");
                    continue;
                };
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    match tokio::time::timeout(CONNECTION_TIME, converse(stream, answer)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%from, %error, "HTTP connection let go"),
                        Err(_) => tracing::debug!(%from, "HTTP connection let go: too slow"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "no HTTP connection can be taken");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, answer: Arc<impl Fn(&str) -> Answer>) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(&request, &*answer);
        async { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(request: &Request<Incoming>, answer: impl Fn(&str) -> Answer) -> Response<Full<Bytes>> {
    let asks = matches!(*request.method(), Method::GET | Method::HEAD);
    let Answer { code, kind, body } = match asks {
        true => caught_in("an answer over HTTP", || answer(request.uri().path())).unwrap_or_else(|panic| Answer {
            code: 500,
            kind: PLAIN,
            body: panic + "\n",
        }),
        false => Answer { code: 405, kind: PLAIN, body: "only GET and HEAD\n".to_owned() },
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if !asks {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
