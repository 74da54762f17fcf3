//! Faults of an app process. The others go on.

use super::Scene;
use crate::apps::Broken;
use crate::check::Check;
use crate::history::Rule;

impl Scene<'_> {
    fn app(&self) -> usize {
        let count = self.world.apps.count();
        let app = self.victim.unwrap_or_else(|| self.state().rng.usize(..count));
        self.hits(&format!("app {app}"));
        app
    }

    pub(super) async fn kill_app(&self) -> Result<(), Broken> {
        let app = self.app();
        self.during(Rule::AppKilled(app), self.world.apps.kill(app)).await?;
        self.linger(100, 800).await;
        self.world.apps.start(app).await
    }

    pub(super) async fn stop_app(&self) -> Result<(), Broken> {
        let app = self.app();
        let stopped = self.during(Rule::AppStopped(app), self.world.apps.stop(app)).await?;
        if !stopped.status.success() || stopped.requests_cut != Some(0) {
            self.world.remark(Check::UncleanStop, format!("app {app} ended so: {stopped:?}"));
        }
        self.linger(50, 500).await;
        self.world.apps.start(app).await
    }
}
