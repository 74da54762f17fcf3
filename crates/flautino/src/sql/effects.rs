//! What statements do to their session, and which of PostgreSQL's own functions do it.

use std::ops::{BitOr, BitOrAssign};

/// What a statement, a function or a table does to a session; a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effects(u8);

impl Effects {
    pub(crate) const NONE: Self = Self(0);
    /// May leave something that a reset takes away: a setting, a lock, a temporary table.
    pub(crate) const CHANGES: Self = Self(1);
    /// May leave something that no reset takes away, so that the session has to end.
    pub(crate) const SPOILS: Self = Self(1 << 1);
    /// Asks for what sequences gave to the session before: `lastval`, `currval`.
    pub(crate) const ASKS: Self = Self(1 << 2);
    /// May take a value of a sequence.
    pub(crate) const ADVANCES: Self = Self(1 << 3);
    /// Calls, inside of a function or a view, what takes something for as long as the session lasts.
    pub(super) const TAKES: Self = Self(1 << 4);
    /// Calls, inside of a function, what gives that back.
    pub(super) const GIVES_BACK: Self = Self(1 << 5);
    /// May change what functions, triggers and views do.
    pub(crate) const ALTERS: Self = Self(1 << 6);
    /// The statement itself takes or gives back what lasts as long as the session, and says so in its
    /// answer: a session-level lock, `LISTEN`.
    pub(super) const HOLDS: Self = Self(1 << 7);
    /// All that a text may do that cannot be read.
    pub(super) const DOUBT: Self = Self(Self::CHANGES.0 | Self::ASKS.0 | Self::ADVANCES.0);

    /// Whether it has one of these.
    pub(crate) fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    pub(super) fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl BitOr for Effects {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Functions of PostgreSQL and of extensions that are written in C, by what they do to the session. A
/// star stands for any end of the name.
const FUNCTIONS: &[(&str, Effects)] = {
    use Effects as E;
    const LOCK: E = E(E::CHANGES.0 | E::TAKES.0);
    const UNLOCK: E = E(E::CHANGES.0 | E::GIVES_BACK.0);
    &[
        ("set_config", E::CHANGES),
        ("setseed", E::CHANGES),
        ("set_limit", E::CHANGES),
        ("pg_advisory_lock", LOCK),
        ("pg_advisory_lock_shared", LOCK),
        ("pg_try_advisory_lock", LOCK),
        ("pg_try_advisory_lock_shared", LOCK),
        ("pg_advisory_unlock", UNLOCK),
        ("pg_advisory_unlock_shared", UNLOCK),
        ("pg_advisory_unlock_all", UNLOCK),
        ("lastval", E::ASKS),
        ("currval", E::ASKS),
        ("nextval", E::ADVANCES),
        ("setval", E::ADVANCES),
        // They run SQL that they are given as text.
        ("query_to_xml*", E::DOUBT),
        ("ts_stat", E::DOUBT),
        ("ts_rewrite", E::DOUBT),
        ("crosstab*", E::DOUBT),
        ("connectby", E::DOUBT),
        ("xpath_table", E::DOUBT),
        // A temporary slot lasts as long as the session.
        ("pg_create_physical_replication_slot", E::SPOILS),
        ("pg_create_logical_replication_slot", E::SPOILS),
        ("pg_copy_physical_replication_slot", E::SPOILS),
        ("pg_copy_logical_replication_slot", E::SPOILS),
        ("pg_replication_origin_session_setup", E::SPOILS),
        ("pg_replication_origin_session_reset", E::SPOILS),
        ("pg_replication_origin_xact_setup", E::SPOILS),
        ("pg_replication_origin_xact_reset", E::SPOILS),
        ("pg_backup_start", E(E::SPOILS.0 | E::TAKES.0)),
        ("pg_backup_stop", E(E::SPOILS.0 | E::GIVES_BACK.0)),
        ("pg_start_backup", E::SPOILS),
        ("pg_stop_backup", E::SPOILS),
        // Variables of the library, and what it keeps in the session's memory.
        ("isn_weak", E::SPOILS),
        ("sepgsql_setcon", E::SPOILS),
        ("dblink_connect", E::SPOILS),
        ("dblink_connect_u", E::SPOILS),
        ("dblink_disconnect", E::SPOILS),
        ("dblink_open", E::SPOILS),
        ("dblink_send_query", E::SPOILS),
        ("dblink_exec", E::SPOILS),
        ("pgv_*", E::SPOILS),
        ("hypopg*", E::SPOILS),
        ("pg_stat_force_next_flush", E::CHANGES),
        ("binary_upgrade_set_*", E::SPOILS),
    ]
};

/// A regular expression for the names of [`of_function`].
pub(crate) fn functions_pattern() -> String {
    let names: Vec<_> = FUNCTIONS.iter().map(|(name, _)| name.replace('*', ".*")).collect();
    format!("^({})$", names.join("|"))
}

/// What a call of this function does, if it is one of PostgreSQL or of an extension.
pub(super) fn of_function(name: &str) -> Effects {
    let is_it = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    FUNCTIONS.iter().find(|(pattern, _)| is_it(pattern)).map_or(Effects::NONE, |found| found.1)
}
