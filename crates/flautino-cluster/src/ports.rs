//! Ports that are kept while no server listens on them.
//!
//! A socket that is bound and does not listen refuses connections and keeps its port. One stands in for
//! each server that is down.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// Below Linux's ephemeral ports, so that no outgoing connection sits on one, and above what
/// services use.
const RANGE: std::ops::Range<u16> = 15_000..32_768;

/// A port of 127.0.0.1 that refuses connections for as long as this lives.
#[derive(Debug)]
pub(crate) struct HeldPort {
    socket: Socket,
    port: u16,
}

impl HeldPort {
    /// A port that is free now.
    pub(crate) fn pick() -> io::Result<Self> {
        for _ in 0..200 {
            // With SO_REUSEADDR this could bind a port that another cluster holds without listening.
            if let Ok(held) = Self::bind(fastrand::u16(RANGE), false) {
                return Ok(held);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("200 ports at random in {RANGE:?} are all taken"),
        ))
    }

    /// The port that a server has just left.
    pub(crate) fn hold(port: u16) -> io::Result<Self> {
        // While connections are in TIME_WAIT, which lasts a minute, only SO_REUSEADDR can bind it.
        Self::bind(port, false).or_else(|_| Self::bind(port, true))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Lets a server listen here that sets `SO_REUSEADDR`, as servers do, while it stays taken for all who
    /// pick a port.
    #[cfg(feature = "patroni")]
    pub(crate) fn share(&self) -> io::Result<()> {
        self.socket.set_reuse_address(true)
    }

    /// Accepts connections from now on.
    pub(crate) fn listen(self) -> io::Result<TcpListener> {
        // Connections inherit this option; without it they would keep the port from being held again.
        self.socket.set_reuse_address(true)?;
        self.socket.listen(1024)?;
        self.socket.set_nonblocking(true)?;
        Ok(self.socket.into())
    }

    fn bind(port: u16, reuse: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        Ok(Self { socket, port })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_held_port_refuses_connections_and_is_not_picked_again() {
        let held = HeldPort::pick().unwrap();
        let error = TcpStream::connect((Ipv4Addr::LOCALHOST, held.port())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(HeldPort::bind(held.port(), false).is_err());
    }

    #[cfg(feature = "patroni")]
    #[test]
    fn a_port_that_is_shared_can_be_listened_on_again_and_again_and_is_not_picked() {
        let held = HeldPort::pick().unwrap();
        held.share().unwrap();
        for _ in 0..3 {
            let server = TcpListener::bind((Ipv4Addr::LOCALHOST, held.port())).unwrap();
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, held.port())).unwrap();
            drop((server.accept().unwrap(), client));
            assert!(HeldPort::bind(held.port(), false).is_err());
            drop(server);
            assert!(HeldPort::bind(held.port(), false).is_err());
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, held.port())).is_err());
        }
    }

    /// A port that nobody listens on any more, while a connection to it is in `TIME_WAIT`.
    fn left_with_a_connection() -> u16 {
        let held = HeldPort::pick().unwrap();
        let port = held.port();
        let listener = held.listen().unwrap();
        listener.set_nonblocking(false).unwrap();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop((server, listener));
        drop(client);
        port
    }

    #[test]
    fn a_port_with_connections_that_linger_can_be_held() {
        // Another program may take a port before it is held again, but not twenty in a row.
        let held = (0..20).find_map(|_| HeldPort::hold(left_with_a_connection()).ok()).unwrap();
        let port = held.port();
        assert!(HeldPort::bind(port, false).is_err());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        // It can open again.
        let _listener = held.listen().unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    }
}
