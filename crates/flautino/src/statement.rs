//! One statement, taken out of sqlx's `Execute` so that it can be classified before it is sent, and
//! sent more than once.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Arguments, Execute, Postgres, SqlStr};

use crate::error::Error;
use crate::sql::{Classifier, Plan};

/// A statement with all that sqlx needs to send it. A clone of it can be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    sql: SqlStr,
    /// The values of its parameters. `None` sends the text in the simple protocol.
    arguments: Option<PgArguments>,
    /// Whether sqlx keeps it prepared on the connection, under a name.
    persistent: bool,
    /// What sqlx learnt when the app prepared the statement itself.
    prepared: Option<PgStatement>,
    /// What is known of its text.
    plan: Arc<Plan>,
}

impl Statement {
    /// Takes a query of sqlx apart. Fails if a value cannot be encoded; nothing has been sent then.
    pub(crate) fn split<'q, E: Execute<'q, Postgres>>(
        mut query: E,
        classifier: &Classifier,
    ) -> Result<Self, sqlx::Error> {
        // Ask before the arguments are taken: without them, `Map` reports that it is not
        // persistent.
        let persistent = query.persistent();
        let prepared = query.statement().cloned();
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let sql = query.sql();
        let plan = classifier.plan(sql.as_str());
        Ok(Self { sql, arguments, persistent, prepared, plan })
    }

    /// A text without values, to be sent in the simple protocol: one round trip for any number of
    /// commands.
    pub(crate) fn simple(sql: SqlStr) -> Self {
        let plan = Arc::new(Plan::of(sql.as_str()));
        Self { sql, arguments: None, persistent: false, prepared: None, plan }
    }

    /// A text that is only to be prepared or described.
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

    /// Whether it carries values.
    pub(crate) fn has_values(&self) -> bool {
        self.arguments.as_ref().is_some_and(|arguments| arguments.len() > 0)
    }

    /// Whether it is sent in the extended protocol. There a statement outside a transaction commits
    /// at the `Sync` message that follows it.
    pub(crate) fn is_extended(&self) -> bool {
        self.arguments.is_some()
    }

    /// Whether its text shows that it may leave something behind in the session: a setting, a lock, a
    /// cursor. [`Classifier::may_change_session`] also knows what functions and triggers do.
    pub(crate) fn may_change_session(&self) -> bool {
        self.plan.traits.may_change_session
    }

    /// Refuses what makes no sense through a handle, whose next statement may run on another connection
    /// and whose session is reset after each: a lone `BEGIN` or `COMMIT`, and what a session would hold
    /// until its end, such as an advisory lock.
    pub(crate) fn admit_to_handle(&self, classifier: &Classifier) -> Result<(), Error> {
        self.refuse_lone_control()?;
        match self.holds(classifier) {
            Some(name) => Err(Error::NeedsLease { name }),
            None => Ok(()),
        }
    }

    /// The name of what its session would hold until its end, such as an advisory lock.
    pub(crate) fn holds(&self, classifier: &Classifier) -> Option<String> {
        classifier.holds(&self.plan, self.text())
    }

    /// Refuses a lone `BEGIN`, `COMMIT` and the like. A text of several commands may hold both the begin
    /// and the end.
    fn refuse_lone_control(&self) -> Result<(), Error> {
        if self.plan.traits.multiple_commands { Ok(()) } else { self.refuse_control() }
    }

    /// Refuses every text that begins or ends a transaction. For a [`Transaction`], which must know
    /// whether it is open.
    ///
    /// [`Transaction`]: crate::Transaction
    pub(crate) fn refuse_control(&self) -> Result<(), Error> {
        match self.plan.traits.control {
            Some(word) => Err(Error::TransactionControl { keyword: word.to_ascii_uppercase() }),
            None => Ok(()),
        }
    }

    /// The same statement, to be prepared without a name. For connections on which nothing is kept
    /// prepared: sqlx would give it a name there and never close it.
    pub(crate) fn unnamed(mut self) -> Self {
        self.persistent = false;
        self
    }

    /// The statement and how to send it, through a pooler that may pass each message on to another
    /// server.
    pub(crate) fn for_pooler(self) -> (Self, PoolerMode) {
        let mut this = self.unnamed();
        if this.arguments.is_none() {
            return (this, PoolerMode::AsItIs);
        }
        if !this.has_values() && !this.plan.traits.is_query {
            // Some utility commands refuse to run inside a transaction, so send it in one message
            // instead.
            this.arguments = None;
            return (this, PoolerMode::AsItIs);
        }
        (this, PoolerMode::InTransaction)
    }
}

/// How a statement is sent through a pooler; see [`Statement::for_pooler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolerMode {
    /// On its own: it is one message.
    AsItIs,
    /// Within `BEGIN` and `COMMIT`: its messages have to reach the same server.
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
