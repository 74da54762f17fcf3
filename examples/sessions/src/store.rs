//! A session store of tower-sessions over a handle of flautino.

use async_trait::async_trait;
use flautino::Handle;
use sqlx::types::Json;
use tower_sessions::SessionStore;
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{Error, ExpiredDeletion, Result};

/// Where sessions are kept.
pub const TABLE: &str = "CREATE TABLE sessions (\
     id text PRIMARY KEY, data jsonb NOT NULL, expires timestamptz NOT NULL)";

/// Keeps sessions through one handle: a request's, or one of the engine's for work beside requests.
#[derive(Debug, Clone)]
pub struct Store(pub Handle);

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: sqlx::Error) -> Error {
    Error::Backend(error.to_string())
}

#[async_trait]
impl SessionStore for Store {
    async fn create(&self, record: &mut Record) -> Result<()> {
        let sql = "INSERT INTO sessions VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        loop {
            let insert = sqlx::query(sql).bind(record.id.to_string()).bind(Json(&record.data));
            let inserted =
                insert.bind(record.expiry_date).execute(&self.0).await.map_err(failed)?;
            if inserted.rows_affected() == 1 {
                return Ok(());
            }
            record.id = Id::default(); // somebody else has that one
        }
    }

    async fn save(&self, record: &Record) -> Result<()> {
        // Not an upsert: a request that ends late would bring back a session that was logged out meanwhile.
        let sql = "UPDATE sessions SET data = $2, expires = $3 WHERE id = $1";
        let update = sqlx::query(sql).bind(record.id.to_string()).bind(Json(&record.data));
        update.bind(record.expiry_date).execute(&self.0).await.map(drop).map_err(failed)
    }

    async fn load(&self, id: &Id) -> Result<Option<Record>> {
        // A read, so it goes to a replica. For a logout that counts at once, also for who has stolen the cookie
        // of the session and left that of the token: `self.0.primary()`.
        let sql = "SELECT data, expires FROM sessions WHERE id = $1 AND expires > now()";
        let found = sqlx::query_as(sql).bind(id.to_string()).fetch_optional(&self.0).await;
        Ok(found.map_err(failed)?.map(|(Json(data), expiry_date)| Record {
            id: *id,
            data,
            expiry_date,
        }))
    }

    async fn delete(&self, id: &Id) -> Result<()> {
        let delete = sqlx::query("DELETE FROM sessions WHERE id = $1").bind(id.to_string());
        delete.execute(&self.0).await.map(drop).map_err(failed)
    }
}

#[async_trait]
impl ExpiredDeletion for Store {
    async fn delete_expired(&self) -> Result<()> {
        let delete = sqlx::query("DELETE FROM sessions WHERE expires <= now()");
        delete.execute(&self.0).await.map(drop).map_err(failed)
    }
}
