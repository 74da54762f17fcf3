//! One proxied connection, and what all of them share.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How many chunks may be in flight in one direction before the sender has to wait.
const MAX_IN_FLIGHT: usize = 64;

/// The present state of the network.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Network {
    pub(super) stalled: bool,
    pub(super) delay: Duration,
}

/// What a proxy and its connections share.
#[derive(Debug)]
pub(super) struct Shared {
    target: Mutex<SocketAddr>,
    network: watch::Sender<Network>,
    /// Connections that were accepted before its last change are reset.
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
            network: watch::Sender::default(),
            generation: watch::Sender::default(),
            open: watch::Sender::default(),
            accepted: AtomicU64::new(0),
            round_trips: AtomicU64::new(0),
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Network)) {
        self.network.send_modify(change);
    }

    pub(super) fn set_target(&self, target: SocketAddr) {
        *self.target.lock() = target;
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
        // An error would mean that the sender is gone, and that is in `self`.
        let _ = open.wait_for(|open| open.range(..generation).next().is_none()).await;
    }

    /// Counts a connection for as long as the returned guard lives.
    pub(super) fn count_in(self: &Arc<Self>) -> Counted {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let mut generation = self.generation.subscribe();
        let number = *generation.borrow_and_update();
        self.open.send_modify(|open| *open.entry(number).or_default() += 1);
        Counted { generation, number, shared: Arc::clone(self) }
    }

    fn target(&self) -> SocketAddr {
        *self.target.lock()
    }
}

/// One of the open connections, in their count until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    shared: Arc<Shared>,
    generation: watch::Receiver<u64>,
    number: u64,
}

impl Drop for Counted {
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
pub(super) async fn run(client: TcpStream, mut counted: Counted) {
    // Declared after `counted`, so that the sockets are closed before the connection leaves the count.
    let mut client = client;
    let shared = Arc::clone(&counted.shared);
    let mut server = None;
    let carried = async {
        client.set_nodelay(true)?;
        // A stalled network does not carry the opening of a connection either.
        let mut network = shared.network.subscribe();
        let _ = network.wait_for(|network| !network.stalled).await;
        let server = server.insert(TcpStream::connect(shared.target()).await?);
        server.set_nodelay(true)?;
        carry(&mut client, server, &shared).await
    };
    let reset = tokio::select! {
        // A client whose server refuses the connection gets a reset, not an orderly end.
        carried = carried => carried.is_err(),
        _ = counted.generation.changed() => true,
    };
    if reset {
        for socket in [Some(&client), server.as_ref()].into_iter().flatten() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Carries both directions until one of them ends. PostgreSQL's protocol knows no half-closed
/// connection, so the other direction then ends too, as when a process dies.
async fn carry(client: &mut TcpStream, server: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    // Whether the server has spoken since the client last did, so that the client's next message
    // begins a round trip. The first message does too.
    let clients_turn = AtomicBool::new(true);
    let asked = || {
        if clients_turn.swap(false, Ordering::SeqCst) {
            shared.round_trips.fetch_add(1, Ordering::SeqCst);
        }
    };
    // Stored before the bytes leave, since the client may respond to them at once.
    let answered = || clients_turn.store(true, Ordering::SeqCst);
    tokio::select! {
        end = pump(from_client, to_server, shared, asked, || ()) => end,
        end = pump(from_server, to_client, shared, || (), answered) => end,
    }
}

/// Carries one direction to its end. Chunks are read while earlier ones wait for their time, so that
/// the delay of one is not added to the next, and a stalled direction still takes data in.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    arrived: impl Fn(),
    leaving: impl Fn(),
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, io::Result<Vec<u8>>)>(MAX_IN_FLIGHT);
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(16 * 1024);
            let read = from.read_buf(&mut chunk).await;
            if !chunk.is_empty() {
                arrived();
            }
            let due = Instant::now() + shared.network.borrow().delay;
            let last = chunk.is_empty();
            if queue.send((due, read.map(|_| chunk))).await.is_err() || last {
                // The writing half returns once all is written.
                return std::future::pending::<()>().await;
            }
        }
    };
    let write = async move {
        let mut network = shared.network.subscribe();
        while let Some((due, chunk)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            let _ = network.wait_for(|network| !network.stalled).await;
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
