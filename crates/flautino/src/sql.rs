//! Facts about a statement, from its text alone: whether it writes, and whether it leaves something
//! behind in its session.
//!
//! - `lexer`: the text as tokens
//! - `traits`: how many commands there are, and what they leave behind
//! - `names`: names and words that make a statement a write
//! - `builtins`, `keywords`: what comes with PostgreSQL, and where it may run
//! - `classify`: read or write
//! - `quote`: names and values as SQL text

mod builtins;
mod classify;
#[allow(dead_code, reason = "for the classifier")]
mod keywords;
mod lexer;
mod names;
mod quote;
mod traits;

pub(crate) use self::builtins::{Builtin, extension_names, names, relation_names};
pub(crate) use self::classify::{Catalogue, Classifier, Plan};
pub(crate) use self::lexer::{Token, Tokens};
pub(crate) use self::quote::{literal, quoted};
