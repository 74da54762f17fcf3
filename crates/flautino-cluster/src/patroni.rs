//! Clusters that Patroni runs: it elects the primary, fails over, and brings former primaries back.
//!
//! A [`Patroni`] is an etcd and some [`Member`]s, each a Patroni with its PostgreSQL, in a temporary folder of its
//! own. It takes about ten seconds to start, and is gone without a trace on drop, as a [`Cluster`](crate::Cluster)
//! is.
//!
//! ```no_run
//! # async fn example() -> Result<(), flautino_cluster::ClusterError> {
//! use flautino_cluster::patroni::Patroni;
//!
//! let patroni = Patroni::builder().start().await?;
//! let first = patroni.leader().await?;
//! first.execute("CREATE TABLE notes (title text)").await?;
//!
//! // A planned change of the leader, and one that nobody planned.
//! let second = patroni.switchover(None).await?;
//! second.kill().await;
//! let third = patroni.leader().await?;
//! assert_ne!(third.name(), second.name());
//!
//! // It comes back as a replica, by pg_rewind if need be.
//! second.start().await?;
//! patroni.until_streaming().await?;
//! # Ok(()) }
//! ```
//!
//! It needs `patroni` and `etcd` in `PATH` (Debian: `patroni`, `etcd-server`), version 3 of either or newer.

// From the top layer down.
mod builder;
mod cluster;
mod rest;

mod member;

mod etcd;
mod instance;

mod daemon;
mod shared;

pub use self::builder::Builder;
pub use self::cluster::Patroni;
pub use self::member::Member;
pub use self::rest::Listed;
