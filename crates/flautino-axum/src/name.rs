//! What tells several engines of an app apart.

/// The name of an engine that was given none: that of plain [`Db`](crate::Db) and [`Tx`](crate::Tx). Any other type
/// may be a name; see [`EngineLayer::named`](crate::EngineLayer::named).
#[derive(Debug)]
pub struct Main(());

/// The name of a type without its path and its parameters.
pub(crate) fn short_name<N>() -> &'static str {
    let name = std::any::type_name::<N>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name)
}
