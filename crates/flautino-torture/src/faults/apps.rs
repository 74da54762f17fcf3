//! Faults of one app process. The other apps go on.

use super::injection::Injection;
use crate::error::BoxError;
use crate::history::Rule;
use crate::violation::Check;

impl Injection<'_> {
    fn app(&self) -> usize {
        let count = self.world.apps.count();
        let app = self.victim.unwrap_or_else(|| self.random_index(count));
        self.record_target(&format!("app {app}"));
        app
    }

    pub(super) async fn kill_app(&self) -> Result<(), BoxError> {
        let app = self.app();
        self.rule_during(Rule::AppKilled(app), self.world.apps.kill(app)).await?;
        self.wait(100, 800).await;
        self.world.apps.start(app).await
    }

    pub(super) async fn stop_app(&self) -> Result<(), BoxError> {
        let app = self.app();
        let stopped = self.rule_during(Rule::AppStopped(app), self.world.apps.stop(app)).await?;
        if !stopped.status.success() || stopped.requests_cut != Some(0) {
            self.world.remark(Check::UncleanStop, format!("app {app} ended so: {stopped:?}"));
        }
        self.wait(50, 500).await;
        self.world.apps.start(app).await
    }
}
