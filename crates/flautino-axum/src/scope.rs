//! What one request has of the engine: its handle, and its transaction if it asks for one.

use std::sync::{Arc, Mutex, PoisonError};

use flautino::{Handle, Transaction};

/// Put into the request's extensions by the layer; costs no I/O until a handler uses it.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) handle: Handle,
    slot: Arc<Mutex<Slot>>,
}

/// Where the request's transaction is.
#[derive(Debug)]
enum Slot {
    /// No extractor holds it; it is here if it has begun.
    Free(Option<Box<Transaction>>),
    /// An extractor has it.
    Held { begun: bool },
    /// The response is made. What an extractor still holds is rolled back.
    Over,
}

/// What the end of a request finds.
#[derive(Debug)]
pub(crate) enum AtEnd {
    /// No transaction was begun, or its extractor ended it.
    Nothing,
    /// One to commit or to roll back.
    Transaction(Box<Transaction>),
    /// One that something still holds, such as a spawned task.
    StillHeld,
}

/// Why [`Scope::take`] gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotFree {
    /// Another extractor of the same request holds the transaction.
    Held,
    /// The response was made.
    Over,
}

impl Scope {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, slot: Arc::new(Mutex::new(Slot::Free(None))) }
    }

    /// Takes the transaction for an extractor.
    pub(crate) fn take(&self) -> Result<Option<Box<Transaction>>, NotFree> {
        let mut slot = self.lock();
        match &mut *slot {
            Slot::Free(transaction) => {
                let transaction = transaction.take();
                *slot = Slot::Held { begun: transaction.is_some() };
                Ok(transaction)
            }
            Slot::Held { .. } => Err(NotFree::Held),
            Slot::Over => Err(NotFree::Over),
        }
    }

    /// The extractor that holds it is about to begin; `false` where the response was made.
    pub(crate) fn begins(&self) -> bool {
        let mut slot = self.lock();
        let over = matches!(*slot, Slot::Over);
        if !over {
            *slot = Slot::Held { begun: true };
        }
        !over
    }

    /// Whether the response was made.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.lock(), Slot::Over)
    }

    /// The extractor gives it back. After the response it is rolled back.
    pub(crate) fn give_back(&self, transaction: Option<Box<Transaction>>) {
        let mut slot = self.lock();
        if !matches!(*slot, Slot::Over) {
            *slot = Slot::Free(transaction);
        }
    }

    /// The response is made.
    pub(crate) fn end(&self) -> AtEnd {
        match std::mem::replace(&mut *self.lock(), Slot::Over) {
            Slot::Free(Some(transaction)) => AtEnd::Transaction(transaction),
            Slot::Held { begun: true } => AtEnd::StillHeld,
            Slot::Free(None) | Slot::Held { begun: false } | Slot::Over => AtEnd::Nothing,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slot> {
        // Every change is one assignment.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
