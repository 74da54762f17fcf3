//! Settings that a handle's statements run with, such as a tenant for row-level security.

use std::fmt;
use std::sync::Arc;

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, AssertSqlSafe, Executor, PgConnection, SqlSafeStr};

use super::sender::Sender;
use crate::error::Error;
use crate::logging::Values;
use crate::sql::literal;
use crate::statement::ToSend;

/// Settings by name, in the order in which they are set. What is set later may depend on what was set before:
/// a role, for example, may not be allowed to set the rest.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings(Vec<(String, String)>);

/// Settings on which it depends what the session may set.
const CHANGES_USER: [&str; 2] = ["role", "session_authorization"];

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

    /// The command that puts them in force, as a text that can be one of several in a message.
    pub(crate) fn sql(&self, extent: Extent) -> String {
        self.write(extent, |_, value| literal(value))
    }

    /// The same without the values, for the log, or with [`values`](Self::values).
    pub(crate) fn sql_without_values(&self, extent: Extent) -> String {
        self.write(extent, |number, _| format!("${number}"))
    }

    fn values(&self) -> Result<PgArguments, sqlx::Error> {
        let mut values = PgArguments::default();
        for (_, value) in &self.0 {
            values.add(value).map_err(sqlx::Error::Encode)?;
        }
        Ok(values)
    }

    fn write(&self, extent: Extent, value_as: impl Fn(usize, &str) -> String) -> String {
        let is_local = extent == Extent::Transaction;
        let calls = (1..).zip(&self.0).map(|(number, (name, value))| {
            format!("set_config({}, {}, {is_local})", literal(name), value_as(number, value))
        });
        format!("SELECT {}", calls.collect::<Vec<_>>().join(", "))
    }

    /// The statement that puts them in force. It carries the values apart, because sqlx logs its text.
    pub(crate) fn to_send(&self, extent: Extent, sender: &Sender) -> Result<ToSend, sqlx::Error> {
        let sql = AssertSqlSafe(self.sql_without_values(extent)).into_sql_str();
        Ok(ToSend::with_values(sql, self.values()?, sender.keeps_prepared && !sender.is_pooler))
    }

    /// Puts them in force for a transaction of sqlx's own.
    pub(crate) async fn put_for_transaction(
        &self,
        transaction: &mut PgConnection,
        sender: &Sender,
    ) -> Result<(), sqlx::Error> {
        self.check()?;
        let log = self.sql_without_values(Extent::Transaction);
        let statement = self.to_send(Extent::Transaction, sender)?;
        let log_entry = sender.logger.sending(&sender.name, &log, Values::None, None);
        let result = transaction.execute(statement).await;
        log_entry.finish(&result);
        result.map(drop)
    }

    /// The command that takes away those of them that `wanted` does not set anew. `None` if there are none.
    pub(crate) fn removal(&self, wanted: Option<&Self>) -> Option<String> {
        let place = |name: &str| wanted?.0.iter().position(|(other, _)| other == name);
        let names = self.0.iter().map(|(name, _)| name.as_str());
        let (users, others): (Vec<_>, Vec<_>) = names.partition(|name| CHANGES_USER.contains(name));
        let gone: Vec<_> = others.into_iter().filter(|name| place(name).is_none()).collect();
        // A role goes first: it may not be allowed to take the rest away, or to set what comes before the next one.
        let goes = |name: &&str| !gone.is_empty() || place(name) != Some(0);
        let users = users.into_iter().filter(goes);
        // `NULL` stands for the value that the session would have without them.
        let calls = users.chain(gone.iter().copied());
        let calls = calls.map(|name| format!("set_config({}, NULL, false)", literal(name)));
        let calls = calls.collect::<Vec<_>>();
        (!calls.is_empty()).then(|| format!("SELECT {}", calls.join(", ")))
    }

    /// What a name is set to.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Without the values, which may be secrets.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
