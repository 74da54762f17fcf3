//! Real, throwaway PostgreSQL clusters: a primary, streaming replicas, and faults on demand.
//!
//! Each [`Cluster`] consists of real servers in a temporary folder of its own. It takes about a
//! second to start, and is gone without a trace on drop: also in a panic, and, if the process is
//! killed, at the start of the next cluster. Any number of them run side by side.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use flautino_cluster::Cluster;
//!
//! let cluster = Cluster::builder().replicas(2).start().await?;
//! let (primary, replica) = (cluster.primary(), cluster.replica(0));
//! println!("psql {}", primary.url());
//! primary.execute("CREATE TABLE notes (title text)").await?;
//! replica.catch_up_with(primary).await?;
//!
//! // A failover, and the way back.
//! primary.kill().await?;
//! replica.promote().await?;
//! cluster.replica(1).follow(replica).await?;
//! primary.rejoin(replica).await?;
//! assert!(primary.is_in_recovery().await?);
//!
//! cluster.stop().await; // or drop it
//! # Ok(()) }
//! ```
//!
//! - [`Builder`] has the options;
//! - [`Cluster`] holds the nodes, and can grow;
//! - [`Node`] is a server: its address, statements to it, and what can happen to it: stop, kill,
//!   hang, paused replay, promotion, another upstream, the return of a former primary;
//! - [`Proxy`] stands in front of a node and plays a bad network: cut, stalled, slow, reset;
//! - [`ClusterError`] tells which step failed, and shows the end of the server's log.
//!
//! With the feature `patroni`, which is off by default, the module `patroni` starts clusters that Patroni runs: it
//! elects the primary, fails over, and brings former primaries back.
//!
//! # What it needs
//!
//! Linux or macOS, a tokio runtime, and PostgreSQL 13 or newer: its server programs, which need
//! not be in `PATH` (see [`Builder::bin_dir`]). With the feature `embedded`, which is off by default, they are
//! fetched where the machine has none: once, into the user's cache (root's is `/var/cache`), from the releases of
//! [theseus-rs/postgresql-binaries](https://github.com/theseus-rs/postgresql-binaries) or from the server that
//! `FLAUTINO_PG_MIRROR` names, which has them in the same folders. Since PostgreSQL refuses to run as root, root runs
//! it as the user `postgres`, or `nobody`.
//!
//! The servers trust every connection from this machine, as a superuser, and are set to be fast,
//! not to survive a loss of power: for tests, demos and benchmarks only.

#[cfg(not(unix))]
compile_error!("flautino-cluster runs on Linux and macOS only; on Windows, use WSL");

// From the top layer down: each imports only from those below it.
#[cfg(feature = "patroni")]
pub mod patroni;

mod builder;
mod cluster;

mod faults;
mod replication;
mod sql;

mod node;
mod proxy;

mod context;
mod server;
mod sweep;

mod home;
mod postmaster;
mod program;
mod settings;

mod address;
#[cfg(feature = "embedded")]
mod fetch;

mod binaries;
mod ports;
mod process;
mod wait;

mod error;

pub use builder::Builder;
pub use cluster::Cluster;
pub use error::ClusterError;
pub use node::Node;
pub use proxy::Proxy;
pub use replication::Rejoined;
