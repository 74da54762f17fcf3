//! The variants that are compared.

use std::fmt;

use clap::ValueEnum;

/// How the app reaches PostgreSQL. Everything else is the same in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Variant {
    /// sqlx's `PgPool` as it comes: the base of all ratios.
    Pgpool,
    /// sqlx's `PgPool` without the ping when a connection is taken.
    PgpoolNoPing,
    /// sqlx's connections without a pool: the limit of the driver.
    Dedicated,
    /// `deadpool-postgres` over `tokio-postgres`.
    Deadpool,
    /// `axum-sqlx-tx`, whose layer ends a request's transaction, over sqlx's `PgPool` as it comes. It is
    /// for transactions alone, and so takes part in `tx` only.
    AxumSqlxTx,
    /// flautino over the primary alone.
    FlautinoOne,
    /// flautino over the primary and two replicas, which get the reads.
    FlautinoTwo,
    /// As `flautino_two`, while one browser looks at the status page. Only where it is named.
    FlautinoWatched,
    /// As `flautino_two`, with a recorder of metrics for Prometheus. Only where it is named.
    #[cfg(feature = "metrics")]
    FlautinoMetrics,
}

impl Variant {
    /// The base of all ratios.
    pub(crate) const BASE: Self = Self::Pgpool;

    /// All variants, the base first.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// The variants that take part where none is named, the base first.
    pub(crate) fn usual() -> Vec<Self> {
        Self::all().into_iter().take_while(|variant| *variant != Self::FlautinoWatched).collect()
    }

    /// Whether it reads from two replicas.
    pub(crate) fn has_replicas(self) -> bool {
        self == Self::FlautinoTwo || !Self::usual().contains(&self)
    }

    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
