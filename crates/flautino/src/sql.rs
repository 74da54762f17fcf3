//! Facts about a statement, from its text alone: whether it writes, and whether it leaves something
//! behind in its session.
//!
//! - `lexer`, `commands`: the text as tokens, and where its commands end
//! - `traits`: how many commands there are, and what they leave behind
//! - `names`: names as the server reads them
//! - `builtins`, `keywords`: what comes with PostgreSQL, and where it may run
//! - `catalogue`: what the server's catalogue says of names
//! - `judge`: read or write
//! - `classify`: verdicts that are kept
//! - `leaves`: prepared statements that a text drops, and what a text leaves to other clients of a session
//! - `effects`, `scan`: what a text does to its session; `traces`, `tracer`: what functions, triggers and
//!   views of the user's own do
//! - `standby`: what a standby refuses although it writes no row
//! - `quote`: names and values as SQL text; `without_values`, `summary`: a text as it may be shown, and what
//!   it is about

mod builtins;
mod catalogue;
mod classify;
mod commands;
mod effects;
mod judge;
mod keywords;
mod leaves;
mod lexer;
mod names;
mod quote;
mod scan;
mod standby;
mod summary;
mod tracer;
mod traces;
mod traits;
mod without_values;

pub(crate) use self::builtins::{
    Builtin, extension_names, makes_a_named_type, names, relation_names,
};
pub(crate) use self::catalogue::{Catalogue, HiddenUse};
pub(crate) use self::classify::{Classifier, Plan};
pub(crate) use self::effects::{Effects, functions_pattern};
pub(crate) use self::leaves::{Leftover, copies_rows, drops_prepared, leftover};
pub(crate) use self::lexer::{Token, Tokens};
pub(crate) use self::quote::{literal, quoted};
pub(crate) use self::standby::refused_on_standby;
pub(crate) use self::summary::summary;
pub(crate) use self::tracer::SchemaChange;
pub(crate) use self::traces::{Objects, Trusted};
pub(crate) use self::traits::StatementTraits;
pub(crate) use self::without_values::without_values;
