//! The page of a recorder that this process has installed.

use std::sync::OnceLock;

use flautino::{Engine, metrics};
use flautino_lab::{Lab, LabBuilder, wait_until_or_tell};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().with_recommended_naming(true);
        builder.set_buckets(&metrics::BUCKETS).unwrap().install_recorder().unwrap()
    })
}

/// Starts the lab, with the recorder installed before.
pub(crate) async fn start(lab: LabBuilder<'_>) -> Lab {
    recorder();
    lab.start().await
}

/// The metrics of one node. Other tests of this process have theirs under other ports.
pub(crate) struct Metrics {
    /// Empty where it does not matter.
    engine: String,
    node: String,
    pool: String,
}

impl Metrics {
    /// Those of the engine's node of this name.
    pub(crate) fn of(engine: &Engine, name: &str) -> Self {
        recorder();
        let status = engine.status();
        let node = status.nodes.iter().find(|node| node.name == name).unwrap();
        let pool = format!("pool_name=\"{}:{}/", node.host, node.port);
        Self { engine: String::new(), node: format!("flautino_node=\"{name}\""), pool }
    }

    /// Only those of the engine of this name.
    pub(crate) fn of_engine(self, name: &str) -> Self {
        Self { engine: format!("flautino_engine=\"{name}\""), ..self }
    }

    /// The value of the series with this name, and with this text among its labels.
    pub(crate) fn value(&self, name: &str, label: &str) -> Option<f64> {
        let page = recorder().render();
        let has_name =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        let has_labels = |line: &&str| {
            [&*self.engine, &self.node, &self.pool, label].iter().all(|text| line.contains(text))
        };
        let line = page.lines().filter(has_name).find(has_labels)?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until the series has such a value.
    pub(crate) async fn until(&self, name: &str, label: &str, is: impl Fn(f64) -> bool) {
        let what = format!("{name}{{{label}}} of {} is as expected", self.node);
        let tell = || recorder().render();
        wait_until_or_tell(&what, async || self.value(name, label).is_some_and(&is), tell).await;
    }
}

/// The value of a series without labels.
pub(crate) fn total(name: &str) -> Option<f64> {
    let page = recorder().render();
    let line =
        page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line?.rsplit(' ').next()?.parse().ok()
}
