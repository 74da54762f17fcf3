//! Names in a text, and the lists of names whose meaning is known without the server's catalogue.

use std::borrow::Cow;
use std::collections::HashSet;

use super::lexer::Token;

/// The longest name that the server keeps whole, in bytes: `NAMEDATALEN` - 1.
const MAX_NAME: usize = 63;

/// An identifier or a key word, as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name<'a> {
    /// Without quotes: the server folds it to lower case.
    Folded(&'a str),
    /// With its quotes: `"…"` or `U&"…"`.
    Quoted(&'a str),
}

impl<'a> Name<'a> {
    pub(super) fn of(token: Token<'a>) -> Option<Self> {
        match token {
            Token::Word(text) => Some(Self::Folded(text)),
            Token::Quoted(text) => Some(Self::Quoted(text)),
            _ => None,
        }
    }

    /// Whether the name, as the server may read it, has this property. A name that cannot be read
    /// here counts as one that has it.
    pub(super) fn has(self, property: impl Fn(&str) -> bool) -> bool {
        let Some(name) = self.spelt() else { return true };
        // The server folds other letters too, if the database's encoding has one byte for each.
        let folds_more = matches!(self, Self::Folded(_)) && !name.is_ascii();
        property(&name)
            || (name.len() > MAX_NAME && property(cut(&name)))
            || (folds_more && property(cut(&name.to_lowercase())))
    }

    pub(super) fn is_in(self, names: &HashSet<Box<str>>) -> bool {
        !names.is_empty() && self.has(|name| names.contains(name))
    }

    /// Folded, or without its quotes and escapes; `None` if it has an escape that is none.
    fn spelt(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Folded(text) if text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Some(text.to_ascii_lowercase().into())
            }
            Self::Folded(text) => Some(text.into()),
            Self::Quoted(text) => match text.strip_prefix('"') {
                Some(rest) => Some(unquoted(rest).0),
                None => without_escapes(text),
            },
        }
    }
}

/// The name as the server cuts it: between characters.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}

/// What stands before the closing quote, with doubled quotes made one, and what stands behind it.
fn unquoted(rest: &str) -> (Cow<'_, str>, &str) {
    let bytes = rest.as_bytes();
    let mut at = 0;
    let mut doubled = false;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'"', b'"', ..] => (at, doubled) = (at + 2, true),
            [b'"', ..] => break,
            _ => at += 1,
        }
    }
    let (name, behind) = rest.split_at(at);
    (if doubled { name.replace("\"\"", "\"").into() } else { name.into() }, behind)
}

/// The name that `U&"…"` spells, with or without `UESCAPE '…'` behind it.
fn without_escapes(text: &str) -> Option<Cow<'_, str>> {
    let (name, behind) = unquoted(text.get(3..)?);
    let mut escape = '\\';
    if let Some(constant) = behind.strip_prefix('"').and_then(|tail| tail.strip_suffix('\'')) {
        escape = constant.chars().next_back()?;
        constant.strip_suffix(escape)?.strip_suffix('\'')?;
    }
    if !name.contains(escape) {
        return Some(name);
    }
    let mut spelt = String::new();
    let mut rest = &*name;
    while let Some((plain, behind)) = rest.split_once(escape) {
        spelt.push_str(plain);
        if let Some(behind) = behind.strip_prefix(escape) {
            spelt.push(escape);
            rest = behind;
            continue;
        }
        let (digits, behind) = match behind.strip_prefix('+') {
            Some(behind) => behind.split_at_checked(6)?,
            None => behind.split_at_checked(4)?,
        };
        spelt.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = behind;
    }
    spelt.push_str(rest);
    Some(spelt.into())
}

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

/// Whether a call of this function is a write even if the catalogue does not call it volatile: it
/// changes something, or describes the server that runs it. `txid_current`, for example, is
/// *stable*.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(name: Name<'_>) -> Option<String> {
        name.spelt().map(Cow::into_owned)
    }

    #[test]
    fn a_name_is_read_as_the_server_reads_it() {
        for (quoted, expected) in [
            ("\"a\"", Some("a")),
            ("\"A\"\"b\"", Some("A\"b")),
            ("U&\"gr\\0061b\"", Some("grab")),
            ("u&\"gr\\+000061b\"", Some("grab")),
            ("U&\"gr!0061b\" UESCAPE '!'", Some("grab")),
            ("U&\"gr\\0061b\" UESCAPE '!'", Some("gr\\0061b")),
            ("U&\"a!!\\\" uescape -- '\n '!'", Some("a!\\")),
            ("U&\"a\\00\"", None),
            ("U&\"a\\d83d\"", None),
            ("U&\"a\" UESCAPE '!!'", None),
            ("U&\"a\" UESCAPE ''", None),
        ] {
            assert_eq!(spelt(Name::Quoted(quoted)).as_deref(), expected, "{quoted}");
        }
        assert_eq!(spelt(Name::Folded("GRAB")).as_deref(), Some("grab"));
    }

    #[test]
    fn a_long_name_is_cut_and_other_letters_are_folded() {
        let long = "x".repeat(62) + "éy";
        assert!(Name::Folded(&long).has(|name| name == "x".repeat(62)));
        assert!(Name::Folded(&long).has(|name| name == long));
        assert!(Name::Folded("É").has(|name| name == "é"));
        assert!(!Name::Quoted("\"É\"").has(|name| name == "é"));
    }
}
