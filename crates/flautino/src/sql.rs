//! Facts about a statement, from its text alone: whether it writes, and whether it leaves something
//! behind in its session.
//!
//! - `lexer`: the text as tokens
//! - `traits`: how many commands there are, and what they leave behind
//! - `names`: names that make a statement a write, or that are known to be harmless
//! - `catalogue`: what is known of the server's catalogue
//! - `classify`: read or write
//! - `quote`: names and values as SQL text

mod catalogue;
mod classify;
mod lexer;
mod names;
mod quote;
mod traits;

pub(crate) use self::catalogue::{Catalogue, HiddenUse};
pub(crate) use self::classify::{Classifier, Plan};
pub(crate) use self::lexer::{Token, Tokens};
pub(crate) use self::names::{ALWAYS_WRITES, ALWAYS_WRITES_PREFIXES, HARMLESS, SERVER_VIEWS};
pub(crate) use self::quote::{literal, quoted};
pub(crate) use self::traits::StatementTraits;
