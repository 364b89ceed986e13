//! The address where a server listens.
//!
//! In: a text of the command line. Out: a bound socket, or why there is none and what to do about it. State: that socket. Failure:
//! an address that is in use may become free; any other is wrong.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;

use crate::process::{Exit, HasExit};

/// Where to listen. A port alone is on 127.0.0.1.
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

/// A bound socket: clients can connect from now on, and wait until they are served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    at: SocketAddr,
}

impl Listen {
    /// Binds the address.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(self) -> Result<Listener, BindError> {
        let bound = || {
            let socket = TcpListener::bind(self.0)?;
            socket.set_nonblocking(true)?;
            let at = socket.local_addr()?;
            Ok(Listener { socket, at })
        };
        bound().map_err(|error: io::Error| {
            let way_out = match error.kind() {
                io::ErrorKind::AddrInUse => "give each process on a host its own port",
                io::ErrorKind::AddrNotAvailable => "give an address of this machine",
                _ => "give another address",
            };
            BindError { at: self.0, error, way_out }
        })
    }
}

impl Listener {
    /// The address, with the port that the system has chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.at
    }

    /// The socket, watched by the runtime of the caller.
    pub(super) fn watched(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.socket)
    }
}

/// Why nothing can listen at an address.
#[derive(Debug, thiserror::Error)]
#[error("{at}: {error}; {way_out}")]
pub struct BindError {
    at: SocketAddr,
    error: io::Error,
    way_out: &'static str,
}

impl HasExit for BindError {
    fn exit(&self) -> Exit {
        match self.error.kind() {
            // The process that holds the port may be ending.
            io::ErrorKind::AddrInUse => Exit::TryAgain,
            _ => Exit::Configuration,
        }
    }
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
    fn a_taken_address_may_become_free() {
        let holds = "0".parse::<Listen>().expect("a port").bind().expect("bound");
        let taken = holds.address().to_string();
        let error = taken.parse::<Listen>().expect("an address").bind().expect_err("it is taken");
        let said = error.to_string();
        assert!(said.starts_with(&format!("{taken}: ")) && said.ends_with("its own port"), "{said}");
        assert_eq!(error.exit(), Exit::TryAgain);
    }
}
