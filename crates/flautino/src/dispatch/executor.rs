//! sqlx's `Executor` on top of the loop: how a handle runs, streams and prepares a statement.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::{FutureExt, future, stream};
use sqlx::{Either, Row, ValueRef};

use super::retry::{Failure, Phase};
use super::{Dispatch, Work};
use crate::lease::Lease;
use crate::lease::executor::{Answer, Item, Source, Start, tell_effects};
use crate::statement::Statement;

/// How many rows of a stream are read ahead at most, if they have already arrived.
const MAX_ROWS_AHEAD: usize = 128;
/// How many bytes of rows are read ahead at most, but for the row that exceeds it. The row that the
/// caller gets next is not counted.
const MAX_BYTES_AHEAD: usize = 256 * 1024;

/// Runs each statement on the node that the router selects.
pub(crate) struct RoutedExecutor(Dispatch);

impl RoutedExecutor {
    pub(crate) fn new(dispatch: Dispatch) -> Self {
        Self(dispatch)
    }
}

impl Source for RoutedExecutor {
    async fn run<T: Answer>(&mut self, statement: &Statement) -> Result<T, sqlx::Error> {
        let access = self.0.access(statement);
        let running = Running { statement, answer: PhantomData };
        Ok(self.0.run(access, Some(statement), running).await?)
    }

    /// Holds the first rows back until all that have arrived are read. If a small result ends in an
    /// error, the caller has received none of it, and the statement can be run again. Where it is
    /// not, the caller gets the rows and then the error.
    fn stream(self, statement: Statement) -> impl Stream<Item = Result<Item, sqlx::Error>> + Send {
        let Self(dispatch) = self;
        let items = async move {
            let access = dispatch.access(&statement);
            let commits_at_once = statement.commits_at_once();
            let execute = |lease: Lease| read_ahead(Lease::stream(lease, statement.clone()));
            match dispatch.run(access, Some(&statement), execute).await {
                Ok(items) => future::Either::Left(tell_effects(items, commits_at_once)),
                Err(Failure { error, held_back, .. }) => {
                    let items = held_back.into_iter().map(Ok).chain([Err(error)]);
                    future::Either::Right(stream::iter(items))
                }
            }
        };
        // Without a generator, through which each row would pass.
        items.flatten_stream()
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
        let access = self.0.access(statement);
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

/// Reads the first items of a result. Fails if they end in an error.
async fn read_ahead<S>(items: S) -> Result<ReadAhead<S>, Failure>
where
    S: Stream<Item = Result<Item, sqlx::Error>>,
{
    let mut items = ReadAhead { source: Some(Box::pin(items)), arrived: VecDeque::new() };
    poll_fn(|cx| items.poll_arrived(cx)).await;
    match items.arrived.pop_back() {
        Some(Err(error)) => {
            let held_back: Vec<_> = items.arrived.into_iter().flatten().collect();
            let completed = held_back.iter().any(Item::is_left);
            let phase = Phase::Executing { completed };
            Err(Failure { error, phase, held_back })
        }
        last => {
            items.arrived.extend(last);
            Ok(items)
        }
    }
}

/// A result of which all that has arrived is read together, within bounds. So its connection is
/// mostly given back before the caller takes the last rows.
struct ReadAhead<S> {
    /// `None` once the result is read to its end or has failed, so that nothing holds its
    /// connection.
    source: Option<Pin<Box<S>>>,
    arrived: VecDeque<Result<Item, sqlx::Error>>,
}

impl<S> ReadAhead<S>
where
    S: Stream<Item = Result<Item, sqlx::Error>>,
{
    /// Reads what has arrived, up to the bounds. Waits until there is something, or the end.
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = 0;
        while let Some(source) = &mut self.source
            && self.arrived.len() < MAX_ROWS_AHEAD
            && bytes < MAX_BYTES_AHEAD
        {
            match source.as_mut().poll_next(cx) {
                Poll::Ready(Some(item)) => {
                    match &item {
                        Ok(item) if !self.arrived.is_empty() => bytes += size_of(item),
                        Ok(_) => {}
                        Err(_) => self.source = None,
                    }
                    self.arrived.push_back(item);
                }
                Poll::Ready(None) => self.source = None,
                Poll::Pending if self.arrived.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S> Stream for ReadAhead<S>
where
    S: Stream<Item = Result<Item, sqlx::Error>>,
{
    type Item = Result<Item, sqlx::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.arrived.is_empty() {
            ready!(self.poll_arrived(cx));
        }
        Poll::Ready(self.arrived.pop_front())
    }
}

/// How many bytes of values an item has.
fn size_of(item: &Item) -> usize {
    let Either::Right(row) = item else { return 0 };
    let values = (0..row.len()).filter_map(|column| row.try_get_raw(column).ok());
    let values = values.filter(|value| !value.is_null()).filter_map(|value| value.as_bytes().ok());
    values.map(<[u8]>::len).sum()
}
