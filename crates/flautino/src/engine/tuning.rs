//! What can be changed while an engine runs.

use std::time::Duration;

use super::Engine;
use super::phase::EnginePhase;
use crate::config::PoolConfig;
use crate::error::ConfigError;

/// What errors call the number that is given here.
const ORIGIN: &str = "`Engine::resize`";

/// What can be changed while the engine runs.
impl Engine {
    /// Changes how many connections each node's pool may have
    /// ([`max_connections`](PoolConfig::max_connections)), until the engine is closed. Callers who wait are
    /// served at once where there may be more. Where there must be fewer, idle ones are closed, and those in use when
    /// they are given back.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Key`]: for a number that is not acceptable or below
    /// [`min_connections`](PoolConfig::min_connections), while the engine is not open, and over a
    /// [pool of the app's own](Engine::from_pool), whose own options hold.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: nothing is changed then.
    pub async fn resize(&self, max_connections: u32) -> Result<(), ConfigError> {
        let state = &self.state;
        let _guard = state.lifecycle_lock.lock().await;
        let refused = |message: &str| {
            let (origin, key) = (ORIGIN.to_owned(), "pool.max_connections".to_owned());
            Err(ConfigError::Key { origin, key, message: message.to_owned() })
        };
        if !matches!(state.phase.get(), EnginePhase::Open | EnginePhase::Draining) {
            return refused(
                "cannot be changed while the engine is not open; set it in the configuration, or call \
                 `open_with`",
            );
        }
        if state.main().is_over_external_pool() {
            return refused("is that of the app's own pool; set it in the pool's options");
        }
        let pool = PoolConfig { max_connections, ..state.members.lock().pool.clone() };
        let pool = pool.checked(ORIGIN)?;
        state.members.lock().pool = pool;
        for node in state.nodes().iter() {
            if let Ok(Some(pool)) = node.pool() {
                pool.resize(max_connections);
            }
        }
        let share = state.config.routing.fallback_share;
        state.context.budget.open(max_connections, share);
        Ok(())
    }

    /// Switches [`log_queries`](crate::EngineConfig::log_queries) while the engine runs, for the statements that are
    /// sent from now on.
    pub fn set_log_queries(&self, on: bool) {
        self.state.shared.logger.set_queries(on);
    }

    /// Switches [`log_responses`](crate::EngineConfig::log_responses) likewise.
    pub fn set_log_responses(&self, on: bool) {
        self.state.shared.logger.set_responses(on);
    }

    /// Changes [`log_slow`](crate::EngineConfig::log_slow) likewise; zero for no such warning.
    pub fn set_log_slow(&self, slow: Duration) {
        self.state.shared.logger.set_slow(slow);
    }

    /// Changes [`log_repeated`](crate::EngineConfig::log_repeated) likewise, for new requests; 0 for no such warning.
    pub fn set_log_repeated(&self, most: u32) {
        self.state.shared.logger.set_repeated(most);
    }

    /// How often a request may send one statement without a warning; 0 for any number.
    #[must_use]
    pub fn log_repeated(&self) -> u32 {
        self.state.shared.logger.repeated()
    }
}
