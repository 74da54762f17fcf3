//! Facts about a statement, from its text alone: whether it writes, and whether it leaves something
//! behind in its session.
//!
//! - `lexer`: the text as tokens
//! - `traits`: how many commands there are, and what they leave behind
//! - `names`: names as the server reads them
//! - `builtins`, `keywords`: what comes with PostgreSQL, and where it may run
//! - `catalogue`: what the server's catalogue says of names
//! - `judge`: read or write
//! - `classify`: verdicts that are kept
//! - `leaves`: prepared statements that a text drops, and what a text leaves to other clients of a session
//! - `quote`: names and values as SQL text

mod builtins;
mod catalogue;
mod classify;
mod judge;
mod keywords;
mod leaves;
mod lexer;
mod names;
mod quote;
mod traits;

pub(crate) use self::builtins::{Builtin, extension_names, names, relation_names};
pub(crate) use self::catalogue::{Catalogue, HiddenUse};
pub(crate) use self::classify::{Classifier, Plan};
pub(crate) use self::leaves::{Leftover, copies_rows, drops_prepared, leftover};
pub(crate) use self::lexer::{Token, Tokens};
pub(crate) use self::quote::{literal, quoted};
pub(crate) use self::traits::StatementTraits;
