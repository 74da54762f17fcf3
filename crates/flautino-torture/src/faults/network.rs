//! Faults of the network between the apps and a node. The nodes reach each other.

use std::time::Duration;

use flautino_cluster::Proxy;

use super::Scene;
use crate::apps::Broken;
use crate::history::{Moment, Rule};

impl Scene<'_> {
    /// The proxy in front of the primary or of a replica, and when that was chosen.
    fn in_front_of(&self, primary: bool) -> (&Proxy, Moment) {
        let number = if primary { self.primary() } else { self.replica() };
        (&self.world.proxies[number], self.now())
    }

    /// Writes under way may have failed since then.
    fn broke(&self, primary: bool, since: Moment) {
        if primary {
            self.held(since, Rule::WritesBreak);
            self.holds(since, Rule::NoPrimary);
        }
    }

    pub(super) async fn stall(&self, primary: bool) -> Result<(), Broken> {
        let (proxy, since) = self.in_front_of(primary);
        proxy.stall();
        self.linger(200, if primary { 1500 } else { 3000 }).await;
        proxy.heal()?;
        self.broke(primary, since);
        Ok(())
    }

    pub(super) async fn cut(&self, primary: bool) -> Result<(), Broken> {
        let (proxy, since) = self.in_front_of(primary);
        proxy.cut().await;
        self.broke(primary, since);
        self.linger(200, if primary { 1500 } else { 2500 }).await;
        proxy.heal()?;
        Ok(())
    }

    pub(super) async fn flap(&self) -> Result<(), Broken> {
        let (proxy, _) = self.in_front_of(false);
        for _ in 0..self.u64(3, 8) {
            proxy.cut().await;
            self.linger(10, 250).await;
            proxy.heal()?;
            self.linger(50, 400).await;
        }
        Ok(())
    }

    pub(super) async fn reset(&self, primary: bool) -> Result<(), Broken> {
        let (proxy, _) = self.in_front_of(primary);
        for _ in 0..self.u64(1, 3) {
            let since = self.now();
            proxy.reset().await;
            self.broke(primary, since);
            // A read outlives two breaks: three must not come while it runs.
            self.linger(500, 900).await;
        }
        Ok(())
    }

    pub(super) async fn slow(&self, primary: bool) -> Result<(), Broken> {
        let (proxy, _) = self.in_front_of(primary);
        proxy.slow(Duration::from_millis(self.u64(2, 30)));
        self.linger(500, 2000).await;
        proxy.slow(Duration::ZERO);
        Ok(())
    }
}
