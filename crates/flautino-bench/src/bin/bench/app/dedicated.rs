//! The least that a pool can be: a queue and a list of connections.

use std::sync::Arc;

use parking_lot::Mutex;

use sqlx::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::BoxError;

/// A fixed number of connections. Requests that find none wait in a queue.
#[derive(Debug, Clone)]
pub(crate) struct Dedicated {
    queue: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<PgConnection>>>,
}

/// A connection that is put back when this is dropped, also in the middle of a statement: sqlx reads
/// what is left of its result before the next one.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    connection: Option<PgConnection>,
    home: Arc<Mutex<Vec<PgConnection>>>,
    _permit: OwnedSemaphorePermit,
}

impl Dedicated {
    pub(crate) fn new(connections: Vec<PgConnection>) -> Self {
        let queue = Arc::new(Semaphore::new(connections.len()));
        Self { queue, idle: Arc::new(Mutex::new(connections)) }
    }

    /// The next free connection.
    pub(crate) async fn take(&self) -> Result<PooledConnection, BoxError> {
        let permit = Arc::clone(&self.queue).acquire_owned().await?;
        let connection = self.idle.lock().pop();
        Ok(PooledConnection { connection, home: Arc::clone(&self.idle), _permit: permit })
    }
}

impl PooledConnection {
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, BoxError> {
        self.connection.as_mut().ok_or_else(|| "there is no connection".into())
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        // Put back before the permit is released, so that whoever gets the permit finds it.
        let connection = self.connection.take();
        self.home.lock().extend(connection);
    }
}
