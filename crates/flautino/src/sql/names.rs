//! Names in a text, and those that say something by themselves, whatever the catalogue.

use std::collections::HashSet;

use super::lexer::Token;

/// An identifier or a key word, as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name<'a> {
    Folded(&'a str),
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

    /// `U&"…"`, which may spell any name.
    pub(super) fn is_unicode(self) -> bool {
        matches!(self, Self::Quoted(text) if !text.starts_with('"'))
    }

    /// Whether the name, as the server reads it, has that property.
    pub(super) fn any(self, property: impl Fn(&str) -> bool) -> bool {
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
        !names.is_empty() && self.any(|name| names.contains(name))
    }

    /// Whether it is this key word.
    pub(super) fn is(self, word: &str) -> bool {
        matches!(self, Self::Folded(text) if text.eq_ignore_ascii_case(word))
    }
}

/// What kind of statement a first word makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Query,
    Explain,
}

/// The bytes of which PostgreSQL makes operators (manual, "Lexical Structure").
pub(super) const OPERATOR: &[u8] = b"+-*/<>=~!@#%^&|`?";

/// What stands in SQL like a function and is none in `pg_proc`.
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

/// Volatile functions that are harmless on a standby: they answer something else each time, and
/// leave nothing behind. Only where they come with PostgreSQL or are written in C, as those of its
/// extensions are, so that a function of the user's own of that name is none of them.
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

/// Functions that change something, or speak of one server only, whatever the catalogue calls them:
/// `txid_current` is *stable*.
pub(super) fn always_writes(function: &str) -> bool {
    const PREFIXES: [&str; 11] = [
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
    const NAMES: [&str; 18] = [
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
    NAMES.contains(&function) || PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}

/// Views that describe one server or session: what a standby says of itself is not what was asked.
/// Beside them, all that begin with `pg_stat_` or `pg_statio_`.
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

/// Whether a relation is one of the server's own: see [`SERVER_VIEWS`].
pub(super) fn describes_the_server(relation: &str) -> bool {
    let starts = |prefix| relation.starts_with(prefix);
    starts("pg_")
        && (SERVER_VIEWS.contains(&relation) || starts("pg_stat_") || starts("pg_statio_"))
}

/// The kind of statement that begins with this word, if it can be a read.
pub(super) fn kind_of(first: Name<'_>) -> Option<Kind> {
    let is_any = |words: &[&str]| words.iter().any(|word| first.is(word));
    if is_any(&["select", "values", "with", "table", "show"]) {
        Some(Kind::Query)
    } else {
        is_any(&["explain"]).then_some(Kind::Explain)
    }
}

/// Whether the word makes a query write: data-modifying `WITH`, `INTO`, row locks. Where it is the
/// name of a column it does so too; in doubt it is a write.
pub(super) fn writes(name: Name<'_>, last: Option<Name<'_>>) -> bool {
    let is_any = |words: &[&str]| words.iter().any(|word| name.is(word));
    is_any(&["insert", "update", "delete", "merge", "into", "returning"])
        || (last.is_some_and(|last| last.is("for")) && is_any(&["no", "key", "share"]))
}

/// Whether the word makes `EXPLAIN` run what it explains, or explain something kept elsewhere; or
/// nests it, which the parser follows without a limit.
pub(super) fn runs(name: Name<'_>) -> bool {
    ["analyze", "analyse", "execute", "declare", "explain"].iter().any(|word| name.is(word))
        || matches!(name, Name::Quoted(text) if text.trim_matches('"').starts_with("anal"))
}
