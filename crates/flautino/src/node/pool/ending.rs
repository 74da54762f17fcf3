//! Ending a statement that nobody waits for any more: it is cancelled over another connection, again and
//! again, until whatever waits for its end is done.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::NodePool;
use super::signal_queue::Delivery;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::node::backend::{Backend, Signal, drain};

/// How long an abandoned statement may go on before it is cancelled.
const CANCEL_DELAY: Duration = Duration::from_millis(1);
/// How long a cancelled statement has until it is cancelled again; doubled each time.
const CANCEL_PAUSE: Duration = Duration::from_millis(20);
/// How long a statement may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl NodePool {
    /// Ends the statement that runs on a connection, and reads the rest of its result: has the server
    /// cancel it, unless the backend is not known. Ignores an error of the statement.
    ///
    /// Fails with [`Error::NotEnded`] if that takes longer than [`END_TIMEOUT`].
    pub(crate) async fn end_statement(
        self: &Arc<Self>,
        backend: Option<Backend>,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        if backend.is_some() {
            // Many statements end by themselves in this time, and a cancel that reaches the server before
            // the statement does nothing.
            sleep(CANCEL_DELAY).await;
        }
        self.cancel_until_done(backend, pin!(drain(connection))).await
    }

    /// Runs a step that takes no time by itself. If nothing comes from the server for as long as
    /// `patience`, ends the statement that the step waits for.
    ///
    /// Fails as [`end_statement`](Self::end_statement), and with 57014 if a cancel hits the step itself.
    pub(crate) async fn run_short<T>(
        self: &Arc<Self>,
        backend: Option<Backend>,
        patience: Duration,
        step: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let mut step = pin!(step);
        match until_silent(patience, step.as_mut()).await {
            Some(result) => result,
            None => self.cancel_until_done(backend, step).await,
        }
    }

    /// Cancels what runs on the backend, again and again, until the work is done. Fails if that takes too
    /// long, or if one of the cancels may still be under way then.
    async fn cancel_until_done<T>(
        self: &Arc<Self>,
        backend: Option<Backend>,
        mut work: Pin<&mut impl Future<Output = Result<T, sqlx::Error>>>,
    ) -> Result<T, sqlx::Error> {
        let mut backoff = Backoff::new(CANCEL_PAUSE, END_TIMEOUT);
        let mut none_under_way = true;
        let ending = async {
            let Some(backend) = backend else { return work.await };
            loop {
                // Nothing is read while the signal is sent: sqlx reads a large result without yielding,
                // so that nothing else would run on this thread.
                none_under_way &= self.signal(backend, Signal::Cancel).await != Delivery::Unknown;
                let pause = backoff.next_pause();
                if let Ok(result) = tokio::time::timeout(pause, work.as_mut()).await {
                    return result;
                }
            }
        };
        match tokio::time::timeout(END_TIMEOUT, ending).await {
            // A cancel that was not confirmed may come late, and hit the next statement.
            Ok(result) if none_under_way || result.is_err() => result,
            _ => Err(Error::NotEnded { node: self.name().to_string() }.into()),
        }
    }
}

/// Runs the work until it is done. Returns `None` when nothing has woken it for as long as `patience`.
async fn until_silent<F: Future>(patience: Duration, mut work: Pin<&mut F>) -> Option<F::Output> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut silence = pin!(sleep(patience));
    let mut has_begun = false;
    poll_fn(|context| {
        bell.task.register(context.waker());
        // The task may have been woken for something else that it does beside.
        if bell.has_rung.swap(false, Ordering::AcqRel) || !std::mem::replace(&mut has_begun, true) {
            if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Some(output));
            }
            silence.as_mut().reset(Instant::now() + patience);
        }
        silence.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// Wakes a task, and remembers that it did.
#[derive(Default)]
struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}
