//! sqlx's `Executor` on top of the loop: how a handle runs, streams and prepares a statement.

use std::marker::PhantomData;

use super::retry::{Failure, Phase};
use super::{Dispatch, Work};
use crate::lease::executor::{Answer, Source, Start};
use crate::lease::{FailedRows, Lease, Rows};
use crate::statement::Statement;

/// Runs each statement on the node that the router selects.
pub(crate) struct RoutedExecutor(Dispatch);

impl RoutedExecutor {
    pub(crate) fn new(dispatch: Dispatch) -> Self {
        Self(dispatch)
    }
}

impl Source for RoutedExecutor {
    async fn run<T: Answer>(&mut self, statement: &Statement) -> Result<T, sqlx::Error> {
        let access = self.0.access(statement).await;
        let running = Running { statement, answer: PhantomData };
        Ok(self.0.run(access, Some(statement), running).await?)
    }

    /// Holds the first rows back until all that have arrived are read. If a small result ends in an
    /// error, the caller has received none of it, and the statement can be run again. Where it is
    /// not, the caller gets the rows and then the error.
    async fn stream<'a>(self, statement: Statement) -> Rows<'a> {
        let Self(dispatch) = self;
        let access = dispatch.access(&statement).await;
        let execute = |lease: Lease| async {
            lease.into_rows(statement.clone()).begin().await.map_err(|failed| {
                let FailedRows { error, items: held_back, completed } = failed;
                Failure { error, phase: Phase::Executing { completed }, held_back }
            })
        };
        match dispatch.run(access, Some(&statement), execute).await {
            Ok(rows) => rows,
            Err(Failure { error, held_back, .. }) => Rows::failed(held_back, error),
        }
    }

    async fn prepare<T: Send>(
        &mut self,
        statement: &Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let start = &start;
        let execute = |mut lease: Lease| async move {
            let phase = Phase::Executing { completed: false };
            let result = lease.prepare(statement, start).await;
            result.map_err(|error| Failure::new(error, phase))
        };
        let access = self.0.access(statement).await;
        Ok(self.0.run(access, Some(statement), execute).await?)
    }
}

/// Sends a statement and reads its result to the end.
struct Running<'a, T> {
    statement: &'a Statement,
    answer: PhantomData<T>,
}

impl<T: Answer> Work for Running<'_, T> {
    type Output = T;

    async fn run(&mut self, lease: &mut Option<Lease>) -> Result<T, Failure> {
        let Some(lease) = lease else { unreachable!("work begins with a lease") };
        let mut completed = false;
        // Boxed apart from the attempts around it: each is small enough for what an allocator keeps at hand.
        let result = Box::pin(lease.run(self.statement, &mut completed)).await;
        result.map_err(|error| Failure::new(error, Phase::Executing { completed }))
    }
}
