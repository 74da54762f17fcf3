//! What one request has of an engine: its handle, and its transaction if a handler asks for one.

use std::marker::PhantomData;
use std::sync::Arc;

use flautino::{Handle, Transaction};
use http::Extensions;
use http::request::Parts;
use parking_lot::Mutex;

use crate::settings::RequestSettings;

/// Made by the layer. Costs no I/O until a handler uses it.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext(Arc<Request>);

#[derive(Debug)]
struct Request {
    handle: Handle,
    settings: Option<RequestSettings>,
    slot: Mutex<Slot>,
}

/// In the request's extensions: the context of the engine of this name.
struct Named<N>(RequestContext, PhantomData<fn() -> N>);

impl<N> Clone for Named<N> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

/// Where the request's transaction is.
#[derive(Debug)]
enum Slot {
    /// Here, and not begun where it is `None`.
    Free(Option<Begun>),
    /// In a `Tx`.
    Held { begun: bool },
    /// The response was made, so nothing is committed any more.
    Closed,
}

/// The request's transaction, and the handle that began it.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) transaction: Box<Transaction>,
    pub(crate) handle: Handle,
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
    pub(crate) fn new(handle: Handle, settings: Option<RequestSettings>) -> Self {
        Self(Arc::new(Request { handle, settings, slot: Mutex::new(Slot::Free(None)) }))
    }

    /// Puts it into a request's extensions, for the extractors of this name.
    pub(crate) fn insert<N: 'static>(&self, extensions: &mut Extensions) {
        extensions.insert(Named::<N>(self.clone(), PhantomData));
    }

    pub(crate) fn find<N: 'static>(extensions: &Extensions) -> Option<&Self> {
        extensions.get().map(|Named::<N>(context, _)| context)
    }

    /// The session's handle, as the layer made it.
    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// The handle for an extractor, with the settings that follow from the request as it is now.
    pub(crate) fn handle_for(&self, request: &Parts) -> Handle {
        match &self.0.settings {
            Some(settings) => settings.on(&self.0.handle, request),
            None => self.0.handle.clone(),
        }
    }

    /// The same, where nothing but the request's extensions is at hand.
    pub(crate) fn handle_among(&self, extensions: &Extensions) -> Handle {
        match &self.0.settings {
            Some(settings) => settings.on(&self.0.handle, &settings.request_with(extensions)),
            None => self.0.handle.clone(),
        }
    }

    /// Takes the transaction for a `Tx`. `None` where it has not begun.
    pub(crate) fn take(&self) -> Result<Option<Begun>, Unavailable> {
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
    pub(crate) fn release(&self, transaction: Option<Begun>) {
        let mut slot = self.0.slot.lock();
        if !matches!(*slot, Slot::Closed) {
            *slot = Slot::Free(transaction);
        }
    }

    /// Closes the context, because the response is made.
    pub(crate) fn close(&self) -> AtResponse {
        match std::mem::replace(&mut *self.0.slot.lock(), Slot::Closed) {
            Slot::Free(Some(begun)) => AtResponse::Transaction(begun.transaction),
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
