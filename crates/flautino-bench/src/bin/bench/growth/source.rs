//! What a child reads from, and how it is opened.

use flautino::Engine;
use sqlx::PgPool;

use crate::app::open;
use crate::error::BoxError;
use crate::variant::Variant;

/// What a child reads from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Pool(PgPool),
    Engine(Engine),
}

impl Source {
    /// Opens it over these nodes, the primary first. `size` is for each node.
    pub(super) async fn open(
        variant: Variant,
        size: u32,
        urls: &[String],
    ) -> Result<Self, BoxError> {
        let (primary, replicas) = urls.split_first().ok_or("there is no URL")?;
        match variant {
            Variant::Pgpool => Ok(Self::Pool(open::pgpool(primary, size, true).await?)),
            Variant::FlautinoOne | Variant::FlautinoTwo => {
                Ok(Self::Engine(open::flautino(primary, size, replicas.to_vec()).await?))
            }
            _ => Err(format!("{variant} is not measured here").into()),
        }
    }

    /// Reads one row with this text.
    pub(super) async fn read(&self, sql: &'static str, id: i32) -> Result<(), BoxError> {
        let query = sqlx::query_scalar::<_, i32>(sql).bind(id);
        match self {
            Self::Pool(pool) => query.fetch_one(pool).await?,
            // With a handle of its own, as each request has one.
            Self::Engine(engine) => query.fetch_one(&engine.handle()).await?,
        };
        Ok(())
    }

    /// How many connections its pools have.
    pub(super) fn connections(&self) -> u32 {
        match self {
            Self::Pool(pool) => pool.size(),
            Self::Engine(engine) => {
                let nodes = engine.status().nodes;
                nodes.into_iter().filter_map(|node| node.pool).map(|pool| pool.size).sum()
            }
        }
    }

    /// Whether all that should serve reads have done so.
    pub(super) fn has_served(&self) -> bool {
        match self {
            Self::Pool(_) => true,
            Self::Engine(engine) => {
                let nodes = engine.status().nodes;
                // Replicas serve the reads, if there are any.
                let replicas = if nodes.len() > 1 { &nodes[1..] } else { &nodes };
                replicas.iter().all(|node| node.statements > 0)
            }
        }
    }
}
