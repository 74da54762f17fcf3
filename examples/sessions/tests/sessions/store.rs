//! The store, as tower-sessions calls it.

use std::collections::{HashMap, HashSet};

use flautino_lab::{Lab, ask};
use sessions::{Store, TABLE};
use time::{Duration, OffsetDateTime};
use tower_sessions::SessionStore;
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::ExpiredDeletion;

async fn lab() -> (Lab, Store) {
    let lab = Lab::named("sessions").sql(TABLE).start().await;
    let store = Store(lab.db.clone());
    (lab, store)
}

/// A session of that name that ends in a while.
fn session(name: &str, ends_in: Duration) -> Record {
    let data = HashMap::from([("name".to_owned(), name.into())]);
    // As precise as PostgreSQL's time is.
    let expiry_date = (OffsetDateTime::now_utc() + ends_in).replace_nanosecond(0).unwrap();
    Record { id: Id::default(), data, expiry_date }
}

#[tokio::test]
async fn what_was_created_is_loaded_as_it_is_until_it_is_deleted() {
    let (lab, store) = lab().await;
    let mut record = session("ada", Duration::HOUR);
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    store.create(&mut record).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), Some(record.clone()));
    record.data.insert("cart".to_owned(), vec![1, 2].into());
    record.expiry_date += Duration::HOUR;
    store.save(&record).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), Some(record.clone()));
    store.delete(&record.id).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    lab.engine.close().await;
}

#[tokio::test]
async fn of_many_who_create_the_same_id_at_once_each_gets_one_of_its_own() {
    let (lab, store) = lab().await;
    let id = Id::default();
    let created = (0..32).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut record = Record { id, ..session(&number.to_string(), Duration::HOUR) };
            store.create(&mut record).await.unwrap();
            record
        })
    });
    let mut ids = HashSet::new();
    for record in created.collect::<Vec<_>>() {
        let record = record.await.unwrap();
        assert_eq!(store.load(&record.id).await.unwrap(), Some(record.clone()));
        ids.insert(record.id);
    }
    assert_eq!(ids.len(), 32);
    assert!(ids.contains(&id));
    lab.engine.close().await;
}

#[tokio::test]
async fn a_request_that_ends_late_does_not_bring_a_session_back() {
    let (lab, store) = lab().await;
    let mut record = session("ada", Duration::HOUR);
    store.create(&mut record).await.unwrap();
    store.delete(&record.id).await.unwrap();
    store.save(&record).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_session_that_has_expired_is_not_loaded_and_is_deleted_with_its_like_only() {
    let (lab, store) = lab().await;
    let (mut over, mut alive) = (session("ada", -Duration::HOUR), session("bob", Duration::HOUR));
    store.create(&mut over).await.unwrap();
    store.create(&mut alive).await.unwrap();
    assert_eq!(store.load(&over.id).await.unwrap(), None);
    store.delete_expired().await.unwrap();
    let left: String = ask(lab.primary(), "SELECT string_agg(id, ' ') FROM sessions").await;
    assert_eq!(left, alive.id.to_string());
    lab.engine.close().await;
}
