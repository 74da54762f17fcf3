//! A proxy in front of a server that counts what clients send to it, by the messages of PostgreSQL's
//! protocol. Its counts are exact; it is slow, so nothing is timed through it.

mod messages;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use self::messages::Messages;
use crate::child::CHILD_TIMEOUT;
use crate::error::BoxError;

/// The `application_name` of all apps at the servers. Connections of flautino's outside its pool have more
/// in it.
pub(crate) const APPLICATION_NAME: &str = "bench";
/// For so long nothing may have happened before it counts as quiet.
const QUIET: Duration = Duration::from_millis(30);
/// Longer than any start-up message that an app sends.
const MAX_STARTUP: usize = 10_000;

/// The proxy. It ends, with its connections, when this is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
    serving: JoinHandle<()>,
}

/// What was counted so far. The opening of a connection is not part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// How often an app sent something on a connection of its pool and waited for the server to be ready
    /// again.
    pub(crate) round_trips: u64,
    /// How many statements were sent over connections of its pool.
    pub(crate) statements: u64,
    /// How many over its other connections: those of flautino's monitor.
    pub(crate) beside: u64,
    /// How many statements were prepared on connections of its pool.
    pub(crate) prepared: u64,
}

#[derive(Debug, Default)]
struct Counts {
    round_trips: AtomicU64,
    statements: AtomicU64,
    beside: AtomicU64,
    prepared: AtomicU64,
    /// Connections on which the server is at work.
    busy: AtomicU64,
}

impl Meter {
    /// A proxy to this server.
    pub(crate) async fn start(server: SocketAddr) -> Result<Self, BoxError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::<Counts>::default();
        let serving = tokio::spawn(serve(listener, server, Arc::clone(&counts)));
        Ok(Self { address, counts, serving })
    }

    fn reading(&self) -> Reading {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let Counts { round_trips, statements, beside, prepared, busy: _ } = &*self.counts;
        Reading {
            round_trips: of(round_trips),
            statements: of(statements),
            beside: of(beside),
            prepared: of(prepared),
        }
    }

    fn is_busy(&self) -> bool {
        self.counts.busy.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The sum of what the proxies of an app have counted, as soon as nothing more comes.
pub(crate) async fn settled(meters: &[Meter]) -> Result<Reading, BoxError> {
    let sum = || {
        let readings = meters.iter().map(Meter::reading);
        readings.fold(Reading::default(), |sum, one| Reading {
            round_trips: sum.round_trips + one.round_trips,
            statements: sum.statements + one.statements,
            beside: sum.beside + one.beside,
            prepared: sum.prepared + one.prepared,
        })
    };
    let settling = async {
        loop {
            let before = sum();
            tokio::time::sleep(QUIET).await;
            if before == sum() && !meters.iter().any(Meter::is_busy) {
                return before;
            }
        }
    };
    let settled = tokio::time::timeout(CHILD_TIMEOUT, settling).await;
    settled.map_err(|_| format!("an app still asks the server after {CHILD_TIMEOUT:?}").into())
}

/// Accepts until it is aborted, which ends its connections too.
async fn serve(listener: TcpListener, server: SocketAddr, counts: Arc<Counts>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                let counts = Arc::clone(&counts);
                links.spawn(async move {
                    // An end that is an error is the client's to notice.
                    let _ = carry(client, server, &counts).await;
                });
            }
            Some(_) = links.join_next() => {}
        }
    }
}

/// Carries one connection until either side ends it.
async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    counts: &Counts,
) -> Result<(), std::io::Error> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let startup = startup(&mut client).await?;
    server.write_all(&startup).await?;
    let link = Link::new(counts, is_of_pool(&startup));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        end = pump(from_client, to_server, |messages| link.asked(messages)) => end,
        end = pump(from_server, to_client, |messages| link.answered(messages)) => end,
    }
}

/// The first message, which alone has no type.
async fn startup(client: &mut TcpStream) -> Result<Vec<u8>, std::io::Error> {
    let mut startup = vec![0; 4];
    client.read_exact(&mut startup).await?;
    let length = startup.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    startup.resize(length.clamp(4, MAX_STARTUP), 0);
    client.read_exact(&mut startup[4..]).await?;
    Ok(startup)
}

/// Whether it is a connection of the app's pool: the others have longer names.
fn is_of_pool(startup: &[u8]) -> bool {
    let named = format!("application_name\0{APPLICATION_NAME}\0");
    startup.windows(named.len()).any(|part| part == named.as_bytes())
}

/// One connection.
#[derive(Debug)]
struct Link<'a> {
    counts: &'a Counts,
    of_pool: bool,
    /// Whether the server waits for the client.
    ready: AtomicBool,
}

impl<'a> Link<'a> {
    /// A connection that is being opened.
    fn new(counts: &'a Counts, of_pool: bool) -> Self {
        counts.busy.fetch_add(1, Ordering::SeqCst);
        Self { counts, of_pool, ready: AtomicBool::new(false) }
    }

    /// Counts messages of the client.
    fn asked(&self, messages: &[u8]) {
        let Counts { round_trips, statements, beside, prepared, busy } = self.counts;
        for message in messages {
            let count = match message {
                b'B' | b'Q' if self.of_pool => statements,
                b'B' | b'Q' => beside,
                b'P' if self.of_pool => prepared,
                _ => continue,
            };
            count.fetch_add(1, Ordering::SeqCst);
        }
        // `X` is the end, to which there is no answer.
        let asks = messages.iter().any(|message| *message != b'X');
        if asks && self.ready.swap(false, Ordering::SeqCst) {
            busy.fetch_add(1, Ordering::SeqCst);
            if self.of_pool {
                round_trips.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Notices that the server is ready again.
    fn answered(&self, messages: &[u8]) {
        if messages.contains(&b'Z') && !self.ready.swap(true, Ordering::SeqCst) {
            self.counts.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if !*self.ready.get_mut() {
            self.counts.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Carries one direction until it ends. What `passing` is told of, it is told before it leaves, since the
/// other side may respond at once.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    passing: impl Fn(&[u8]),
) -> Result<(), std::io::Error> {
    let mut messages = Messages::default();
    let mut bytes = Vec::with_capacity(16 * 1024);
    while from.read_buf(&mut bytes).await? > 0 {
        passing(&messages.ended(&bytes));
        to.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}
