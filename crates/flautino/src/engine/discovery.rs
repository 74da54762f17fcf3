//! How the name of the replicas is resolved to their addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt;

use crate::config::DiscoveryConfig;

/// How long resolving the name may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Resolves a name and a port to addresses.
pub(super) type Resolver =
    Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The operating system's own resolver.
pub(super) fn system_resolver() -> Resolver {
    Arc::new(|host, port| {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    })
}

/// Resolves the name once. An answer without addresses is an error.
pub(super) async fn resolve(
    resolver: Resolver,
    config: &DiscoveryConfig,
    port: u16,
) -> io::Result<BTreeSet<SocketAddr>> {
    let answer = async { resolver(config.host.clone(), config.port.unwrap_or(port)).await };
    let answer = AssertUnwindSafe(answer).catch_unwind();
    let addresses = match tokio::time::timeout(RESOLVE_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer?,
        Ok(Err(_)) => return Err(io::Error::other("the resolver panicked")),
        Err(_) => {
            let text = format!("no answer within {RESOLVE_TIMEOUT:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    };
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the answer has no address"));
    }
    Ok(addresses.into_iter().collect())
}
