//! What tells several engines of an app apart.

/// The name of an engine that was given none: that of plain [`Db`](crate::Db) and [`Tx`](crate::Tx). Any other type
/// may be a name; see [`EngineLayer::named`](crate::EngineLayer::named).
#[derive(Debug)]
pub struct Main(());
