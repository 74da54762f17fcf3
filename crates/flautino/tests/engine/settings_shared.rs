//! Settings where others use the session too: each is in force for one transaction.

use flautino::{Engine, EngineConfig, Error, Handle};
use flautino_lab::{Bouncer, Lab, ask, cluster, open, sqlstate};
use sqlx::postgres::PgPoolOptions;

const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";

async fn tenant(db: &Handle) -> String {
    sqlx::query_scalar(TENANT).fetch_one(db).await.unwrap()
}

fn of(db: &Handle, tenant: &str) -> Handle {
    db.with_settings([("app.tenant", tenant)])
}

async fn statements_and_transactions_have_them(db: &Handle) {
    for value in ["1", "2", "it's"] {
        let of_tenant = of(db, value);
        assert_eq!(tenant(&of_tenant).await, value);
        assert_eq!(tenant(db).await, "");
        let mut tx = of_tenant.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (current_setting('app.tenant'))")
            .execute(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (current_setting('app.tenant'))")
            .execute(&of_tenant)
            .await
            .unwrap();
        assert_eq!(tenant(db).await, "");
    }
    let refused = db.with_settings([("app.tenant", "1"), ("role", "nobody_of_that_name")]);
    for _ in 0..3 {
        let error = sqlx::query("INSERT INTO t VALUES ('x')").execute(&refused).await.unwrap_err();
        assert_eq!(sqlstate(&error), "22023");
        assert_eq!(sqlstate(&refused.begin().await.map(drop).unwrap_err()), "22023");
        assert_eq!(tenant(db).await, "");
    }
    let error = sqlx::raw_sql("COMMIT; INSERT INTO t VALUES ('x')").execute(&of(db, "1")).await;
    let error = error.unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::TransactionControl { .. })), "{error}");
}

#[tokio::test]
async fn behind_pgbouncer_a_transaction_has_them_and_a_lease_is_refused() {
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (n text)").await.unwrap();
    let Some(bouncer) = Bouncer::start(cluster.primary()).await else { return };
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", bouncer.port);
    let mut config = EngineConfig::from_url(&url).unwrap();
    config.main.pgbouncer = true;
    config.extensions.clear();
    let engine = open(config).await;
    let db = engine.handle();
    statements_and_transactions_have_them(&db).await;
    let error = of(&db, "1").acquire().await.map(drop).unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::SharedSession { .. })), "{error}");
    let rows: i64 = ask(cluster.primary(), "SELECT count(*) FROM t").await;
    assert_eq!(rows, 6);
    engine.close().await;
}

#[tokio::test]
async fn in_a_pool_of_the_app_s_own_nobody_else_sees_them() {
    let lab = Lab::named("settings").table("t (n text)").start_closed().await;
    let options = PgPoolOptions::new().max_connections(1);
    let pool = options.connect_with(lab.primary().connect_options()).await.unwrap();
    let engine = Engine::from_pool(pool.clone());
    let db = engine.handle();
    statements_and_transactions_have_them(&db).await;
    let mut lease = of(&db, "7").acquire().await.unwrap();
    let seen: String = sqlx::query_scalar(TENANT).fetch_one(&mut lease).await.unwrap();
    assert_eq!(seen, "7");
    drop(lease);
    let seen: String = sqlx::query_scalar(TENANT).fetch_one(&pool).await.unwrap();
    assert_eq!(seen, "");
    let rows: i64 = ask(lab.primary(), "SELECT count(*) FROM t").await;
    assert_eq!(rows, 6);
    engine.close().await;
}
