//! A TCP proxy in front of a node: the network's faults, and a count of round trips.
//!
//! ```no_run
//! # async fn example(node: &flautino_cluster::Node) -> Result<(), flautino_cluster::ClusterError> {
//! use flautino_cluster::Proxy;
//!
//! let proxy = Proxy::start(node.addr()).await?;
//! println!("psql {}", proxy.url());
//! proxy.cut().await;   // open connections end, new ones are refused
//! proxy.heal()?;
//! # Ok(()) }
//! ```

mod link;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use crate::address::{connect_options, url};
use crate::error::{ClusterError, Step};
use crate::ports::HeldPort;

use self::link::{Network, Shared};

/// A TCP proxy on 127.0.0.1. Its port stays the same, and all its tasks end, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    entrance: Mutex<Entrance>,
    runtime: Handle,
}

/// Whether new connections are accepted.
#[derive(Debug)]
enum Entrance {
    /// By a task, which owns the listener and all connections.
    Open(JoinHandle<()>),
    /// The port refuses connections. `None` when another program has taken it meanwhile.
    Closed(Option<HeldPort>),
}

impl Proxy {
    /// A proxy to this address, such as [`Node::addr`](crate::Node::addr).
    ///
    /// # Errors
    ///
    /// When no port is free.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, there is no proxy.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[allow(clippy::unused_async, reason = "it needs a runtime, and may have to wait one day")]
    pub async fn start(target: SocketAddr) -> Result<Self, ClusterError> {
        let held = HeldPort::pick().step(|| "find a free port for the proxy".to_owned())?;
        let proxy = Self {
            port: held.port(),
            shared: Arc::new(Shared::new(target)),
            entrance: Mutex::new(Entrance::Closed(Some(held))),
            runtime: Handle::current(),
        };
        proxy.open()?;
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// [`Node::url`](crate::Node::url) through the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for("postgres")
    }

    /// As [`url`](Self::url), for another database.
    #[must_use]
    pub fn url_for(&self, database: &str) -> String {
        url(self.port, database)
    }

    /// As [`url`](Self::url), as options for a pool, whatever `PGSSLMODE` says.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(self.port)
    }

    /// Closes all connections and refuses new ones, until [`heal`](Self::heal).
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the connections end all the same.
    pub async fn cut(&self) {
        // If this future is dropped from here on, the entrance stays closed, and the next `heal`
        // takes the port anew.
        let before = std::mem::replace(&mut *self.entrance.lock(), Entrance::Closed(None));
        let held = match before {
            Entrance::Closed(held) => held,
            Entrance::Open(task) => {
                task.abort();
                // The listener is closed only when the task has ended.
                let _ = task.await;
                HeldPort::hold(self.port).ok()
            }
        };
        if let Entrance::Closed(place) = &mut *self.entrance.lock() {
            *place = held;
        }
        self.shared.none_open().await;
    }

    /// From now on connections stay open and carry nothing, not even their end, until
    /// [`heal`](Self::heal) delivers what was held up. New ones are accepted and reach nobody.
    pub fn stall(&self) {
        self.shared.change(|network| network.stalled = true);
    }

    /// Adds this much latency in each direction, also to connections that are open. Zero ends it.
    pub fn slow(&self, each_way: Duration) {
        self.shared.change(|network| network.delay = each_way);
    }

    /// Resets (TCP RST) all connections, towards client and server. New ones are fine.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the connections are reset all the same.
    pub async fn reset(&self) {
        let generation = self.shared.reset();
        self.shared.none_older(generation).await;
    }

    /// Ends [`cut`](Self::cut), [`stall`](Self::stall) and [`slow`](Self::slow).
    ///
    /// # Errors
    ///
    /// When somebody else took the port while it was cut.
    pub fn heal(&self) -> Result<(), ClusterError> {
        self.shared.change(|network| *network = Network::default());
        self.open()
    }

    /// Sends connections that are opened from now on somewhere else.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.set_target(target);
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open()
    }

    /// Connections accepted since the start or [`reset_counters`](Self::reset_counters).
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How often a client spoke first or after the server had: what a client waits for over a slow
    /// network. Opening a connection takes some too, so compare two readings.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// Sets [`accepted`](Self::accepted) and [`round_trips`](Self::round_trips) back to 0.
    pub fn reset_counters(&self) {
        self.shared.accepted.store(0, Ordering::SeqCst);
        self.shared.round_trips.store(0, Ordering::SeqCst);
    }

    fn open(&self) -> Result<(), ClusterError> {
        let mut entrance = self.entrance.lock();
        let Entrance::Closed(held) = &mut *entrance else {
            return Ok(());
        };
        let step = || format!("listen on port {} again", self.port);
        let held = held.take().map_or_else(|| HeldPort::hold(self.port), Ok).step(step)?;
        let _inside = self.runtime.enter();
        let listener = held.listen().and_then(TcpListener::from_std).step(step)?;
        let task = self.runtime.spawn(serve(listener, Arc::clone(&self.shared)));
        *entrance = Entrance::Open(task);
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Entrance::Open(task) = &*self.entrance.lock() {
            task.abort();
        }
    }
}

/// Accepts until it is aborted, which ends its connections too.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    links.spawn(link::run(client, shared.count_in()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the proxy cannot accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = links.join_next() => {}
        }
    }
}
