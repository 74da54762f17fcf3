//! Real, throwaway PostgreSQL clusters: a primary, streaming replicas, and faults on demand.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use flautino_cluster::Cluster;
//!
//! let cluster = Cluster::builder().replicas(2).start().await?;
//! let (primary, replica) = (cluster.primary(), cluster.replica(0));
//! primary.execute("CREATE TABLE notes (title text)").await?;
//! replica.catch_up_with(primary).await?;
//!
//! primary.kill().await?;
//! replica.promote().await?;
//! cluster.replica(1).follow(replica).await?;
//! primary.rejoin(replica).await?;
//! # Ok(()) }
//! ```
mod binaries;
mod builder;
mod cluster;
mod error;
mod faults;
mod home;
mod node;
mod ports;
mod process;
mod program;
mod proxy;
mod replication;
mod server;
mod settings;
mod sweep;

pub use builder::Builder;
pub use cluster::Cluster;
pub use error::ClusterError;
pub use node::Node;
pub use proxy::Proxy;
pub use replication::Rejoined;
