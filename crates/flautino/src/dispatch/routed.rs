//! A statement through a handle, run wherever the router sends it.

use futures_core::Stream;
use futures_util::StreamExt;

use super::Attempts;
use crate::executor::{Answer, Item, Source, Start};
use crate::handle::Handle;
use crate::lease::Lease;
use crate::router::{Access, Monitor};
use crate::statement::{Statement, Tokens};

/// How many rows of a stream are read ahead at most, where they are there already.
const TOGETHER: usize = 128;

/// A statement through a handle: sent where the router says, and run again elsewhere where that
/// is harmless.
pub(crate) struct Routed {
    handle: Handle,
}

impl Routed {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// A write counts as under way from now on, so that those who wait for a position wait for it.
    async fn lease(&self, access: Access, attempts: &mut Attempts) -> Result<Lease, sqlx::Error> {
        let monitor = self.handle.engine.monitor().filter(|_| access == Access::Write);
        let writing = monitor.map(Monitor::write_begins);
        let mut lease = self.handle.lease_within(access, attempts).await?;
        if let Some(meter) = &mut lease.meter {
            meter.adopt(writing);
        }
        if attempts.outdated {
            lease.forget_prepared().await;
        }
        Ok(lease)
    }

    /// Whether what failed so, before its first row, is to be run again. `sent` is the statement, and
    /// whether the server said that it was completed.
    async fn again(
        &self,
        access: Access,
        attempts: &mut Attempts,
        error: &sqlx::Error,
        sent: (&Statement, bool),
    ) -> bool {
        (!commits_by_itself(sent.0) && attempts.is_outdated(error))
            || self.handle.again(access, attempts, error, Some(sent)).await
    }

    /// What the statement needs, as far as that matters.
    fn access(&self, statement: &Statement) -> Access {
        match self.handle.engine.monitor() {
            Some(monitor) => monitor.access(statement.plan(), statement.text()),
            None => Access::Write,
        }
    }
}

impl Source for Routed {
    async fn run<T: Answer>(&mut self, statement: Statement) -> Result<T, sqlx::Error> {
        let access = self.access(&statement);
        let mut attempts = Attempts::new(&self.handle);
        loop {
            let mut lease = self.lease(access, &mut attempts).await?;
            let mut completed = false;
            let error = match lease.run(statement.clone(), &mut completed).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // What it holds is not held while a better node is waited for.
            drop(lease);
            let sent = (&statement, completed);
            if !self.again(access, &mut attempts, &error, sent).await {
                return Err(error);
            }
        }
    }

    fn stream(
        &mut self,
        statement: Statement,
    ) -> impl Stream<Item = Result<Item, sqlx::Error>> + Send {
        async_stream::try_stream! {
            let access = self.access(&statement);
            let mut attempts = Attempts::new(&self.handle);
            loop {
                let mut failed = None;
                let mut completed = false;
                {
                    let mut lease = self.lease(access, &mut attempts).await?;
                    // What arrives together is given out together, so that a small result whose
                    // end is an error is run again as a whole.
                    let mut items =
                        std::pin::pin!(lease.stream(statement.clone()).ready_chunks(TOGETHER));
                    let mut untouched = true;
                    while let Some(mut together) = items.next().await {
                        if untouched && together.last().is_some_and(Result::is_err) {
                            failed = together.pop().and_then(Result::err);
                            completed = together.iter().flatten().any(Item::is_left);
                            break;
                        }
                        untouched = false;
                        for item in together {
                            yield item?;
                        }
                    }
                }
                let Some(error) = failed else { break };
                let sent = (&statement, completed);
                if !self.again(access, &mut attempts, &error, sent).await {
                    Err(error)?;
                }
            }
        }
    }

    async fn prepare<T: Send>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let access = self.access(&statement);
        let mut attempts = Attempts::new(&self.handle);
        loop {
            let mut lease = self.lease(access, &mut attempts).await?;
            let error = match lease.prepare(statement.clone(), &start).await {
                Ok(prepared) => return Ok(prepared),
                Err(error) => error,
            };
            drop(lease);
            if !self.again(access, &mut attempts, &error, (&statement, false)).await {
                return Err(error);
            }
        }
    }
}

/// Whether it may have committed something before it met a statement that was outdated.
fn commits_by_itself(statement: &Statement) -> bool {
    let first = Tokens::of(statement.text()).next();
    statement.plan().look.several || first.is_some_and(|(word, _)| word.is_any(&["call", "do"]))
}
