//! SQL text in, facts out: whether a statement writes, and what it leaves behind.

mod classify;
mod lexer;
mod names;
mod quote;
mod traits;

pub(crate) use self::classify::{Catalogue, Classifier, Plan};
pub(crate) use self::lexer::{Token, Tokens};
pub(crate) use self::names::{HARMLESS, SERVER_VIEWS};
pub(crate) use self::quote::{literal, quoted};
