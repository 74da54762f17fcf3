//! A statement that goes on although it was cancelled: its process is ended, and replaced.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flautino_cluster::Proxy;
use flautino_lab::{Lab, has_session, pid, sessions_of, until_running, wait_until};

/// Goes on for a minute, whoever cancels it.
pub(crate) const STUBBORN: &str = "CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE until timestamptz := clock_timestamp() + '60 s';
    BEGIN
        WHILE clock_timestamp() < until LOOP
            BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
        END LOOP;
    END $$";
const CALL: &str = "SELECT stubborn()";
/// A second or two were promised; a process ends when its machine gets to it.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn it_is_terminated_soon_and_its_connection_replaced() {
    let lab =
        Lab::named("stubborn").behind_proxy().connections(1).without_client_check().start().await;
    lab.primary().execute(STUBBORN).await.unwrap();
    let before = pid(&lab.db).await;
    let db = lab.db.clone();
    let call = tokio::spawn(async move { sqlx::query(CALL).execute(&db).await });
    until_running(lab.primary(), "stubborn", CALL).await;
    call.abort();
    let next = tokio::time::timeout(SOON, pid(&lab.db)).await.expect("its place came free");
    assert_ne!(next, before);
    let gone =
        wait_until("its process is gone", async || !has_session(lab.primary(), before).await);
    assert!(gone.await < SOON);
    wait_until("one session is left", async || sessions_of(lab.primary(), "stubborn").await == 1)
        .await;
    assert_eq!(lab.pool().size, 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn others_are_served_meanwhile() {
    let lab =
        Lab::named("others").behind_proxy().connections(2).without_client_check().start().await;
    lab.primary().execute(STUBBORN).await.unwrap();
    let db = lab.db.clone();
    let call = tokio::spawn(async move { sqlx::query(CALL).execute(&db).await });
    until_running(lab.primary(), "others", CALL).await;
    call.abort();
    let _ = call.await;
    // The other connection is enough for these, one after the other.
    for _ in 0..20 {
        pid(&lab.db).await;
    }
    wait_until("it is gone", async || {
        flautino_lab::running(lab.primary(), "others", CALL).await == 0
    })
    .await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_session_whose_reset_hangs_is_ended_at_the_server() {
    // The way to the server stands still between the app's hook and the reset.
    let detour: Arc<OnceLock<Proxy>> = Arc::default();
    let in_hook = Arc::clone(&detour);
    let hook = flautino::hook(move |_| {
        if let Some(detour) = in_hook.get() {
            detour.stall();
        }
        Box::pin(async { Ok(true) })
    });
    let lab = Lab::named("hangs").behind_proxy().without_client_check().one_connection();
    let lab = lab.engine(|engine| engine.after_release(hook)).start().await;
    lab.db.acquire().await.unwrap().close().await.unwrap();
    let to_server = Proxy::start(lab.primary().addr()).await.unwrap();
    lab.proxy().set_target(to_server.addr());
    let mut lease = lab.db.acquire().await.unwrap();
    let own = "SELECT pg_backend_pid()";
    let hung: i32 = sqlx::query_scalar(own).fetch_one(&mut lease).await.unwrap();
    lab.proxy().set_target(lab.primary().addr());
    detour.set(to_server).unwrap();
    drop(lease);
    wait_until("its process is gone", async || !has_session(lab.primary(), hung).await).await;
    assert_ne!(pid(&lab.db).await, hung);
    lab.engine.close_within(Duration::ZERO).await;
}
