//! Accepts connections, within a bound, and answers their requests, with keep-alive: the server under all doors of this program.
//!
//! In: connections. Out: the handler's responses, for one connection in the order of its requests. Time: a connection has a deadline
//! at every moment: for the head of its next request, then for the answer. State: a task for each connection, with two buffers of
//! [`Limits::head_bytes`]. Failure: a connection that is too slow, or whose head is too large, is closed; if a handler panics, its
//! request is answered with a 500 and the connection closed; if connections can not be accepted, that is tried again after a pause.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::{closing, text};
use super::listen::Listener;
use crate::process::panics::{caught, of_task};

/// The pause when no connection can be accepted, for example for lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// What hyper takes as the error of a body.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a server puts up with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time. Further ones are not accepted: they wait until one ends.
    pub connections: usize,
    /// Bytes of a request's head, and of each of a connection's two buffers: at least 8192.
    pub head_bytes: usize,
    /// The time from the connection, or from the end of an answer, to the end of the next head. An idle connection is kept for so
    /// long.
    pub head: Duration,
    /// The time from the end of a head to the end of the answer. When it is over, the handler is dropped and the connection closed.
    pub answer: Duration,
}

/// Answers requests with `handler`, until `shutdown` is ready. What that returns is the time in which requests in flight must end.
/// No connection is accepted any more then, and idle ones are closed. If this future is dropped, so are all connections.
///
/// # Errors
/// A text: why the server has ended although `shutdown` was not ready, which is a panic or a socket that can not be watched.
pub async fn serve<H, F, B>(
    listener: Listener,
    limits: Limits,
    handler: H,
    shutdown: impl Future<Output = Duration>,
) -> Result<(), String>
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let listener = listener.watched().map_err(|error| format!("the HTTP server can not watch its socket: {error}"))?;
    serve_on(listener, limits, handler, shutdown).await
}

/// What connections come from.
pub(super) trait Accept {
    /// The next connection, and where it comes from.
    fn next(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn next(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        self.accept()
    }
}

pub(super) async fn serve_on<H, F, B>(
    listener: impl Accept,
    limits: Limits,
    handler: H,
    shutdown: impl Future<Output = Duration>,
) -> Result<(), String>
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let (stopping, stops) = watch::channel(false);
    let handler = Arc::new(handler);
    let converse = |stream, from| converse(stream, from, limits, Arc::clone(&handler), stops.clone());
    caught("the HTTP server", async {
        let mut connections = JoinSet::new();
        let within = accept(listener, limits.connections, &mut connections, converse, shutdown).await;
        stopping.send_replace(true);
        drain(connections, within).await;
    })
    .await
}

/// Accepts connections until `shutdown` is ready; then the listener is closed.
async fn accept<C>(
    mut listener: impl Accept,
    connections_max: usize,
    connections: &mut JoinSet<()>,
    converse: impl Fn(TcpStream, SocketAddr) -> C,
    shutdown: impl Future<Output = Duration>,
) -> Duration
where
    C: Future<Output = ()> + Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let mut fails = false;
    loop {
        tokio::select! {
            within = &mut shutdown => return within,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.next(), if connections.len() < connections_max => match accepted {
                Ok((stream, from)) => {
                    fails = false;
                    connections.spawn(converse(stream, from));
                    if connections.len() == connections_max {
                        tracing::debug!(connections_max, "no more HTTP connections at once: further ones wait");
                    }
                }
                Err(error) if of_one_connection(&error) => tracing::debug!(%error, "an HTTP connection was lost early"),
                Err(error) => {
                    // Once, not five times a second.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "no HTTP connection can be accepted; it is tried again");
                    }
                    sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
}

/// An error of the connection that would have been accepted: the next one may be well.
pub(super) fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Waits for the connections that are left, and closes those that are not done `within` that time.
async fn drain(mut connections: JoinSet<()>, within: Duration) {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(within, all).await.is_err() {
        tracing::warn!(connections = connections.len(), "HTTP requests were not answered in time: closed at shutdown");
    }
}

/// A handler's panic does not come here: that is answered.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("{}; the other connections go on", of_task("an HTTP connection", error));
    }
}

/// One connection, from its first request to its end.
async fn converse<H, F, B>(
    stream: TcpStream,
    from: SocketAddr,
    limits: Limits,
    handler: Arc<H>,
    mut stops: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    // Otherwise the last piece of an answer may wait for an acknowledgement.
    stream.set_nodelay(true).ok();
    let (deadline, mut until) = watch::channel(Instant::now() + limits.head);
    let service = service_fn(|request| {
        deadline.send_replace(Instant::now() + limits.answer);
        let (handler, deadline) = (Arc::clone(&handler), deadline.clone());
        async move {
            let response = respond(request, &*handler).await;
            Ok::<_, Infallible>(response.map(|body| Timed { body, rest: Bytes::new(), limits, deadline }))
        }
    });
    let connection =
        http1::Builder::new().max_buf_size(limits.head_bytes).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut stopping = false;
    loop {
        let deadline = *until.borrow_and_update();
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%from, %error, "HTTP connection closed");
                }
                return;
            }
            Ok(()) = until.changed() => {}
            () = sleep_until(deadline) => return tracing::debug!(%from, "HTTP connection closed: too slow"),
            Ok(_) = stops.wait_for(|stops| *stops), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The handler's response; if it panics, a 500, and the connection ends.
async fn respond<H, F, B>(request: Request<Incoming>, handler: &H) -> Response<Either<B, Full<Bytes>>>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
{
    let (method, uri) = (request.method().clone(), request.uri().clone());
    match caught("an answer over HTTP", async { handler(request).await }).await {
        Ok(response) => response.map(Either::Left),
        Err(panic) => {
            tracing::error!(%method, path = uri.path(), "{panic}; it was answered with 500");
            closing(text(StatusCode::INTERNAL_SERVER_ERROR, &panic)).map(Either::Right)
        }
    }
}

/// The body of an answer, in pieces that fit in a connection's buffer. So at its end almost all of it is sent, and the time for the
/// next head begins.
struct Timed<B> {
    body: B,
    /// What is left of the body's last frame.
    rest: Bytes,
    limits: Limits,
    deadline: watch::Sender<Instant>,
}

impl<B> Drop for Timed<B> {
    fn drop(&mut self) {
        self.deadline.send_replace(Instant::now() + self.limits.head);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Timed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(self.limits.head_bytes);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
