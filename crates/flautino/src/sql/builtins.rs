//! PostgreSQL's own functions, relations and types, and what was found when each was reviewed: may
//! a statement that names it run on a replica?
//!
//! The tables are in `builtins/*.txt`, in groups that say why. They cover PostgreSQL 13 to 18. All
//! names are as the server keeps them: folded, without quotes and schema.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Where what a name stands for may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// On any node: a standby gives the same kind of answer as the primary, nothing stays in the
    /// session or the server, and no particular server is described.
    AnyNode,
    /// On the primary alone.
    Primary,
}

/// The verdict on a function of `pg_catalog` or `information_schema`. `None`: there is no such
/// function in the versions that were reviewed, so that a function of the server's own under this
/// name counts as a write.
pub(crate) fn builtin(name: &str) -> Option<Builtin> {
    static TABLE: LazyLock<Table> = LazyLock::new(|| table(FUNCTIONS_TEXT));
    TABLE.get(name).copied()
}

/// Whether the function is [`Builtin::Primary`] only because it makes a value of a type that is given
/// as a value: where no type leads to a volatile function, it may be called on any node.
pub(crate) fn makes_a_named_type(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "array_in",
        "domain_in",
        "multirange_in",
        "pg_input_error_info",
        "pg_input_is_valid",
        "range_in",
        "record_in",
    ];
    NAMES.contains(&name)
}

/// The verdict on a function of an extension, written in C, if `provolatile` does not say it: by
/// itself a volatile function is a write, and any other is none.
pub(crate) fn extension_function(name: &str) -> Option<Builtin> {
    static TABLE: LazyLock<Table> = LazyLock::new(|| table(EXTENSIONS_TEXT));
    TABLE.get(name).copied()
}

/// The verdict on a table or view of `pg_catalog`, or on a view of one of PostgreSQL's own
/// extensions. Those of `information_schema`, whose names are those of users' tables too, may be
/// read anywhere.
pub(crate) fn builtin_relation(name: &str) -> Option<Builtin> {
    static TABLE: LazyLock<Table> = LazyLock::new(|| table(RELATIONS_TEXT));
    TABLE.get(name).copied()
}

/// Whether it is a table or view of `pg_catalog`.
pub(crate) fn is_builtin_relation(name: &str) -> bool {
    builtin_relation(name).is_some()
}

/// Whether it is a type of `pg_catalog`: a base type, an array, or the row type of a relation.
pub(crate) fn is_builtin_type(name: &str) -> bool {
    static TABLE: LazyLock<Table> = LazyLock::new(|| table(TYPES_TEXT));
    let element = name.strip_prefix('_').unwrap_or(name);
    TABLE.contains_key(element) || is_builtin_relation(element)
}

/// The names of all functions of `pg_catalog` and `information_schema` with this verdict, sorted
/// within their groups.
pub(crate) fn names(which: Builtin) -> impl Iterator<Item = &'static str> {
    names_in(FUNCTIONS_TEXT, which)
}

/// The names for which [`extension_function`] gives this verdict.
pub(crate) fn extension_names(which: Builtin) -> impl Iterator<Item = &'static str> {
    names_in(EXTENSIONS_TEXT, which)
}

/// The names for which [`builtin_relation`] gives this verdict.
pub(crate) fn relation_names(which: Builtin) -> impl Iterator<Item = &'static str> {
    names_in(RELATIONS_TEXT, which)
}

type Table = HashMap<&'static str, Builtin>;

const FUNCTIONS_TEXT: &str = include_str!("builtins/functions.txt");
const EXTENSIONS_TEXT: &str = include_str!("builtins/extensions.txt");
const RELATIONS_TEXT: &str = include_str!("builtins/relations.txt");
const TYPES_TEXT: &str = include_str!("builtins/types.txt");

fn table(text: &'static str) -> Table {
    entries(text).map(|(section, name)| (name, verdict(section))).collect()
}

fn names_in(text: &'static str, which: Builtin) -> impl Iterator<Item = &'static str> {
    entries(text).filter(move |(section, _)| verdict(section) == which).map(|(_, name)| name)
}

fn verdict(section: &str) -> Builtin {
    if section == "[any]" { Builtin::AnyNode } else { Builtin::Primary }
}

/// The names in the text of a table, each with its section. Lines that begin with `#` are comments,
/// those that begin with `[` sections, and all others names.
pub(super) fn entries(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut section = "";
    text.lines().filter(|line| !line.starts_with('#')).flat_map(move |line| {
        let names = if line.starts_with('[') {
            section = line;
            ""
        } else {
            line
        };
        names.split_whitespace().map(move |name| (section, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 5] = [
        ("functions", FUNCTIONS_TEXT),
        ("extensions", EXTENSIONS_TEXT),
        ("relations", RELATIONS_TEXT),
        ("types", TYPES_TEXT),
        ("keywords", include_str!("builtins/keywords.txt")),
    ];

    #[test]
    fn each_name_stands_once_and_in_order() {
        for (file, text) in ALL {
            let mut seen = std::collections::HashSet::new();
            for (_, name) in entries(text) {
                assert!(seen.insert(name), "{name} stands twice in {file}");
                let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                assert!(bare, "{name} in {file} is no name");
            }
            for group in text.split("\n\n") {
                let names: Vec<_> = entries(group).map(|(_, name)| name).collect();
                assert!(names.is_sorted(), "{file} is not in order: {names:?}");
            }
        }
    }

    #[test]
    fn each_group_says_why() {
        for (file, text) in ALL {
            for group in text.split("\n\n").filter(|group| entries(group).count() > 0) {
                assert!(group.starts_with("# "), "{file}: {group}");
            }
        }
    }

    #[test]
    fn verdicts_are_found_by_name() {
        for name in ["nextval", "txid_current", "query_to_xml", "pg_visible_in_snapshot"] {
            assert_eq!(builtin(name), Some(Builtin::Primary), "{name}");
        }
        for name in ["abs", "random", "array_shuffle", "uuidv7", "RI_FKey_check_ins"] {
            assert_eq!(builtin(name), Some(Builtin::AnyNode), "{name}");
        }
        for name in ["", "no_such_function", "Abs", "crosstab", "[any]"] {
            assert_eq!(builtin(name), None, "{name}");
        }
        assert!(makes_a_named_type("pg_input_is_valid") && !makes_a_named_type("nextval"));
        assert_eq!(extension_function("crosstab"), Some(Builtin::Primary));
        assert_eq!(extension_function("gen_salt"), Some(Builtin::AnyNode));
        assert_eq!(builtin_relation("pg_stat_activity"), Some(Builtin::Primary));
        assert_eq!(builtin_relation("pg_class"), Some(Builtin::AnyNode));
        assert_eq!(builtin_relation("tables"), None);
        assert!(
            is_builtin_type("int4") && is_builtin_type("_int4") && is_builtin_type("_pg_class")
        );
        assert!(!is_builtin_type("mood") && !is_builtin_type("integer"));
    }
}
