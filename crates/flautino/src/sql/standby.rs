//! What a standby refuses although it writes no row, for engines that have none.

use super::lexer::Tokens;

/// Commands that a standby refuses and a read-only transaction on a primary does not.
const COMMANDS: [&str; 5] = ["listen", "lock", "notify", "unlisten", "vacuum"];
/// Functions likewise: they send, need a transaction id, or ask where a primary is.
const FUNCTIONS: [&str; 13] = [
    "pg_backup_start",
    "pg_create_restore_point",
    "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn",
    "pg_current_xact_id",
    "pg_logical_emit_message",
    "pg_notify",
    "pg_switch_wal",
    "pg_walfile_name",
    "pg_walfile_name_offset",
    "pg_start_backup",
    "txid_current",
];

/// What of this text a standby refuses.
pub(crate) fn refused_on_standby(text: &str) -> Option<String> {
    let mut tokens = Tokens::of(text).map(|(token, _)| token);
    let command = tokens.next().filter(|token| token.is_any(&COMMANDS));
    let found = command.or_else(|| tokens.find(|token| token.is_any(&FUNCTIONS)))?;
    let is = |name: &&&str| found.is(name);
    COMMANDS.iter().chain(&FUNCTIONS).find(is).map(|name| (*name).to_owned())
}
