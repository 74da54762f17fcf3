//! Faults of the network between the apps and a node. The nodes reach each other.

use std::time::Duration;

use flautino_cluster::Proxy;

use super::injection::Injection;
use crate::error::BoxError;
use crate::history::{Moment, Rule};

impl Injection<'_> {
    /// Picks the primary or a replica. Returns the proxy in front of it, and the present moment.
    fn proxy_of(&self, primary: bool) -> (&Proxy, Moment) {
        let number = if primary { self.primary() } else { self.replica() };
        (&self.world.proxies[number], self.now())
    }

    /// If it was the primary, writes that were under way since then may have failed.
    fn connections_broke(&self, primary: bool, since: Moment) {
        if primary {
            self.rule_until_now(since, Rule::WritesBreak);
            self.rule_until_recovery(since, Rule::NoPrimary);
        }
    }

    pub(super) async fn stall(&self, primary: bool) -> Result<(), BoxError> {
        let (proxy, since) = self.proxy_of(primary);
        proxy.stall();
        self.wait(200, if primary { 1500 } else { 3000 }).await;
        proxy.heal()?;
        self.connections_broke(primary, since);
        Ok(())
    }

    pub(super) async fn cut(&self, primary: bool) -> Result<(), BoxError> {
        let (proxy, since) = self.proxy_of(primary);
        proxy.cut().await;
        self.connections_broke(primary, since);
        self.wait(200, if primary { 1500 } else { 2500 }).await;
        proxy.heal()?;
        Ok(())
    }

    pub(super) async fn flap(&self) -> Result<(), BoxError> {
        let (proxy, _) = self.proxy_of(false);
        for _ in 0..self.random(3, 8) {
            proxy.cut().await;
            self.wait(10, 250).await;
            proxy.heal()?;
            self.wait(50, 400).await;
        }
        Ok(())
    }

    pub(super) async fn reset(&self, primary: bool) -> Result<(), BoxError> {
        let (proxy, _) = self.proxy_of(primary);
        for _ in 0..self.random(1, 3) {
            let since = self.now();
            proxy.reset().await;
            self.connections_broke(primary, since);
            // A read is sent again twice, so it must not meet three resets.
            self.wait(500, 900).await;
        }
        Ok(())
    }

    pub(super) async fn slow(&self, primary: bool) -> Result<(), BoxError> {
        let (proxy, _) = self.proxy_of(primary);
        proxy.slow(Duration::from_millis(self.random(2, 30)));
        self.wait(500, 2000).await;
        proxy.slow(Duration::ZERO);
        Ok(())
    }
}
