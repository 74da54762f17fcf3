//! What a client requests, one after the other, in each workload.

use std::io::Error;
use std::time::Duration;

use tokio::time::Instant;

use super::http::Client;
use crate::options::Workload;
use crate::world::{LISTED, REPLICA, ROWS};

/// How long after its write a client of `token` reads what it wrote.
pub(crate) const PAUSES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(50)];
/// One of so many requests of `mixed` is a write.
const MIXED: u32 = 20;

/// One client's part.
#[derive(Debug)]
pub(super) struct Script {
    workload: Workload,
    /// Its number, and how many there are.
    client: (i32, i32),
    /// The latest one that came with a response.
    token: Option<String>,
    /// In `token`: what was written when, and how many of the [`PAUSES`] are over.
    written: Option<(i32, Instant, usize)>,
}

/// Which node has served a read in `token`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    /// The pause before it, by its number.
    pub(super) pause: usize,
    pub(super) by_replica: bool,
}

impl Script {
    pub(super) fn new(workload: Workload, client: i32, clients: i32) -> Self {
        Self { workload, client: (client, clients), token: None, written: None }
    }

    /// When the next request is to be sent, if not at once.
    pub(super) fn due(&self) -> Option<Instant> {
        let (_, written, reads) = self.written?;
        Some(written + PAUSES[reads])
    }

    /// Sends the next request, and waits for the response.
    pub(super) async fn next(&mut self, client: &mut Client) -> Result<Option<Located>, Error> {
        let any = fastrand::i32(0..ROWS);
        let path = match self.workload {
            Workload::Three => format!("/three/{any}"),
            Workload::List => format!("/list/{}", fastrand::i32(0..=ROWS - LISTED)),
            Workload::Write => return self.write(client, "rows").await,
            Workload::Tx => return self.write(client, "tx").await,
            Workload::Token => return self.write_and_read(client).await,
            Workload::Mixed => return self.write_or_read(client, any).await,
            Workload::One | Workload::Burst | Workload::Storm => format!("/rows/{any}"),
        };
        client.request("GET", &path, None).await?;
        Ok(None)
    }

    /// Writes a row of its own.
    async fn write(&self, client: &mut Client, route: &str) -> Result<Option<Located>, Error> {
        client.request("POST", &format!("/{route}/{}", self.own_row()), None).await?;
        Ok(None)
    }

    /// A write, or a read after a pause with the write's token.
    async fn write_and_read(&mut self, client: &mut Client) -> Result<Option<Located>, Error> {
        let Some((row, written, pause)) = self.written.take() else {
            let row = self.own_row();
            let response = client.request("POST", &format!("/rows/{row}"), None).await?;
            self.token = response.token().map(str::to_owned);
            self.written = Some((row, Instant::now(), 0));
            return Ok(None);
        };
        if pause + 1 < PAUSES.len() {
            self.written = Some((row, written, pause + 1));
        }
        let path = format!("/located/{row}");
        let response = client.request("GET", &path, self.token.as_deref()).await?;
        let by_replica = response.served_by().is_some_and(|node| node.starts_with(REPLICA));
        Ok(Some(Located { pause, by_replica }))
    }

    /// A request with the latest token that came with a response.
    async fn write_or_read(
        &mut self,
        client: &mut Client,
        any: i32,
    ) -> Result<Option<Located>, Error> {
        let (method, row) =
            if fastrand::u32(0..MIXED) == 0 { ("POST", self.own_row()) } else { ("GET", any) };
        let response =
            client.request(method, &format!("/rows/{row}"), self.token.as_deref()).await?;
        if let Some(token) = response.token() {
            self.token = Some(token.to_owned());
        }
        Ok(None)
    }

    /// A row that no other client writes, so that writers do not wait for each other.
    fn own_row(&self) -> i32 {
        let (client, clients) = self.client;
        client + clients * fastrand::i32(0..ROWS / clients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_clients_write_the_same_row() {
        for client in 0..3 {
            let script = Script::new(Workload::Write, client, 3);
            for _ in 0..100 {
                let row = script.own_row();
                assert!((0..ROWS).contains(&row) && row % 3 == client, "{row}");
            }
        }
    }
}
