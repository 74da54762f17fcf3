//! One statement, taken out of sqlx's `Execute` so that it can be looked at before it is sent.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Arguments, Execute, Postgres, SqlStr};

use crate::error::Error;
use crate::sql::{Classifier, Plan};

/// A statement with all that sqlx needs to send it, and that can be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    sql: SqlStr,
    arguments: Option<PgArguments>,
    persistent: bool,
    prepared: Option<PgStatement>,
    plan: Arc<Plan>,
}

impl Statement {
    /// Fails where a value could not be encoded; nothing has been sent then.
    pub(crate) fn split<'q, E: Execute<'q, Postgres>>(
        mut query: E,
        classifier: &Classifier,
    ) -> Result<Self, sqlx::Error> {
        // `Map` answers `persistent` by whether it still has its arguments, so ask before.
        let persistent = query.persistent();
        let prepared = query.statement().cloned();
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let sql = query.sql();
        let plan = classifier.plan(sql.as_str());
        Ok(Self { sql, arguments, persistent, prepared, plan })
    }

    /// A text without values, in the simple protocol: one round trip, however many commands.
    pub(crate) fn simple(sql: SqlStr) -> Self {
        let plan = Arc::new(Plan::of(sql.as_str()));
        Self { sql, arguments: None, persistent: false, prepared: None, plan }
    }

    /// A text to be prepared or described.
    pub(crate) fn text_of(sql: SqlStr, classifier: &Classifier) -> Self {
        let plan = classifier.plan(sql.as_str());
        Self { sql, arguments: None, persistent: false, prepared: None, plan }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn text(&self) -> &str {
        self.sql.as_str()
    }

    /// Whether it carries values, which must not turn up in a log.
    pub(crate) fn has_values(&self) -> bool {
        self.arguments.as_ref().is_some_and(|arguments| arguments.len() > 0)
    }

    /// Whether it is sent in the extended protocol, where a statement is completed by the message
    /// after it.
    pub(crate) fn is_extended(&self) -> bool {
        self.arguments.is_some()
    }

    /// Whether it may leave something behind in the session: a setting, a lock, a cursor.
    pub(crate) fn may_change_session(&self) -> bool {
        self.plan.traits.may_change_session
    }

    /// For a handle, whose next statement may go to another connection: refuses a lone `BEGIN`,
    /// `COMMIT` and their like. A text of several commands can bracket itself.
    pub(crate) fn refuse_lone_control(&self) -> Result<(), Error> {
        if self.plan.traits.multiple_commands { Ok(()) } else { self.refuse_control() }
    }

    /// For a transaction, which counts its own levels: refuses whatever would end it.
    pub(crate) fn refuse_control(&self) -> Result<(), Error> {
        match self.plan.traits.control {
            Some(word) => Err(Error::TransactionControl { keyword: word.to_ascii_uppercase() }),
            None => Ok(()),
        }
    }

    /// Where nothing is kept prepared: sqlx would name it at the server, and never close it.
    pub(crate) fn unnamed(mut self) -> Self {
        self.persistent = false;
        self
    }

    /// How it must be sent through a pooler that may give each message another server.
    pub(crate) fn for_pooler(self) -> (Self, PoolerMode) {
        let mut this = self.unnamed();
        if this.arguments.is_none() {
            return (this, PoolerMode::AsItIs);
        }
        if !this.has_values() && !this.plan.traits.is_query {
            // A utility command; some of them refuse to run inside a transaction.
            this.arguments = None;
            return (this, PoolerMode::AsItIs);
        }
        (this, PoolerMode::InTransaction)
    }
}

/// See [`Statement::for_pooler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolerMode {
    AsItIs,
    InTransaction,
}

impl Execute<'_, Postgres> for Statement {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.prepared.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}
