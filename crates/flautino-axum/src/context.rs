//! What one request has of the engine: its handle, and its transaction if a handler asks for one.

use std::sync::Arc;

use flautino::{Handle, Transaction};
use parking_lot::Mutex;

/// Put into the request's extensions by the layer. Costs no I/O until a handler uses it.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext(Arc<Request>);

#[derive(Debug)]
struct Request {
    handle: Handle,
    slot: Mutex<Slot>,
}

/// Where the request's transaction is.
#[derive(Debug)]
enum Slot {
    /// Here, and not begun where it is `None`.
    Free(Option<Box<Transaction>>),
    /// In a `Tx`.
    Held { begun: bool },
    /// The response was made, so nothing is committed any more.
    Closed,
}

/// What has become of the request's transaction when its response is made.
#[derive(Debug)]
pub(crate) enum AtResponse {
    /// It was never begun, or its `Tx` ended it.
    NoTransaction,
    /// It is open, and the layer ends it.
    Transaction(Box<Transaction>),
    /// A `Tx` still holds it, for example in a spawned task.
    StillHeld,
}

/// The transaction cannot be taken: another `Tx` holds it, or the response was made.
#[derive(Debug)]
pub(crate) struct Unavailable;

/// A `Tx` was used after its request's response was made.
#[derive(Debug, thiserror::Error)]
#[error(
    "the request's transaction is over, because its response was made; \
     use `Db` for work that outlives the request"
)]
pub(crate) struct ResponseMade;

impl From<ResponseMade> for sqlx::Error {
    fn from(err: ResponseMade) -> Self {
        Self::AnyDriverError(err.into())
    }
}

impl RequestContext {
    pub(crate) fn new(handle: Handle) -> Self {
        Self(Arc::new(Request { handle, slot: Mutex::new(Slot::Free(None)) }))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Takes the transaction for a `Tx`. `None` where it has not begun.
    pub(crate) fn take(&self) -> Result<Option<Box<Transaction>>, Unavailable> {
        let mut slot = self.0.slot.lock();
        let Slot::Free(transaction) = &mut *slot else { return Err(Unavailable) };
        let transaction = transaction.take();
        *slot = Slot::Held { begun: transaction.is_some() };
        Ok(transaction)
    }

    /// Notes that the `Tx` which holds the transaction is about to begin it.
    pub(crate) fn mark_begun(&self) -> Result<(), ResponseMade> {
        let mut slot = self.0.slot.lock();
        if matches!(*slot, Slot::Closed) {
            return Err(ResponseMade);
        }
        *slot = Slot::Held { begun: true };
        Ok(())
    }

    /// Takes the transaction back from a `Tx`. It is rolled back if the response was made meanwhile.
    pub(crate) fn release(&self, transaction: Option<Box<Transaction>>) {
        let mut slot = self.0.slot.lock();
        if !matches!(*slot, Slot::Closed) {
            *slot = Slot::Free(transaction);
        }
    }

    /// Closes the context, because the response is made.
    pub(crate) fn close(&self) -> AtResponse {
        match std::mem::replace(&mut *self.0.slot.lock(), Slot::Closed) {
            Slot::Free(Some(transaction)) => AtResponse::Transaction(transaction),
            Slot::Held { begun: true } => AtResponse::StillHeld,
            Slot::Free(None) | Slot::Held { begun: false } | Slot::Closed => {
                AtResponse::NoTransaction
            }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.0.slot.lock(), Slot::Closed)
    }
}
