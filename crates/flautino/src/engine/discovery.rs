//! Replicas that are found by a name: resolved at `open`, and then again and again.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::FutureExt;

use super::{Engine, EngineInner};
use crate::config::DiscoveryConfig;

/// How long one answer may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What tells a name's addresses.
pub(super) type Resolver =
    Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The operating system's own resolver.
pub(super) fn system_resolver() -> Resolver {
    Arc::new(|host, port| {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    })
}

impl Engine {
    /// From now on names of [`DiscoveryConfig`] are resolved so, instead of by the operating system:
    /// by another DNS server, or by a registry of services. It is given the name and the port.
    ///
    /// ```no_run
    /// # fn f(engine: flautino::Engine) {
    /// engine.resolve_with(async |name, port| Ok(tokio::net::lookup_host((name, port)).await?.collect()));
    /// # }
    /// ```
    pub fn resolve_with<F, R>(&self, resolve: F)
    where
        F: Fn(String, u16) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        self.inner.lock_members().resolver =
            Arc::new(move |host, port| Box::pin(resolve(host, port)));
    }
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

/// Keeps the nodes as the name says. Where that does not answer, they stay as they are.
pub(super) async fn keep_resolving(engine: Weak<EngineInner>, config: DiscoveryConfig) {
    loop {
        tokio::time::sleep(config.interval.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
        let Some(engine) = engine.upgrade() else { return };
        if let Err(error) = engine.discover(&config).await {
            let host = &config.host;
            tracing::warn!(%error, "`{host}` (`discovery.host`) was not resolved; its nodes stay as they are");
        }
    }
}
