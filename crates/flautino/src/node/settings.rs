//! Settings that a handle's statements run with, such as a tenant for row-level security.

use std::fmt;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};

use super::Node;
use crate::error::Error;
use crate::logging::Values;
use crate::sql::literal;
use crate::statement::ToSend;

/// Settings by name, in the order in which they are set. What is set later may depend on what was set before:
/// a role, for example, may not be allowed to set the rest.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings(Vec<(String, String)>);

/// How long settings are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Until the session is reset.
    Session,
    /// Until the transaction ends.
    Transaction,
}

impl Settings {
    /// Sets a name, in place of what it was set to before.
    pub(crate) fn set(&mut self, name: &str, value: String) {
        // Names of settings do not differ by case.
        let name = name.to_ascii_lowercase();
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, value));
    }

    pub(crate) fn as_slice(&self) -> &[(String, String)] {
        &self.0
    }

    /// Whether a session that carries `carried` has these settings in force, and no other ones.
    pub(crate) fn are_carried(wanted: Option<&Arc<Self>>, carried: Option<&Arc<Self>>) -> bool {
        match (wanted, carried) {
            (None, None) => true,
            // Most often of one handle, and then equal without a look.
            (Some(wanted), Some(carried)) => Arc::ptr_eq(wanted, carried) || wanted == carried,
            _ => false,
        }
    }

    /// Fails if a name or a value cannot be sent.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let unsendable = |text: &str| text.contains('\0');
        let bad = |(name, value): &&(String, String)| {
            name.is_empty() || unsendable(name) || unsendable(value)
        };
        match self.0.iter().find(bad) {
            Some((name, _)) => Err(Error::InvalidSetting { name: name.replace('\0', "\\0") }),
            None => Ok(()),
        }
    }

    /// The command that puts them in force.
    pub(crate) fn sql(&self, extent: Extent) -> String {
        self.write(extent, literal)
    }

    /// The same for the log, without the values.
    pub(crate) fn sql_for_log(&self, extent: Extent) -> String {
        self.write(extent, |_| "…".to_owned())
    }

    fn write(&self, extent: Extent, value_as: impl Fn(&str) -> String) -> String {
        let is_local = extent == Extent::Transaction;
        let calls = self.0.iter().map(|(name, value)| {
            format!("set_config({}, {}, {is_local})", literal(name), value_as(value))
        });
        format!("SELECT {}", calls.collect::<Vec<_>>().join(", "))
    }

    /// The command that takes away those of them that `wanted` does not set anew. `None` if there are none.
    pub(crate) fn removal(&self, wanted: Option<&Self>) -> Option<String> {
        let stays =
            |name: &str| wanted.is_some_and(|wanted| wanted.0.iter().any(|(n, _)| n == name));
        let gone = self.0.iter().filter(|(name, _)| !stays(name));
        // `NULL` stands for the value that the session would have without them.
        let calls = gone.map(|(name, _)| format!("set_config({}, NULL, false)", literal(name)));
        let calls = calls.collect::<Vec<_>>();
        (!calls.is_empty()).then(|| format!("SELECT {}", calls.join(", ")))
    }

    /// What a name is set to.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

impl Node {
    /// Puts settings in force for a transaction of sqlx's own.
    pub(crate) async fn put_for_transaction(
        &self,
        transaction: &mut PgConnection,
        settings: &Settings,
    ) -> Result<(), sqlx::Error> {
        settings.check()?;
        let log = settings.sql_for_log(Extent::Transaction);
        let log_entry = self.server.sender.logger.sending(self.name(), &log, Values::None, None);
        let sql = AssertSqlSafe(settings.sql(Extent::Transaction)).into_sql_str();
        let result = transaction.execute(ToSend::simple(sql)).await;
        log_entry.finish(&result);
        result.map(drop)
    }
}

/// Without the values, which may be secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
