//! The settings that a handle's statements run with, on a session that may carry those of another handle.
//!
//! A session of the engine's own keeps them when its connection is given back, for the next handle with the same
//! ones. Whoever wants others, or none, has them replaced first: in one round trip, or in two where some are to be
//! taken away and others set. Behind PgBouncer, and in a pool of the app's own, others use the session too: there they last for one transaction.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::{Commands, Lease, LeasedConnection, Step};
use crate::error::Error;
use crate::node::{Extent, Settings};
use crate::statement::ToSend;

impl Lease {
    fn carried(&self) -> Option<&Arc<Settings>> {
        match self.connection.as_ref() {
            Some(LeasedConnection::Pooled(connection)) => connection.settings(),
            Some(LeasedConnection::Single(_)) | None => self.settings.as_ref(),
        }
    }

    /// The session has these settings in force from now on.
    fn note_settings(&mut self, settings: Option<&Arc<Settings>>) {
        match &mut self.connection {
            Some(LeasedConnection::Pooled(connection)) => {
                connection.note_settings(settings.cloned());
            }
            Some(LeasedConnection::Single(_)) | None => self.settings = settings.cloned(),
        }
    }

    /// Whether something has to be done before the handle's next statement, to have exactly these settings in
    /// force.
    pub(crate) fn lacks(&self, wanted: Option<&Arc<Settings>>) -> bool {
        self.stands_in() || !Settings::are_carried(wanted, self.carried())
    }

    /// Has the settings in force for a statement, and no others.
    pub(crate) async fn put_settings(
        &mut self,
        wanted: Option<&Arc<Settings>>,
    ) -> Result<(), sqlx::Error> {
        if self.owns_session() {
            return self.put_in_session(wanted).await;
        }
        check(wanted)?;
        self.local_settings = self.with_own(wanted, "transaction_read_only");
        Ok(())
    }

    /// The settings, and on a node that stands in for a replica this one.
    fn with_own(&self, wanted: Option<&Arc<Settings>>, read_only: &str) -> Option<Arc<Settings>> {
        if !self.stands_in() {
            return wanted.cloned();
        }
        let mut all = wanted.map(|wanted| Settings::clone(wanted)).unwrap_or_default();
        all.set(read_only, "on".to_owned());
        Some(Arc::new(all))
    }

    /// Whether the node stands in for a replica.
    pub(crate) fn stands_in(&self) -> bool {
        self.node.server.setup.stands_in()
    }

    /// Has the settings in force for as long as the lease lasts, and no others.
    pub(crate) async fn keep_settings(
        &mut self,
        wanted: Option<&Arc<Settings>>,
    ) -> Result<(), sqlx::Error> {
        if wanted.is_some() && self.node.server.sender.is_pooler {
            let instead = "use a transaction (`db.begin()`) of the handle, which has its settings";
            let (node, what) = (self.node().to_owned(), "a lease with settings".to_owned());
            return Err(Error::SharedSession { node, what, instead }.into());
        }
        let wanted = self.with_own(wanted, "default_transaction_read_only");
        let wanted = wanted.as_ref();
        if !self.owns_session() && wanted.is_some() {
            // So that nobody else gets it.
            self.mark_used();
        }
        self.put_in_session(wanted).await
    }

    async fn put_in_session(&mut self, wanted: Option<&Arc<Settings>>) -> Result<(), sqlx::Error> {
        check(wanted)?;
        if !self.lacks(wanted) {
            return Ok(());
        }
        let mut commands = Commands::default();
        self.remove_settings(wanted, &mut commands);
        if !commands.is_empty() {
            let Commands { sql, log } = commands;
            self.put(&log, ToSend::simple(AssertSqlSafe(sql).into_sql_str())).await?;
        }
        if let Some(wanted) = wanted {
            let log = wanted.sql_without_values(Extent::Session);
            let statement = wanted.to_send(Extent::Session, &self.node.server.sender)?;
            self.put(&log, statement).await?;
        }
        self.note_settings(wanted);
        self.forget_outdated().await;
        Ok(())
    }

    async fn put(&mut self, log: &str, statement: ToSend) -> Result<(), sqlx::Error> {
        let putting = self.control(Step::Short, log, |connection| {
            Box::pin(async move { connection.execute(statement).await.map(drop) })
        });
        let put = putting.await;
        if put.is_err() {
            // What is in force is not known, so that the session is reset.
            self.mark_used();
        }
        put
    }

    /// What is sent before and after a `BEGIN`, to have the settings in force in the transaction and no others.
    pub(crate) fn settings_for_begin(
        &mut self,
        wanted: Option<&Arc<Settings>>,
    ) -> Result<(Commands, Commands), sqlx::Error> {
        check(wanted)?;
        let wanted = self.with_own(wanted, "transaction_read_only");
        let wanted = wanted.as_ref();
        let (mut before, mut after) = (Commands::default(), Commands::default());
        let extent = if self.owns_session() { Extent::Session } else { Extent::Transaction };
        if extent == Extent::Session && self.lacks(wanted) {
            self.remove_settings(wanted, &mut before);
        }
        if let Some(wanted) = wanted
            && self.lacks(Some(wanted))
        {
            let commands = if extent == Extent::Session { &mut before } else { &mut after };
            commands.push(&wanted.sql(extent), &wanted.sql_without_values(extent));
        }
        Ok((before, after))
    }

    /// A transaction has begun with them.
    pub(crate) fn note_begun_with(&mut self, settings: Option<&Arc<Settings>>) {
        if self.owns_session() && self.lacks(settings) {
            self.note_settings(settings);
        }
    }

    /// The commands that take away the settings which the session carries and `wanted` does not set anew.
    fn remove_settings(&mut self, wanted: Option<&Arc<Settings>>, commands: &mut Commands) {
        let carried = self.carried().cloned();
        let wanted = wanted.map(AsRef::as_ref);
        if let Some(removal) = carried.as_ref().and_then(|carried| carried.removal(wanted)) {
            commands.push(&removal, &removal);
            // One that the engine itself sets in each session may be among them.
            let set_up = self.node.server.setup.commands(self);
            let set_up = set_up.as_deref().unwrap_or_default().trim_end_matches("; ");
            commands.push(set_up, set_up);
        }
        // The same text may mean other tables and types now.
        let search_path = |settings: Option<&Settings>| {
            settings.and_then(|settings| settings.get("search_path")).map(str::to_owned)
        };
        self.outdated |= search_path(carried.as_deref()) != search_path(wanted);
    }

    /// Whether the session is the engine's own, and nobody else's.
    fn owns_session(&self) -> bool {
        self.node.server.setup.owns_sessions()
    }
}

fn check(settings: Option<&Arc<Settings>>) -> Result<(), Error> {
    settings.map_or(Ok(()), |settings| settings.check())
}
