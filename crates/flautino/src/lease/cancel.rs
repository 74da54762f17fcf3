//! Ends statements early: on this side, because their node is found to be down or superseded or because
//! the engine closes; at the server, because they were given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::error::{DeadlineStep, Error};
use crate::node::{Backend, EndListener, EndReason, Epoch, NodePool, drain};

/// How long a statement that was given up may take to end outside a pool, where nothing cancels it.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a step waits for what was sent before over the bare connection, where nobody can know
/// whether that was given up, before it is cancelled. A result that flows is read on for as long as it
/// does.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for a step that undoes what it waits for.
const UNDO_PATIENCE: Duration = Duration::from_millis(200);

/// How long a write that is under way may still be answered after its node is found to be down or was
/// removed. A server that shuts down uses this time to say whether the write was committed.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// A step of a transaction: what may be done to a statement before it that did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// `BEGIN` and `COMMIT`, which may take long by themselves.
    Long,
    /// `SAVEPOINT` and `RELEASE`, which take no time by themselves.
    Short,
    /// `ROLLBACK` and `ROLLBACK TO`, which undo what was before, so that it may be cancelled.
    Undo,
}

impl Step {
    fn patience(self) -> Option<Duration> {
        match self {
            Self::Long => None,
            Self::Short => Some(PATIENCE),
            Self::Undo => Some(UNDO_PATIENCE),
        }
    }
}

/// What can cancel a statement on a pooled connection.
#[derive(Clone, Copy)]
pub(super) struct Cancellation<'a> {
    /// The epoch of the connection: the statement is cancelled when it is ended.
    pub(super) epoch: &'a Epoch,
    pub(super) end: &'a EndListener,
    pub(super) pool: &'a Arc<NodePool>,
    /// The server process behind the connection. `None` where it is not known, so that nothing can be
    /// cancelled at the server: behind a pooler, and in a pool of the app's own.
    pub(super) backend: Option<Backend>,
    /// When the statement ends, if the handle has a deadline.
    pub(super) deadline: Option<Instant>,
    /// Whether a write is expected, whose answer is waited for a little when its node is found to be down.
    pub(super) expects_write: bool,
}

/// Runs the work, which fails when it is cancelled. Outside a pool nothing cancels it.
///
/// The caller pins the work: a future that is given away takes its room twice.
pub(super) async fn run_cancellable<T>(
    cancellation: Option<&Cancellation<'_>>,
    mut work: impl Future<Output = Result<T, sqlx::Error>> + Unpin,
) -> Result<T, sqlx::Error> {
    let Some(cancellation) = cancellation else { return work.await };
    if let Some(deadline) = cancellation.deadline {
        // Most have none: it takes no room in the future of each statement.
        return Box::pin(run_to_deadline(cancellation, deadline, work)).await;
    }
    match cancellation.end.run(&mut work).await {
        Some(result) => result,
        // Rare, so that it takes no room in the future of each statement.
        None => Box::pin(run_to_end_of_grace(cancellation, work)).await,
    }
}

async fn run_to_deadline<T>(
    cancellation: &Cancellation<'_>,
    deadline: Instant,
    mut work: impl Future<Output = Result<T, sqlx::Error>> + Unpin,
) -> Result<T, sqlx::Error> {
    let running = cancellation.end.run(&mut work);
    match tokio::time::timeout_at(deadline.into(), running).await {
        Ok(Some(result)) => result,
        Ok(None) => run_to_end_of_grace(cancellation, work).await,
        // As one that was given up: it is cancelled when the connection goes on or is given back.
        Err(_) => Err(DeadlineStep::Running.exceeded()),
    }
}

/// Goes on with work whose epoch is ended, if it may still be answered.
async fn run_to_end_of_grace<T>(
    cancellation: &Cancellation<'_>,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let Cancellation { epoch, pool, .. } = cancellation;
    let may_answer = matches!(epoch.end_reason(), Some(EndReason::Down | EndReason::Removed));
    if !cancellation.expects_write || !may_answer {
        // Polling the work again might send its statement.
        return Err(pool.end_error(epoch, true));
    }
    // The node's next epoch has begun already. It is ended when the node is superseded or the engine
    // closes, and then the grace is over.
    let next = pool.epoch();
    match tokio::time::timeout(SHUTDOWN_GRACE, next.run(work)).await {
        Ok(Some(result)) => result,
        Ok(None) | Err(_) => Err(pool.end_error(epoch, true)),
    }
}

/// Ends a statement that was given up: has the server cancel it, where that can be, and reads the rest of
/// its result. Fails with [`Error::NotEnded`] if that takes too long.
pub(super) async fn end_given_up(
    cancellation: Option<Cancellation<'_>>,
    node: &str,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    match cancellation {
        Some(Cancellation { pool, backend, .. }) => pool.end_statement(backend, connection).await,
        None => match tokio::time::timeout(END_TIMEOUT, drain(connection)).await {
            Ok(result) => result,
            Err(_) => Err(Error::NotEnded { node: node.to_owned() }.into()),
        },
    }
}

/// Runs a step after the app had the connection itself. If nothing comes from the server for too long,
/// what was sent before was given up, and is ended.
pub(super) async fn run_unwatched<T>(
    cancellation: Option<Cancellation<'_>>,
    step: Step,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match (cancellation, step.patience()) {
        (Some(Cancellation { pool, backend, .. }), Some(patience)) => {
            pool.run_short(backend, patience, work).await
        }
        _ => work.await,
    }
}
