//! What the classifier knows of the server's catalogue.

use std::collections::HashSet;

use super::builtins::{Builtin, builtin, extension_function};
use super::names::Name;

/// What the server's catalogue says about names, as far as reads and writes depend on it. All names
/// are without their schema.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// The names of all functions and types: a call of a type's name is a cast.
    pub(crate) functions: HashSet<Box<str>>,
    /// Names under which there is a volatile function.
    pub(crate) volatile: HashSet<Box<str>>,
    /// Those of them that can be called with one argument, and so as an attribute: `row.function`.
    pub(crate) attributes: HashSet<Box<str>>,
    /// Names that make a statement a write wherever they stand in it: views, tables and types that
    /// lead to a volatile function.
    pub(crate) anywhere: HashSet<Box<str>>,
    /// Operators that call a volatile function.
    pub(crate) operators: Vec<Box<str>>,
}

impl Catalogue {
    /// Whether a call of a function of this name may write.
    pub(super) fn taints_call(&self, name: Name<'_>) -> bool {
        name.is_in(&self.volatile)
            || name.has(|name| {
                [builtin(name), extension_function(name)].contains(&Some(Builtin::Primary))
            })
    }

    /// Whether the operator, as it is written, calls a volatile function.
    pub(super) fn taints_operator(&self, operator: &str) -> bool {
        let operator = if operator == "!=" { "<>" } else { operator };
        self.operators.iter().any(|tainted| **tainted == *operator)
    }
}
