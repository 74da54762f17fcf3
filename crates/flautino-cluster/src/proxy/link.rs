//! One proxied connection, and what all of them share.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Chunks under way in one direction; beyond it, the sender has to wait.
const UNDER_WAY: usize = 64;

/// What the network is like.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) stalled: bool,
    pub(super) delay: Duration,
}

/// What a proxy and its connections share.
#[derive(Debug)]
pub(super) struct Shared {
    target: Mutex<SocketAddr>,
    weather: watch::Sender<Weather>,
    /// Connections admitted before the last change of this are reset.
    generation: watch::Sender<u64>,
    /// Open connections by generation.
    open: watch::Sender<BTreeMap<u64, usize>>,
    pub(super) accepted: AtomicU64,
    pub(super) round_trips: AtomicU64,
}

impl Shared {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self {
            target: Mutex::new(target),
            weather: watch::Sender::default(),
            generation: watch::Sender::default(),
            open: watch::Sender::default(),
            accepted: AtomicU64::new(0),
            round_trips: AtomicU64::new(0),
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    pub(super) fn set_target(&self, target: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    pub(super) fn open(&self) -> usize {
        self.open.borrow().values().sum()
    }

    pub(super) fn reset(&self) -> u64 {
        self.generation.send_modify(|generation| *generation += 1);
        *self.generation.borrow()
    }

    pub(super) async fn none_open(&self) {
        self.none_older(u64::MAX).await;
    }

    pub(super) async fn none_older(&self, generation: u64) {
        let mut open = self.open.subscribe();
        // The sender is in self, so there is no end to wait for.
        let _ = open.wait_for(|open| open.range(..generation).next().is_none()).await;
    }

    /// Counts a connection for as long as the pass lives.
    pub(super) fn admit(self: &Arc<Self>) -> Pass {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let mut generation = self.generation.subscribe();
        let number = *generation.borrow_and_update();
        self.open.send_modify(|open| *open.entry(number).or_default() += 1);
        Pass { generation, number, shared: Arc::clone(self) }
    }

    fn target(&self) -> SocketAddr {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the count.
#[derive(Debug)]
pub(super) struct Pass {
    shared: Arc<Shared>,
    generation: watch::Receiver<u64>,
    number: u64,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shared.open.send_modify(|open| {
            if let Some(count) = open.get_mut(&self.number) {
                *count -= 1;
            }
            open.retain(|_, count| *count > 0);
        });
    }
}

/// Carries one connection to its end: that of either side, or a reset.
pub(super) async fn run(client: TcpStream, mut pass: Pass) {
    // Declared after the pass, so that the sockets are closed before it stops counting.
    let mut client = client;
    let shared = Arc::clone(&pass.shared);
    let mut server = None;
    let carried = async {
        client.set_nodelay(true)?;
        // A stalled network carries no opening of a connection either.
        let mut weather = shared.weather.subscribe();
        let _ = weather.wait_for(|weather| !weather.stalled).await;
        let server = server.insert(TcpStream::connect(shared.target()).await?);
        server.set_nodelay(true)?;
        carry(&mut client, server, &shared).await
    };
    let reset = tokio::select! {
        // A server that refuses is told on as a reset, not as an orderly end.
        carried = carried => carried.is_err(),
        _ = pass.generation.changed() => true,
    };
    if reset {
        for socket in [Some(&client), server.as_ref()].into_iter().flatten() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Until one of the two ends. PostgreSQL's protocol knows no half-closed connection, so what is
/// left of the other direction goes with it, as when a process dies.
async fn carry(client: &mut TcpStream, server: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    // Whether the server spoke since the client did; at first it is the client's turn.
    let turn = AtomicBool::new(true);
    let asked = || {
        if turn.swap(false, Ordering::SeqCst) {
            shared.round_trips.fetch_add(1, Ordering::SeqCst);
        }
    };
    // Before the bytes leave: the client may answer them at once.
    let answered = || turn.store(true, Ordering::SeqCst);
    tokio::select! {
        end = pump(from_client, to_server, shared, asked, || ()) => end,
        end = pump(from_server, to_client, shared, || (), answered) => end,
    }
}

/// One direction, to its end. Reading and writing are apart, so that latency does not add up and
/// a stalled direction still takes in.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    arrived: impl Fn(),
    leaving: impl Fn(),
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, io::Result<Vec<u8>>)>(UNDER_WAY);
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(16 * 1024);
            let read = from.read_buf(&mut chunk).await;
            if !chunk.is_empty() {
                arrived();
            }
            let due = Instant::now() + shared.weather.borrow().delay;
            let last = chunk.is_empty();
            if queue.send((due, read.map(|_| chunk))).await.is_err() || last {
                // Only the other half knows when all is done.
                return std::future::pending::<()>().await;
            }
        }
    };
    let write = async move {
        let mut weather = shared.weather.subscribe();
        while let Some((due, chunk)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            let _ = weather.wait_for(|weather| !weather.stalled).await;
            let chunk = chunk?;
            if chunk.is_empty() {
                break;
            }
            leaving();
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::select! {
        end = write => end,
        () = read => Ok(()),
    }
}
