//! A picture of the engine, as `status.json` shows it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::EngineInner;
use crate::node::{Node, Role};

/// The engine at one moment. Holds no password and no SQL.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EngineStatus {
    /// Whether the pools are open.
    pub open: bool,
    /// The node that takes writes, as far as is known.
    pub primary: Option<String>,
    /// The main node first.
    pub nodes: Vec<NodeStatus>,
    /// How many statements went where they went for which reason.
    pub decisions: BTreeMap<&'static str, u64>,
}

/// One node in an [`EngineStatus`].
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// As configured; the main one is `main`.
    pub name: String,
    /// Host name, or the path of the socket.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What the server said it is, when it was last asked.
    pub role: Role,
    /// Whether it answered then.
    pub health: Health,
    /// Why it is not up.
    pub reason: Option<String>,
    /// Connections checked out.
    pub in_flight: u32,
    /// `None` while the engine is not open.
    pub pool: Option<PoolStatus>,
    /// Statements sent since the start.
    pub statements: u64,
}

/// Whether a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Health {
    /// It answered when it was last asked.
    Up,
    /// It did not.
    Down,
    /// It was never asked.
    Unknown,
}

/// A node's pool in an [`EngineStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Connections that are open, in use or not.
    pub size: u32,
    /// Those that rest, warm ones included.
    pub idle: usize,
    /// Those that rest and serve the next statement without a ping.
    pub warm: usize,
    /// The most there may be.
    pub max: u32,
}

impl EngineStatus {
    pub(crate) fn of(engine: &EngineInner) -> Self {
        let nodes: Vec<_> = engine.nodes().iter().map(|node| NodeStatus::of(node)).collect();
        let primary = nodes.iter().find(|node| node.role == Role::Primary);
        Self {
            open: engine.is_open(),
            primary: primary.map(|node| node.name.clone()),
            nodes,
            decisions: engine
                .decisions()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.as_str(), count))
                .collect(),
        }
    }
}

impl NodeStatus {
    fn of(node: &Node) -> Self {
        let (host, port) = node.host_and_port();
        let role = node.role();
        let reason = node.trouble();
        let health = match (&reason, role) {
            (Some(_), _) => Health::Down,
            (None, Role::Unknown) => Health::Unknown,
            (None, _) => Health::Up,
        };
        let pool = node.pool().ok().flatten().map(|pool| {
            let warm = pool.warm_count();
            PoolStatus {
                size: pool.sqlx().size(),
                idle: pool.sqlx().num_idle() + warm,
                warm,
                max: pool.max(),
            }
        });
        Self {
            name: node.name.to_string(),
            host,
            port,
            role,
            health,
            reason,
            in_flight: node.gauges.in_flight(),
            pool,
            statements: node.gauges.statements(),
        }
    }
}
