//! One reading of the catalogue after the other: what was read last, and whether that still holds.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::catalogue::{self, Expressions};
use crate::node::Server;
use crate::sql::Classifier;
use crate::sqlstate::is_connection_lost;

/// After a reading that took long, the next one rests ten times as long, but no longer than this.
const MAX_REST: Duration = Duration::from_secs(10);

/// The readings so far, which are the base of the next.
#[derive(Default)]
pub(super) struct Readings {
    /// The server that was read.
    server: Weak<Server>,
    /// To that server, for the next check.
    pub(super) connection: Option<PgConnection>,
    /// The fingerprint of the catalogue that the classifier knows.
    pub(super) fingerprint: Option<Box<str>>,
    expressions: Expressions,
    /// The doubt that there was when the monitor started, since nothing was known.
    pub(super) first_doubt: u64,
    /// When the next reading may begin, so that the server has time for other work.
    rests_until: Option<Instant>,
    /// When the last reading of an engine of one node began, and whether it succeeded.
    pub(super) last: Option<(Instant, bool)>,
}

impl Readings {
    /// Has the classifier know the server's catalogue as it is now. With `settles`, so that no doubt
    /// remains that was raised before; else the server may not have seen what raised it.
    pub(super) async fn refresh(
        &mut self,
        server: &Arc<Server>,
        classifier: &Classifier,
        settles: bool,
    ) -> Result<Refreshed, sqlx::Error> {
        let doubt = if settles { classifier.latest_doubt() } else { self.first_doubt };
        if self.server.as_ptr() != Arc::as_ptr(server) {
            self.server = Arc::downgrade(server);
            self.connection = None;
            self.expressions = Expressions::default();
        }
        let mut began = Instant::now();
        let checked = match self.connection.take() {
            Some(mut connection) => {
                let fingerprint = catalogue::fingerprint(&server.sender, &mut connection).await;
                Some((connection, fingerprint))
            }
            None => None,
        };
        let (mut connection, fingerprint) = match checked {
            Some((connection, Ok(fingerprint))) => (connection, fingerprint),
            Some((_, Err(error))) if !is_connection_lost(&error) => return Err(error),
            // The server may be another one by now.
            _ => {
                self.fingerprint = None;
                let mut connection = catalogue::connect(server).await?;
                began = Instant::now();
                let fingerprint = catalogue::fingerprint(&server.sender, &mut connection).await?;
                (connection, fingerprint)
            }
        };
        let check = began.elapsed();
        if self.fingerprint.as_ref() == Some(&fingerprint) {
            classifier.settle(doubt);
            self.connection = Some(connection);
            return Ok(Refreshed::Unchanged { check });
        }
        began = Instant::now();
        // What is known of no server, or of another one, does not wait.
        let rests_until = self.rests_until.filter(|_| self.fingerprint.is_some());
        if let Some(rest) = rests_until.map(|until| until.saturating_duration_since(began))
            && !rest.is_zero()
        {
            self.connection = Some(connection);
            return Ok(Refreshed::Postponed { rest });
        }
        let expressions = &mut self.expressions;
        let catalogue = catalogue::read(&server.sender, &mut connection, expressions).await?;
        let differs = classifier.learn(catalogue, doubt);
        self.rests_until = Some(Instant::now() + (began.elapsed() * 10).min(MAX_REST));
        self.fingerprint = Some(fingerprint);
        self.connection = Some(connection);
        Ok(Refreshed::Read { check, differs })
    }
}

/// What a check found. `check` is how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refreshed {
    Unchanged {
        check: Duration,
    },
    /// It had changed and was read; `differs` if that changed what is known.
    Read {
        check: Duration,
        differs: bool,
    },
    /// It has changed, and is to be read after this time.
    Postponed {
        rest: Duration,
    },
}
