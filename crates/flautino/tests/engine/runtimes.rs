//! One engine used from several runtimes, as one in a `static` is by `#[tokio::test]`.

use flautino::{Engine, Error, Health};
use flautino_lab::{Lab, pid, until_running, wait_until};
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::{Builder, Runtime};

fn runtime(threads: usize) -> Runtime {
    let mut builder = match threads {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads.max(1)).enable_all().build().unwrap()
}

async fn one(lab: &Lab) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(&lab.db).await
}

/// Says what is wrong in each runtime but the one that opened it, and works once it was opened there.
fn says_so(name: &str, replicas: usize, threads: usize) {
    let servers = runtime(1);
    let lab = servers.block_on(Lab::named(name).replicas(replicas).start_closed());
    for round in 0..3 {
        let next = runtime(threads);
        next.block_on(async {
            if round > 0 {
                for _ in 0..2 {
                    let failed = one(&lab).await.unwrap_err();
                    assert!(
                        matches!(Error::of(&failed), Some(Error::RuntimeEnded { .. })),
                        "{failed:?}"
                    );
                    assert!(failed.to_string().contains("#[tokio::test]"), "{failed}");
                }
                let begun = lab.db.begin().await.unwrap_err();
                assert!(matches!(Error::of(&begun), Some(Error::RuntimeEnded { .. })), "{begun:?}");
                let status = lab.engine.status();
                assert!(!status.open && !lab.engine.is_ready());
                for node in &status.nodes {
                    assert_eq!((node.health, node.pool), (Health::Down, None), "{node:?}");
                    assert!(node.reason.as_ref().unwrap().contains("runtime"), "{node:?}");
                }
            }
            assert!(!lab.engine.open().await.unwrap().already_open);
            assert!(lab.engine.open().await.unwrap().already_open);
            for _ in 0..3 {
                assert_eq!(one(&lab).await.unwrap(), 1);
            }
            let status = lab.engine.status();
            assert!(status.open);
            assert!(status.nodes.iter().all(|node| node.health == Health::Up), "{status:?}");
        });
    }
    servers.block_on(async {
        assert!(one(&lab).await.is_err());
        assert!(lab.engine.close().await.was_open);
        flautino_lab::until_sessions(lab.primary(), name, 0).await;
    });
}

#[test]
fn an_engine_of_one_node_says_that_its_runtime_has_ended_and_opens_anew() {
    says_so("single", 0, 0);
}

#[test]
fn so_does_one_with_a_replica() {
    says_so("replica", 1, 2);
}

#[test]
fn while_the_first_runtime_lives_others_may_use_the_engine() {
    let first = runtime(1);
    let lab = first.block_on(Lab::named("both").start());
    for threads in [0, 2] {
        runtime(threads).block_on(async {
            for _ in 0..3 {
                assert_eq!(one(&lab).await.unwrap(), 1);
            }
        });
    }
    first.block_on(async {
        assert_eq!(one(&lab).await.unwrap(), 1);
        lab.engine.close().await;
    });
}

#[test]
fn before_it_is_opened_it_works_in_each() {
    let servers = runtime(1);
    let lab = servers.block_on(Lab::named("unopened").start_closed());
    for _ in 0..3 {
        assert_eq!(runtime(0).block_on(one(&lab)).unwrap(), 1);
    }
}

#[test]
fn one_over_a_pool_of_the_app_s_works_in_each() {
    let servers = runtime(1);
    let lab = servers.block_on(Lab::named("over").start_closed());
    let options = lab.primary().connect_options().application_name("over");
    let engine = servers.block_on(async {
        Engine::from_pool(PgPoolOptions::new().max_connections(1).connect_lazy_with(options))
    });
    for threads in [0, 2, 0] {
        runtime(threads).block_on(async {
            let db = engine.handle();
            wait_until("its connection goes back to its pool", async || {
                pid(&db).await == pid(&db).await
            })
            .await;
            let sleep = "SELECT pg_sleep(60)";
            tokio::select! {
                slept = sqlx::query(sleep).execute(&db) => panic!("{slept:?}"),
                () = until_running(lab.primary(), "over", sleep) => {}
            }
            pid(&db).await;
        });
    }
    servers.block_on(engine.close());
}
