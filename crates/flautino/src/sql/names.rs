//! Names in a text, and the lists of names whose meaning is known without the server's catalogue.

use std::collections::HashSet;

use super::lexer::Token;

/// An identifier or a key word, as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name<'a> {
    /// Without quotes: the server folds it to lower case.
    Folded(&'a str),
    /// With its quotes.
    Quoted(&'a str),
}

impl<'a> Name<'a> {
    pub(super) fn of(token: Token<'a>) -> Option<Self> {
        match token {
            Token::Word(text) => Some(Self::Folded(text)),
            Token::Quoted(text) => Some(Self::Quoted(text)),
            Token::Literal | Token::Semicolon | Token::Other => None,
        }
    }

    /// Whether it has the form `U&"…"`, whose escapes may spell any name.
    pub(super) fn is_unicode(self) -> bool {
        matches!(self, Self::Quoted(text) if !text.starts_with('"'))
    }

    /// Whether the name has this property, after folding and without quotes, as the server reads
    /// it.
    pub(super) fn has(self, property: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Folded(text) if text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                property(&text.to_ascii_lowercase())
            }
            Self::Folded(text) => property(text),
            Self::Quoted(text) => {
                let bare = text.strip_prefix('"').unwrap_or(text);
                let bare = bare.strip_suffix('"').unwrap_or(bare);
                if bare.contains('"') {
                    property(&bare.replace("\"\"", "\""))
                } else {
                    property(bare)
                }
            }
        }
    }

    pub(super) fn is_in(self, names: &HashSet<Box<str>>) -> bool {
        !names.is_empty() && self.has(|name| names.contains(name))
    }

    /// Whether it is this key word, in any case.
    pub(super) fn is(self, word: &str) -> bool {
        matches!(self, Self::Folded(text) if text.eq_ignore_ascii_case(word))
    }
}

/// The kinds of statements that can be reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatementKind {
    Query,
    Explain,
}

/// The bytes of which PostgreSQL makes operators (manual, "Lexical Structure").
pub(super) const OPERATOR: &[u8] = b"+-*/<>=~!@#%^&|`?";

/// What the parser takes for a function, but is SQL syntax and not in `pg_proc`.
pub(super) const SYNTAX: [&str; 38] = [
    "any",
    "array",
    "coalesce",
    "cube",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "exists",
    "greatest",
    "grouping",
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "least",
    "localtime",
    "localtimestamp",
    "nullif",
    "rollup",
    "row",
    "session_user",
    "some",
    "user",
    "xmlelement",
    "xmlforest",
    "xmlserialize",
    "xmltable",
];

/// Volatile functions that are harmless on a standby: they only return something else each time,
/// and leave nothing behind. A name counts only if its function comes with PostgreSQL or is written
/// in C, as those of extensions are, so that a user's own function of the same name is not taken
/// for it.
pub(crate) const HARMLESS: [&str; 31] = [
    "bernoulli",
    "clock_timestamp",
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "pg_database_size",
    "pg_indexes_size",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pgp_pub_encrypt",
    "pgp_pub_encrypt_bytea",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
    "random",
    "random_normal",
    "system",
    "timeofday",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v3",
    "uuid_generate_v4",
    "uuid_generate_v5",
    "uuidv4",
    "uuidv7",
];

/// Functions whose call is a write even if the catalogue does not call them volatile: they change
/// something, or describe the server that runs them. `txid_current`, for example, is *stable*.
pub(crate) const ALWAYS_WRITES: [&str; 18] = [
    "currval",
    "lastval",
    "lo_import",
    "loread",
    "lowrite",
    "nextval",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_export_snapshot",
    "pg_notify",
    "pg_show_all_settings",
    "query_to_xml",
    "set_config",
    "setseed",
    "setval",
    "ts_stat",
    "txid_current",
    "txid_current_if_assigned",
];

/// What the names of more such functions begin with.
pub(crate) const ALWAYS_WRITES_PREFIXES: [&str; 11] = [
    "cursor_to_xml",
    "database_to_xml",
    "dblink",
    "lo_",
    "pg_advisory",
    "pg_logical_",
    "pg_replication_",
    "pg_stat_",
    "pg_try_advisory",
    "schema_to_xml",
    "table_to_xml",
];

/// Whether a call of this function is a write whatever the catalogue says: see [`ALWAYS_WRITES`].
pub(super) fn always_writes(function: &str) -> bool {
    ALWAYS_WRITES.contains(&function)
        || ALWAYS_WRITES_PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}

/// Views that describe the server or session that reads them, so that a standby would show itself
/// in place of the primary. All views that begin with `pg_stat_` or `pg_statio_` do so too.
pub(crate) const SERVER_VIEWS: [&str; 15] = [
    "pg_aios",
    "pg_backend_memory_contexts",
    "pg_cursors",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_sequences",
    "pg_settings",
    "pg_shmem_allocations",
    "pg_wait_events",
];

/// Whether the relation describes the server that reads it: see [`SERVER_VIEWS`].
pub(super) fn describes_the_server(relation: &str) -> bool {
    let starts = |prefix| relation.starts_with(prefix);
    starts("pg_")
        && (SERVER_VIEWS.contains(&relation) || starts("pg_stat_") || starts("pg_statio_"))
}

/// The kind of statement that begins with this word; `None` if it cannot be a read.
pub(super) fn kind_of(first: Name<'_>) -> Option<StatementKind> {
    let is_any = |words: &[&str]| words.iter().any(|word| first.is(word));
    if is_any(&["select", "values", "with", "table", "show"]) {
        Some(StatementKind::Query)
    } else {
        is_any(&["explain"]).then_some(StatementKind::Explain)
    }
}

/// Whether the word makes a query a write: data-modifying `WITH`, `INTO`, row locks. A column of
/// that name makes it a write too, since the two are not told apart here.
pub(super) fn writes(name: Name<'_>, last: Option<Name<'_>>) -> bool {
    let is_any = |words: &[&str]| words.iter().any(|word| name.is(word));
    is_any(&["insert", "update", "delete", "merge", "into", "returning"])
        || (last.is_some_and(|last| last.is("for")) && is_any(&["no", "key", "share"]))
}

/// Whether the word makes `EXPLAIN` run the statement or explain one that is not in the text. A
/// nested `EXPLAIN` counts too, because the parser recurses into it without a limit.
pub(super) fn runs(name: Name<'_>) -> bool {
    ["analyze", "analyse", "execute", "declare", "explain"].iter().any(|word| name.is(word))
        || matches!(name, Name::Quoted(text) if text.trim_matches('"').starts_with("anal"))
}
