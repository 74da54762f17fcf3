//! What the classifier knows of the server's catalogue, and how certain that is.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::builtins::{Builtin, builtin, extension_function, makes_a_named_type};
use super::names::Name;

/// What the server's catalogue says about names, as far as reads and writes depend on it. All names
/// are without their schema.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// The names of all functions and types: a call of a type's name is a cast.
    pub(crate) functions: HashSet<Box<str>>,
    /// Names under which there is a function that writes, or may write: a call makes a statement a
    /// write.
    pub(crate) volatile: HashSet<Box<str>>,
    /// Those names in `volatile` that can be called as `value.name`, since one argument is enough.
    pub(crate) attributes: HashSet<Box<str>>,
    /// Names that make a statement a write wherever they stand in it: views, tables and types that
    /// lead to a function that writes.
    pub(crate) anywhere: HashSet<Box<str>>,
    /// Operators that call a function that writes.
    pub(crate) operators: Vec<Box<str>>,
    /// Objects that lead to a function that writes although no text names them, such as the `=` of
    /// `IN`. While there is one, every query is a write.
    pub(crate) hidden: Vec<HiddenUse>,
}

impl Catalogue {
    /// Whether a call of a function of this name may write.
    pub(super) fn taints_call(&self, name: &Name<'_>) -> bool {
        name.is_in(&self.volatile)
            || name.has(|name| {
                // Of what makes values of named types the catalogue knows whether it may write.
                !makes_a_named_type(name)
                    && [builtin(name), extension_function(name)].contains(&Some(Builtin::Primary))
            })
    }

    /// Whether the operator, as it is written, calls a function that may write.
    pub(super) fn taints_operator(&self, operator: &str) -> bool {
        let operator = if operator == "!=" { "<>" } else { operator };
        self.operators.iter().any(|tainted| **tainted == *operator)
    }
}

/// An object that the server may use for any query: a cast or an operator of the user's own between
/// types that come with PostgreSQL. Text for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HiddenUse(pub(crate) Box<str>);

/// Counts the moments from which on the catalogue may be outdated. There is a doubt until a reading
/// that began after the latest of them has ended.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    raised: AtomicU64,
    settled: AtomicU64,
}

impl Doubts {
    /// Returns the number of the new doubt.
    pub(super) fn raise(&self) -> u64 {
        self.raised.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The number of the latest doubt.
    pub(super) fn latest(&self) -> u64 {
        self.raised.load(Ordering::Acquire)
    }

    /// Settles this doubt and those before it. Returns whether it was the last one.
    pub(super) fn settle(&self, number: u64) -> bool {
        let before = self.settled.fetch_max(number, Ordering::AcqRel);
        before < number && !self.is_open()
    }

    /// Whether there is a doubt that is not settled.
    pub(super) fn is_open(&self) -> bool {
        self.settled.load(Ordering::Acquire) < self.latest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_settled_only_by_a_reading_that_began_after_it() {
        let doubts = Doubts::default();
        assert!(!doubts.is_open());
        let began = doubts.raise();
        doubts.raise();
        assert!(!doubts.settle(began));
        assert!(doubts.is_open());
        assert!(doubts.settle(doubts.latest()));
        assert!(!doubts.is_open());
        // A reading that began long ago ends late.
        let latest = doubts.raise();
        assert!(!doubts.settle(began));
        assert!(doubts.is_open());
        assert!(doubts.settle(latest));
        assert!(!doubts.settle(latest));
        assert!(!doubts.is_open());
    }
}
