//! sqlx's `Executor` on top of the loop: how a handle runs, streams and prepares a statement.

use futures_core::Stream;
use futures_util::StreamExt;

use super::Dispatch;
use super::retry::{Failure, Phase};
use crate::lease::Lease;
use crate::lease::executor::{Answer, Item, Source, Start};
use crate::sqlstate::tell_effect;
use crate::statement::Statement;

/// How many rows of a stream are taken together at most, if they have already arrived.
const MAX_READ_AHEAD: usize = 128;

/// Runs each statement on the node that the router selects.
pub(crate) struct RoutedExecutor(Dispatch);

impl RoutedExecutor {
    pub(crate) fn new(dispatch: Dispatch) -> Self {
        Self(dispatch)
    }
}

impl Source for RoutedExecutor {
    async fn run<T: Answer>(&mut self, statement: Statement) -> Result<T, sqlx::Error> {
        let execute = |mut lease: Lease| {
            let statement = statement.clone();
            async move {
                let mut completed = false;
                let result = lease.run(statement, &mut completed).await;
                result.map_err(|error| Failure { error, phase: Phase::Executing { completed } })
            }
        };
        let access = self.0.access(&statement);
        self.0.run(access, Some(&statement), execute).await
    }

    /// Holds the first rows back until all that have arrived are read. If a small result ends in an
    /// error, the caller has received none of it, and the statement can be run again.
    fn stream(
        &mut self,
        statement: Statement,
    ) -> impl Stream<Item = Result<Item, sqlx::Error>> + Send {
        let dispatch = &self.0;
        async_stream::try_stream! {
            let access = dispatch.access(&statement);
            let commits_at_once = statement.commits_at_once();
            let execute = |lease: Lease| first_chunk(lease, statement.clone());
            let (first, mut rest) = dispatch.run(access, Some(&statement), execute).await?;
            let mut chunk = Some(first);
            let mut completed = false;
            while let Some(items) = chunk {
                for item in items {
                    completed |= item.as_ref().is_ok_and(Item::is_left);
                    yield item.map_err(|error| tell_effect(error, commits_at_once, completed))?;
                }
                chunk = rest.next().await;
            }
        }
    }

    async fn prepare<T: Send>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let execute = |mut lease: Lease| {
            let (statement, start) = (statement.clone(), &start);
            async move {
                let phase = Phase::Executing { completed: false };
                let result = lease.prepare(statement, start).await;
                result.map_err(|error| Failure { error, phase })
            }
        };
        let access = self.0.access(&statement);
        self.0.run(access, Some(&statement), execute).await
    }
}

/// Rows that arrived together.
type Chunk = Vec<Result<Item, sqlx::Error>>;

/// Reads the first chunk of a result. Fails if that chunk ends in an error.
async fn first_chunk(
    lease: Lease,
    statement: Statement,
) -> Result<(Chunk, impl Stream<Item = Chunk> + Send + Unpin), Failure> {
    let mut chunks = Box::pin(Lease::stream(lease, statement).ready_chunks(MAX_READ_AHEAD));
    let mut first = chunks.next().await.unwrap_or_default();
    match first.pop() {
        Some(Err(error)) => {
            let completed = first.iter().flatten().any(Item::is_left);
            Err(Failure { error, phase: Phase::Executing { completed } })
        }
        last => {
            first.extend(last);
            Ok((first, chunks))
        }
    }
}
