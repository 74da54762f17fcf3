//! A result that is read as a stream: in batches of what has arrived, within bounds. So its connection is
//! mostly given back before the caller takes the last rows.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use futures_core::Stream;
use futures_core::stream::BoxStream;
use sqlx::postgres::{PgQueryResult, PgRow};
use sqlx::{Either, Row, ValueRef};

use crate::sqlstate::tell_effect;

/// How many rows are read ahead at most, if they have already arrived.
const MAX_ROWS_AHEAD: usize = 128;
/// How many bytes of rows are read ahead at most, but for the row that exceeds it. The row that the
/// caller gets next is not counted.
const MAX_BYTES_AHEAD: usize = 256 * 1024;

/// An element of a result: a row, or the end of a statement.
pub(crate) type Item = Either<PgQueryResult, PgRow>;

/// What has arrived of a result.
#[derive(Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    /// Whether a statement of the result is complete.
    completed: bool,
    /// How the result ended; `None` while there is more to come.
    pub(super) end: Option<Result<(), sqlx::Error>>,
}

impl Batch {
    /// Takes what has arrived, up to the bounds. Waits until there is something, or the end.
    pub(super) fn poll_fill(
        &mut self,
        mut source: Pin<&mut (impl Stream<Item = Result<Item, sqlx::Error>> + ?Sized)>,
        mut log: impl FnMut(&Item),
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let mut bytes = 0;
        while self.items.len() < MAX_ROWS_AHEAD && bytes < MAX_BYTES_AHEAD {
            match source.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(item))) => {
                    log(&item);
                    self.completed |= item.is_left();
                    if !self.items.is_empty() {
                        bytes += size_of(&item);
                    }
                    self.items.push(item);
                }
                Poll::Ready(end) => {
                    self.end = Some(end.map_or(Ok(()), |failed| failed.map(drop)));
                    break;
                }
                Poll::Pending if self.items.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The error of a statement that gave nothing else.
    pub(super) fn refusal(&self) -> Option<&sqlx::Error> {
        if self.items.is_empty() { self.end.as_ref()?.as_ref().err() } else { None }
    }
}

/// A result, item by item. An error says if a part of the statement may have been committed.
pub(crate) struct Rows<'a> {
    /// `None` once the result is read to its end or has failed, so that nothing holds its connection.
    source: Option<BoxStream<'a, Batch>>,
    arrived: vec::IntoIter<Item>,
    /// What comes after the items.
    error: Option<sqlx::Error>,
    /// Whether a statement of the result is complete.
    completed: bool,
    /// Whether nothing is committed before the server reports that the statement is complete.
    commits_at_once: bool,
}

/// A result that failed before the caller got any of it.
pub(crate) struct FailedRows {
    pub(crate) error: sqlx::Error,
    /// What came before the error.
    pub(crate) items: Vec<Item>,
    /// Whether a statement of the result is complete.
    pub(crate) completed: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(source: BoxStream<'a, Batch>, commits_at_once: bool) -> Self {
        let arrived = Vec::new().into_iter();
        Self { source: Some(source), arrived, error: None, completed: false, commits_at_once }
    }

    /// Items and an error that says all there is to say.
    pub(crate) fn failed(items: Vec<Item>, error: sqlx::Error) -> Self {
        let arrived = items.into_iter();
        Self { source: None, arrived, error: Some(error), completed: false, commits_at_once: true }
    }

    /// Waits for the first batch. Fails if the result has failed by then.
    pub(crate) async fn begin(mut self) -> Result<Self, FailedRows> {
        poll_fn(|context| self.poll_batch(context)).await;
        match self.error.take() {
            None => Ok(self),
            Some(error) => {
                let Self { arrived, completed, .. } = self;
                Err(FailedRows { error, items: arrived.collect(), completed })
            }
        }
    }

    /// Reads the next batch, if there is one.
    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(source) = &mut self.source else { return Poll::Ready(()) };
        let Some(batch) = ready!(source.as_mut().poll_next(context)) else {
            self.source = None;
            return Poll::Ready(());
        };
        self.arrived = batch.items.into_iter();
        self.completed |= batch.completed;
        if let Some(end) = batch.end {
            self.source = None;
            self.error = end.err();
        }
        Poll::Ready(())
    }
}

impl Stream for Rows<'_> {
    type Item = Result<Item, sqlx::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while this.arrived.as_slice().is_empty() && this.source.is_some() {
            ready!(this.poll_batch(context));
        }
        if let Some(item) = this.arrived.next() {
            return Poll::Ready(Some(Ok(item)));
        }
        let error = this.error.take();
        let told = error.map(|error| tell_effect(error, this.commits_at_once, this.completed));
        Poll::Ready(told.map(Err))
    }
}

/// How many bytes of values an item has.
fn size_of(item: &Item) -> usize {
    let Either::Right(row) = item else { return 0 };
    let values = (0..row.len()).filter_map(|column| row.try_get_raw(column).ok());
    let values = values.filter(|value| !value.is_null()).filter_map(|value| value.as_bytes().ok());
    values.map(<[u8]>::len).sum()
}
