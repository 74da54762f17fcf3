//! How a lease runs what is sent through it. A statement that was refused because sqlx remembered what is
//! outdated is run again: outside of a transaction that is harmless, and inside it cannot work.

use std::pin::pin;

use futures_util::StreamExt;
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

use super::Lease;
use super::executor::{Answer, Source, Start};
use super::rows::Rows;
use crate::error::DeadlineStep;
use crate::sqlstate::{IN_FAILED_TRANSACTION, has_code, tell_effect};
use crate::statement::Statement;

impl Source for &mut Lease {
    async fn run<T: Answer>(&mut self, statement: &Statement) -> Result<T, sqlx::Error> {
        let may_run_again = self.may_run_again();
        let commits_at_once = self.in_transaction || statement.commits_at_once();
        let mut completed = false;
        let result = match Lease::run(self, statement, &mut completed).await {
            Err(error) if may_run_again && statement.is_outdated_by(&error) => {
                // Rare, so that it takes no room in the future of each statement.
                let result = Box::pin(Lease::run(self, statement, &mut completed)).await;
                result.map_err(|second| instead_of(second, error))
            }
            result => result,
        };
        result.map_err(|error| tell_effect(error, commits_at_once, completed))
    }

    async fn stream<'a>(self, statement: Statement) -> Rows<'a>
    where
        Self: 'a,
    {
        let commits_at_once = self.in_transaction || statement.commits_at_once();
        let lease = self;
        let batches = async_stream::stream! {
            let mut again = lease.may_run_again().then(|| statement.clone());
            let mut refused = None;
            {
                let mut batches = pin!(Lease::batches(&mut *lease, statement));
                while let Some(batch) = batches.next().await {
                    match (batch.refusal(), again.take()) {
                        (Some(error), Some(statement)) if statement.is_outdated_by(error) => {
                            refused = Some((batch.end, statement));
                        }
                        _ => yield batch,
                    }
                }
            }
            if let Some((end, statement)) = refused {
                let mut first = end.and_then(Result::err);
                let mut batches = Box::pin(Lease::batches(lease, statement));
                while let Some(mut batch) = batches.next().await {
                    if let Some(first) = first.take() {
                        let end = batch.end.take();
                        batch.end = end.map(|end| end.map_err(|second| instead_of(second, first)));
                    }
                    yield batch;
                }
            }
        };
        Rows::new(Box::pin(batches), commits_at_once)
    }

    async fn prepare<T: Send>(
        &mut self,
        statement: &Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let may_run_again = self.may_run_again();
        match Lease::prepare(self, statement, &start).await {
            Err(error) if may_run_again && statement.is_outdated_by(&error) => {
                let result = Box::pin(Lease::prepare(self, statement, &start)).await;
                result.map_err(|second| instead_of(second, error))
            }
            result => result,
        }
    }
}

impl Lease {
    /// Whether a statement may be run again on this lease after it was refused.
    fn may_run_again(&self) -> bool {
        !self.in_transaction && PgTransactionManager::get_transaction_depth(self) == 0
    }
}

/// The error of a statement that was run again. In a transaction that the app began by itself, and where there was no
/// time for it, the first error is the one that says something.
fn instead_of(second: sqlx::Error, first: sqlx::Error) -> sqlx::Error {
    let is_unsent = DeadlineStep::of(&second) == Some(DeadlineStep::Waiting);
    if is_unsent || has_code(&second, IN_FAILED_TRANSACTION) { first } else { second }
}
