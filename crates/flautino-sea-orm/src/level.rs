//! A transaction that is shared by those that are nested in it.
//!
//! SeaORM's transactions are used through `&self`, and a nested one does not borrow the one around it. So all
//! levels share the connection behind a lock, and each statement goes through a [`Level`], which looks whether
//! it is the innermost one that is open.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flautino::{DetachedSavepoint, Transaction};
use sea_orm::DbErr;
use sqlx::Executor;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use crate::error::{Misuse, query_err};

/// The level that is no savepoint.
const OUTERMOST: u64 = 0;

/// One level of an open transaction. Dropped, it is rolled back, with all that is nested in it; the outermost one
/// of a request is given back to the request.
pub(crate) struct Level {
    open: Arc<Open>,
    id: u64,
}

struct Open {
    state: Mutex<State>,
    /// Whether a [`TransactionGuard`] has the connection. Who waits for it in the same task would wait for ever.
    held: AtomicBool,
}

struct State {
    /// `None` once it has ended.
    source: Option<Source>,
    /// The savepoints that are open, the innermost one last.
    nested: Vec<Nested>,
    next_id: u64,
}

struct Nested {
    id: u64,
    savepoint: DetachedSavepoint,
}

/// Where the transaction is from.
pub(crate) enum Source {
    Own(Box<Transaction>),
    /// A request's, which begins with its first statement.
    #[cfg(feature = "axum")]
    Request(flautino_axum::Tx),
}

/// A transaction's connection, for queries of sqlx among those of SeaORM. Statements of SeaORM through the same
/// transaction fail until it is dropped.
#[must_use = "it is given back when it is dropped"]
pub struct TransactionGuard<'a> {
    transaction: MappedMutexGuard<'a, Transaction>,
    held: &'a AtomicBool,
}

impl Level {
    pub(crate) fn outermost(source: Source) -> Self {
        let state = State { source: Some(source), nested: Vec::new(), next_id: OUTERMOST + 1 };
        let open = Open { state: Mutex::new(state), held: AtomicBool::new(false) };
        Self { open: Arc::new(open), id: OUTERMOST }
    }

    /// The transaction, for one statement.
    pub(crate) async fn lock(&self) -> Result<MappedMutexGuard<'_, Transaction>, DbErr> {
        let mut state = self.open.lock().await?;
        state.check(self.id)?;
        state.begun().await?;
        MutexGuard::try_map(state, State::transaction).map_err(|_| Misuse::Over.into())
    }

    /// The transaction, for longer than one statement.
    pub(crate) async fn hold(&self) -> Result<TransactionGuard<'_>, DbErr> {
        let transaction = self.lock().await?;
        self.open.held.store(true, Ordering::Release);
        Ok(TransactionGuard { transaction, held: &self.open.held })
    }

    /// Begins a transaction that is nested in this one. `mode` is sent when it has begun.
    pub(crate) async fn begin(&self, mode: Option<&'static str>) -> Result<Self, DbErr> {
        let mut state = self.open.lock().await?;
        state.check(self.id)?;
        let transaction = state.begun().await?;
        let mut savepoint = transaction.savepoint().await.map_err(query_err)?;
        if let Some(mode) = mode {
            savepoint.execute(mode).await.map_err(query_err)?;
        }
        let savepoint = savepoint.detach();
        let id = state.next_id;
        state.next_id += 1;
        state.nested.push(Nested { id, savepoint });
        Ok(Self { open: Arc::clone(&self.open), id })
    }

    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        let mut state = self.open.lock().await?;
        state.check(self.id).map_err(|misuse| match misuse {
            Misuse::NestedOpen => Misuse::CommittedWithNested,
            other => other,
        })?;
        let committed = if self.id == OUTERMOST {
            match state.source.take() {
                Some(Source::Own(transaction)) => transaction.commit().await,
                #[cfg(feature = "axum")]
                Some(Source::Request(tx)) => tx.commit().await,
                None => return Err(Misuse::Over.into()),
            }
        } else {
            let nested = state.nested.pop();
            let (Some(nested), Some(transaction)) = (nested, state.transaction()) else {
                return Err(Misuse::Over.into());
            };
            transaction.attach(nested.savepoint).commit().await
        };
        committed.map_err(query_err)
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        let mut state = self.open.lock().await?;
        if self.id == OUTERMOST {
            state.nested.clear();
            let rolled_back = match state.source.take() {
                Some(Source::Own(transaction)) => transaction.rollback().await,
                #[cfg(feature = "axum")]
                Some(Source::Request(tx)) => tx.rollback().await,
                None => return Err(Misuse::Over.into()),
            };
            return rolled_back.map_err(query_err);
        }
        if !state.is_open(self.id) {
            return Err(Misuse::Over.into());
        }
        while let Some(Nested { id, savepoint }) = state.nested.pop() {
            let Some(transaction) = state.transaction() else { return Err(Misuse::Over.into()) };
            transaction.attach(savepoint).rollback().await.map_err(query_err)?;
            if id == self.id {
                break;
            }
        }
        Ok(())
    }

    /// Begins a request's transaction with these options, unless it has begun.
    #[cfg(feature = "axum")]
    pub(crate) async fn start_with(
        &self,
        options: flautino::TransactionOptions,
    ) -> Result<(), DbErr> {
        let mut state = self.open.lock().await?;
        match &mut state.source {
            Some(Source::Request(tx)) => tx.begin_with(options).await.map(drop).map_err(query_err),
            Some(Source::Own(_)) => Ok(()),
            None => Err(Misuse::Over.into()),
        }
    }
}

impl Open {
    async fn lock(&self) -> Result<MutexGuard<'_, State>, Misuse> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(_) if self.held.load(Ordering::Acquire) => Err(Misuse::Held),
            Err(_) => Ok(self.state.lock().await),
        }
    }
}

impl State {
    /// Fails unless this is the innermost level that is open.
    fn check(&self, id: u64) -> Result<(), Misuse> {
        let innermost = self.nested.last().map_or(OUTERMOST, |nested| nested.id);
        match () {
            () if !self.is_open(id) => Err(Misuse::Over),
            () if innermost != id => Err(Misuse::NestedOpen),
            () => Ok(()),
        }
    }

    fn is_open(&self, id: u64) -> bool {
        let is_level = id == OUTERMOST || self.nested.iter().any(|nested| nested.id == id);
        self.source.is_some() && is_level
    }

    /// The transaction, begun if it has not begun yet.
    async fn begun(&mut self) -> Result<&mut Transaction, DbErr> {
        match &mut self.source {
            Some(Source::Own(transaction)) => Ok(transaction),
            #[cfg(feature = "axum")]
            Some(Source::Request(tx)) => tx.begin().await.map_err(query_err),
            None => Err(Misuse::Over.into()),
        }
    }

    /// The transaction, if it has begun and not ended.
    fn transaction(&mut self) -> Option<&mut Transaction> {
        match &mut self.source {
            Some(Source::Own(transaction)) => Some(transaction),
            #[cfg(feature = "axum")]
            Some(Source::Request(tx)) => tx.get_mut(),
            None => None,
        }
    }

    /// Undoes a level and all that is nested in it, if it is open. What is sent for that goes with the next
    /// statement.
    fn undo(&mut self, id: u64) {
        if id == OUTERMOST {
            // A request's transaction cannot be committed while a savepoint is open.
            self.source = None;
            return;
        }
        while self.is_open(id) {
            let Some(Nested { savepoint, .. }) = self.nested.pop() else { return };
            if let Some(transaction) = self.transaction() {
                drop(transaction.attach(savepoint));
            }
        }
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        // Somebody else has the connection only if that is used in another task, through another level. Then
        // this one stays open, so that the transaction cannot be committed.
        if let Ok(mut state) = self.open.state.try_lock() {
            state.undo(self.id);
        }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Deref for TransactionGuard<'_> {
    type Target = Transaction;

    fn deref(&self) -> &Transaction {
        &self.transaction
    }
}

impl DerefMut for TransactionGuard<'_> {
    fn deref_mut(&mut self) -> &mut Transaction {
        &mut self.transaction
    }
}

impl Drop for TransactionGuard<'_> {
    fn drop(&mut self) {
        self.held.store(false, Ordering::Release);
    }
}

impl fmt::Debug for TransactionGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionGuard").field("transaction", &*self.transaction).finish()
    }
}
