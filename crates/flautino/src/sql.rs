//! Facts about a statement, from its text alone: whether it writes, and whether it leaves something
//! behind in its session.
//!
//! - `lexer`: the text as tokens
//! - `traits`: how many commands there are, and what they leave behind
//! - `names`: names that make a statement a write, or that are known to be harmless
//! - `classify`: read or write
//! - `effects`, `scan`: what a text does to its session; `traces`, `tracer`: what functions, triggers and
//!   views of the user's own do
//! - `quote`: names and values as SQL text

mod classify;
mod effects;
mod lexer;
mod names;
mod quote;
mod scan;
mod tracer;
mod traces;
mod traits;

pub(crate) use self::classify::{Catalogue, Classifier, Plan};
pub(crate) use self::effects::{Effects, functions_pattern};
pub(crate) use self::lexer::{Token, Tokens};
pub(crate) use self::names::{HARMLESS, SERVER_VIEWS};
pub(crate) use self::quote::{literal, quoted};
pub(crate) use self::tracer::SchemaChange;
pub(crate) use self::traces::{Objects, Trusted};
