//! One statement, taken out of sqlx's `Execute` so that it can be classified before it is sent, and
//! sent more than once.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Arguments, Execute, Postgres, SqlStr};

use crate::error::Error;
use crate::sql::{
    Classifier, Leftover, Plan, Tokens, copies_rows, drops_prepared, leftover, refused_on_standby,
};
use crate::sqlstate::{
    SQLX_STATEMENT, is_outdated, may_have_outdated_types, must_prepare_anew, was_refused_unrun,
};

/// How many values the protocol can carry for one statement.
const MAX_VALUES: usize = u16::MAX as usize;

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
    /// Takes a query of sqlx apart. Fails if a value cannot be encoded or there are too many; nothing has
    /// been sent then.
    pub(crate) fn split<'q, E: Execute<'q, Postgres>>(
        mut query: E,
        classifier: &Classifier,
    ) -> Result<Self, sqlx::Error> {
        // Ask before the arguments are taken: without them, `Map` reports that it is not
        // persistent.
        let persistent = query.persistent();
        let prepared = query.statement().cloned();
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let values = arguments.as_ref().map_or(0, Arguments::len);
        if values > MAX_VALUES {
            // The same kind of error as sqlx's own, which comes only after a connection was taken.
            return Err(sqlx::Error::Protocol(format!(
                "too many values for one statement: {values}, and PostgreSQL takes at most \
                 {MAX_VALUES}; send several statements, or arrays that `unnest` takes apart"
            )));
        }
        let sql = query.sql();
        let plan = classifier.plan(sql.as_str());
        Ok(Self { sql, arguments, persistent, prepared, plan })
    }

    /// A text that is only to be prepared or described.
    pub(crate) fn text_of(sql: SqlStr, classifier: &Classifier) -> Self {
        let plan = classifier.plan(sql.as_str());
        Self { sql, arguments: None, persistent: false, prepared: None, plan }
    }

    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The text, to be kept.
    pub(crate) fn sql(&self) -> SqlStr {
        self.sql.clone()
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

    /// Whether nothing of it is committed, outside a transaction, before the server reports that it is
    /// complete. A `CALL` or a `DO` may commit on its own, and so may several commands in one text.
    pub(crate) fn commits_at_once(&self) -> bool {
        let traits = &self.plan.traits;
        traits.is_query && !traits.multiple_commands && self.is_extended()
    }

    /// Whether its text shows that it may leave something behind in the session: a setting, a lock, a
    /// cursor. [`Classifier::effects`] also knows what functions and triggers do.
    pub(crate) fn may_change_session(&self) -> bool {
        self.plan.traits.may_change_session
    }

    /// Whether it drops prepared statements that sqlx counts on.
    pub(crate) fn drops_prepared(&self) -> bool {
        self.may_change_session() && drops_prepared(self.text(), SQLX_STATEMENT)
    }

    /// What it would leave behind in its session.
    pub(crate) fn leftover(&self) -> Option<Leftover> {
        self.may_change_session().then(|| leftover(self.text())).flatten()
    }

    /// Refuses `COPY` from and to the client: sqlx would not answer the server's messages, and the
    /// connection would be of no more use.
    pub(crate) fn refuse_copy(&self) -> Result<(), sqlx::Error> {
        if self.may_change_session() && copies_rows(self.text()) {
            return Err(sqlx::Error::InvalidArgument(
                "`COPY … FROM STDIN` and `COPY … TO STDOUT` cannot be sent as a query; take a connection \
                 with `acquire`, and use sqlx's `copy_in_raw` or `copy_out_raw` on it"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Refuses what a standby refuses and a read-only transaction on a primary does not.
    pub(crate) fn refuse_on_standby(&self) -> Result<(), Error> {
        match refused_on_standby(self.text()) {
            Some(what) => Err(Error::RefusedByStandby { what }),
            None => Ok(()),
        }
    }

    /// Whether the server refused it with this error because of what sqlx remembers for the connection,
    /// and running it again is harmless.
    pub(crate) fn is_outdated_by(&self, error: &sqlx::Error) -> bool {
        let is_outdated =
            is_outdated(error) || (self.has_values() && may_have_outdated_types(error));
        is_outdated && !self.may_have_committed(error)
    }

    /// Whether the text may have committed something before the server reached what it refused.
    fn may_have_committed(&self, error: &sqlx::Error) -> bool {
        let traits = &self.plan.traits;
        if traits.is_query || traits.multiple_commands {
            return traits.multiple_commands;
        }
        let first = Tokens::of(self.text()).next();
        match first {
            Some((word, _)) if word.is_any(&["call", "do"]) => !was_refused_unrun(error),
            // As `VACUUM`.
            _ => !must_prepare_anew(error),
        }
    }

    /// Whether it is one command that reads or writes rows, and leaves nothing behind in the session.
    pub(crate) fn is_plain_query(&self) -> bool {
        let traits = &self.plan.traits;
        traits.is_query && !traits.multiple_commands && !traits.may_change_session
    }

    /// Refuses what makes no sense through a handle, whose next statement may run on another connection
    /// and whose session is reset after each: a lone `BEGIN` or `COMMIT`, and what a session would hold
    /// until its end, such as an advisory lock.
    ///
    /// With `is_behind_pooler` a lease would hold nothing either; what the text shows of that is refused
    /// when it is sent, with what to use instead.
    pub(crate) fn admit_to_handle(
        &self,
        classifier: &Classifier,
        is_behind_pooler: impl Fn() -> bool,
    ) -> Result<(), Error> {
        self.refuse_lone_control()?;
        match self.holds(classifier) {
            Some(_) if is_behind_pooler() && self.leftover().is_some() => Ok(()),
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

    /// How to send it through a pooler that may pass each message on to another server.
    pub(crate) fn through_pooler(&self) -> Sending {
        if self.arguments.is_none() {
            return Sending::Unnamed;
        }
        // Some utility commands refuse to run inside a transaction.
        let is_utility = !self.has_values() && !self.plan.traits.is_query;
        if is_utility { Sending::OneMessage } else { Sending::InTransaction }
    }

    /// A copy for sqlx to send. sqlx takes the values, and the statement may have to be sent again.
    pub(crate) fn to_send(&self, sending: Sending) -> ToSend {
        ToSend {
            sql: self.sql.clone(),
            arguments: match sending {
                Sending::OneMessage => None,
                Sending::AsItIs | Sending::Unnamed | Sending::InTransaction => {
                    self.arguments.clone()
                }
            },
            persistent: self.persistent && sending == Sending::AsItIs,
            prepared: self.prepared.clone(),
        }
    }
}

/// What sqlx needs to send a [`Statement`].
pub(crate) struct ToSend {
    sql: SqlStr,
    arguments: Option<PgArguments>,
    persistent: bool,
    prepared: Option<PgStatement>,
}

impl ToSend {
    /// A text without values, to be sent in the simple protocol: one round trip for any number of
    /// commands.
    pub(crate) fn simple(sql: SqlStr) -> Self {
        Self { sql, arguments: None, persistent: false, prepared: None }
    }

    /// A statement with values, which is kept prepared if it is `persistent`.
    pub(crate) fn with_values(sql: SqlStr, values: PgArguments, persistent: bool) -> Self {
        Self { sql, arguments: Some(values), persistent, prepared: None }
    }
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    /// As the app wants it.
    AsItIs,
    /// Without a name, because nothing is kept prepared on the connection: sqlx would give it a name there
    /// and never close it.
    Unnamed,
    /// In the simple protocol: it is one message.
    OneMessage,
    /// Without a name, and within `BEGIN` and `COMMIT`: its messages have to reach the same server.
    InTransaction,
}

impl Execute<'_, Postgres> for ToSend {
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
