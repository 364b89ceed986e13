//! An HTTP/1.1 server: what every server of this program shares.
//!
//! In: an address ([`Listen`]), [`Limits`], and a handler, an async function from a request to a response. Out: the handler's
//! responses; [`serve`] is one future, on the runtime of its caller. Time: each connection always has a deadline. State: the
//! connections, at most [`Limits::connections`]. Failure: a panic in a handler is answered with 500; one of the server itself ends
//! [`serve`] with an error. At a shutdown requests in flight may still end, up to a deadline. Paths are the handler's.

mod answer;
mod listen;
mod server;
#[cfg(test)]
mod tests;

pub use answer::{Answer, PLAIN, answer, closing, text};
pub use listen::{BindError, Listen, Listener};
pub use server::{Limits, serve};
