//! Responses that are whole before they are sent.
//!
//! In: a status, a media type, a body. Out: a response. Pure: no state.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

/// A response that is whole before it is sent.
pub type Answer = Response<Full<Bytes>>;

/// The media type of [`text`].
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// A response with `body`, of the media type `kind`.
pub fn answer(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A line of plain text, which is ended here.
pub fn text(code: StatusCode, line: &str) -> Answer {
    answer(code, PLAIN, format!("{line}\n"))
}

/// The same response, after which the connection is closed.
pub fn closing<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
