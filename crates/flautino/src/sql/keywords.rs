//! The key words of PostgreSQL 13 to 18, by what a name may be that is spelled like one (its
//! `kwlist.h`, and `pg_get_keywords()`).
//!
//! A word that only later versions have is a plain name on an earlier server.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::builtins::entries;

/// What else may be called by the key word, without quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    /// Nothing.
    Reserved,
    /// A function or a type.
    TypeOrFunction,
    /// A column or table, but no function and no type: their names are syntax.
    Column,
    /// Anything.
    Unreserved,
}

/// The kind of this key word, which is written in lower case. `None` if it is none.
pub(crate) fn keyword(word: &str) -> Option<Keyword> {
    static TABLE: LazyLock<HashMap<&'static str, Keyword>> = LazyLock::new(|| {
        let kinds = entries(include_str!("builtins/keywords.txt"));
        kinds.map(|(section, word)| (word, kind_of(section))).collect()
    });
    TABLE.get(word).copied()
}

fn kind_of(section: &str) -> Keyword {
    match section {
        "[reserved]" => Keyword::Reserved,
        "[type_or_function]" => Keyword::TypeOrFunction,
        "[column]" => Keyword::Column,
        _ => Keyword::Unreserved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found() {
        assert_eq!(keyword("select"), Some(Keyword::Reserved));
        assert_eq!(keyword("left"), Some(Keyword::TypeOrFunction));
        assert_eq!(keyword("coalesce"), Some(Keyword::Column));
        assert_eq!(keyword("update"), Some(Keyword::Unreserved));
        assert_eq!(keyword("merge_action"), Some(Keyword::Column));
        assert_eq!(keyword("notes"), None);
    }
}
