//! A minimal client of HTTP/1.1 that keeps its connection. It does little, so that the clients use little
//! of the machine.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::ROWS;

/// The response's header that names the node which has served a request.
pub(crate) const SERVED_BY: &str = "served-by";
/// flautino's own header, in requests and responses.
const TOKEN: &str = "flautino-token";

/// A client with a connection of its own.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    response: Vec<u8>,
}

/// A response, all of which has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    head: &'a str,
    body: &'a str,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, response: Vec::with_capacity(4096) })
    }

    /// Reads one row at random.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub(crate) async fn read_row(&mut self) -> Result<(), Error> {
        self.request("GET", &format!("/rows/{}", fastrand::i32(0..ROWS)), None).await?;
        Ok(())
    }

    /// Sends a request, with a token if there is one, and waits for all of the response.
    ///
    /// # Errors
    ///
    /// When the connection is lost; or when the status is not 200, and then with the body.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
    ) -> Result<Response<'_>, Error> {
        self.send(method, path, token).await?;
        self.receive().await
    }

    /// Sends a request, and does not read the response.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
    ) -> Result<(), Error> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        if let Some(token) = token {
            request.extend([TOKEN, ": ", token, "\r\n"]);
        }
        request.push_str("\r\n");
        self.stream.write_all(request.as_bytes()).await
    }

    async fn receive(&mut self) -> Result<Response<'_>, Error> {
        self.response.clear();
        while parse(&self.response)?.is_none() {
            if self.stream.read_buf(&mut self.response).await? == 0 {
                return Err(invalid("the app closed the connection"));
            }
        }
        let response = parse(&self.response)?.ok_or_else(|| invalid("no response"))?;
        if response.is_success() { Ok(response) } else { Err(Error::other(response.body)) }
    }
}

impl<'a> Response<'a> {
    /// The token that came with it.
    pub(crate) fn token(&self) -> Option<&'a str> {
        header(self.head, TOKEN)
    }

    /// The node that has served it, if the app says so.
    pub(crate) fn served_by(&self) -> Option<&'a str> {
        header(self.head, SERVED_BY)
    }

    fn is_success(&self) -> bool {
        self.head.get(9..12) == Some("200")
    }
}

/// The response, once all of it has arrived.
fn parse(response: &[u8]) -> Result<Option<Response<'_>>, Error> {
    let response = std::str::from_utf8(response).map_err(|_| invalid("the response is no text"))?;
    let Some((head, body)) = response.split_once("\r\n\r\n") else { return Ok(None) };
    let length = header(head, "content-length").and_then(|length| length.parse().ok());
    let length: usize = length.ok_or_else(|| invalid("the response has no length"))?;
    Ok((body.len() >= length).then_some(Response { head, body }))
}

/// A header's value. hyper writes the names in lower case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
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
        let response = parse(text).unwrap().unwrap();
        assert!(!response.is_success());
        assert_eq!(response.body, "oops");
    }

    #[test]
    fn headers_are_found_by_their_whole_name() {
        let text = b"HTTP/1.1 200 OK\r\nflautino-token-2: b\r\nflautino-token: a\r\n\
                     content-length: 0\r\n\r\n";
        let response = parse(text).unwrap().unwrap();
        assert!(response.is_success());
        assert_eq!((response.token(), response.served_by()), (Some("a"), None));
    }
}
