//! Facts about a statement, from its text alone: whether it writes, and whether it leaves something
//! behind in its session.
//!
//! - `lexer`: the text as tokens
//! - `traits`: how many commands there are, and what they leave behind
//! - `names`: names that make a statement a write, or that are known to be harmless
//! - `classify`: read or write
//! - `leaves`: prepared statements that a text drops, and what a text leaves to other clients of a session
//! - `quote`: names and values as SQL text

mod classify;
mod leaves;
mod lexer;
mod names;
mod quote;
mod traits;

pub(crate) use self::classify::{Catalogue, Classifier, Plan};
pub(crate) use self::leaves::{Leftover, copies_rows, drops_prepared, leftover};
pub(crate) use self::lexer::{Token, Tokens};
pub(crate) use self::names::{HARMLESS, SERVER_VIEWS};
pub(crate) use self::quote::{literal, quoted};
