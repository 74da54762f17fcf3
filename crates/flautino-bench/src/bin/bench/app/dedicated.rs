//! Connections without a pool: a queue, a list, and nothing else.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Broken;

/// So many connections, for as many requests at a time; the others queue.
#[derive(Debug, Clone)]
pub(crate) struct Dedicated {
    queue: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<PgConnection>>>,
}

/// A connection that goes back when this is dropped. In the middle of a statement too: sqlx reads
/// what is left of it before the next one.
#[derive(Debug)]
pub(crate) struct Taken {
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
    pub(crate) async fn take(&self) -> Result<Taken, Broken> {
        let permit = Arc::clone(&self.queue).acquire_owned().await?;
        let connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Taken { connection, home: Arc::clone(&self.idle), _permit: permit })
    }
}

impl Taken {
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, Broken> {
        self.connection.as_mut().ok_or_else(|| "there is no connection".into())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Before the permit, which is dropped after this.
        let connection = self.connection.take();
        self.home.lock().unwrap_or_else(PoisonError::into_inner).extend(connection);
    }
}
