//! A minimal client of HTTP/1.1 that keeps its connection. It does little, so that the clients use little
//! of the machine.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::ROWS;

/// A client with a connection of its own.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    response: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, response: Vec::with_capacity(1024) })
    }

    /// Reads one row at random.
    ///
    /// # Errors
    ///
    /// When the connection is lost; or when the status is not 200, and then with the body.
    pub(crate) async fn read_row(&mut self) -> Result<(), Error> {
        self.send(&format!("/rows/{}", fastrand::i32(0..ROWS))).await?;
        self.receive().await
    }

    /// Sends a request, and does not read the response.
    pub(crate) async fn send(&mut self, path: &str) -> Result<(), Error> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await
    }

    async fn receive(&mut self) -> Result<(), Error> {
        self.response.clear();
        loop {
            if self.stream.read_buf(&mut self.response).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the app closed the connection"));
            }
            if let Some((status, body)) = parse(&self.response)? {
                return if status == "200" { Ok(()) } else { Err(Error::other(body.to_owned())) };
            }
        }
    }
}

/// Status and body, once all of the response has arrived.
fn parse(response: &[u8]) -> Result<Option<(&str, &str)>, Error> {
    let invalid = |what| Error::new(ErrorKind::InvalidData, what);
    let response = std::str::from_utf8(response).map_err(|_| invalid("the response is no text"))?;
    let Some((head, body)) = response.split_once("\r\n\r\n") else { return Ok(None) };
    // hyper writes header names in lower case.
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize =
        length.and_then(|length| length.parse().ok()).ok_or_else(|| invalid("no length"))?;
    let status = head.get(9..12).ok_or_else(|| invalid("no status"))?;
    Ok((body.len() >= length).then_some((status, body)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_when_its_body_is() {
        let text = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(parse(text).unwrap(), Some(("500", "oops")));
    }
}
