//! A read that is ahead of what is known of the replicas has one of them asked, and profits if it may
//! wait. The monitor itself probes too seldom here to help.

use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig, Error, Token};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{Lab, LabBuilder, catch_up, settings, status_of, wait_until};
use futures_util::future::join_all;

use crate::common::*;

/// Longer than any replica here takes to replay, also on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(20);
const REPLICAS: [&str; 2] = ["read_replica_1", "read_replica_2"];

/// What is known of replicas comes of questions alone.
fn seldom_probed(config: &mut EngineConfig) {
    settings::patient_probes(config);
    config.routing.probe_interval = settings::HOUR;
    config.routing.max_lag = settings::HOUR;
    config.routing.token_window = settings::HOUR;
}

/// Such an engine, whose reads wait as long.
pub(super) fn lab(name: &str, replicas: usize, token_wait: Duration) -> LabBuilder<'_> {
    Lab::named(name).replicas(replicas).table("t (a int)").config(seldom_probed).config(
        move |config| {
            config.routing.token_wait = token_wait;
        },
    )
}

fn position_probes(engine: &Engine) -> u64 {
    engine.status().nodes.iter().map(|node| node.position_probes).sum()
}

fn millis_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap()
}

/// From now on the replica replays what it receives an hour later.
async fn replay_late(cluster: &Cluster, replica: &Node) {
    let late = "ALTER SYSTEM SET recovery_min_apply_delay = '1h'";
    replica.execute(late).await.unwrap();
    replica.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("it replays late", async || {
        let commit = "SELECT pg_logical_emit_message(true, 'test', 'commit')";
        cluster.primary().execute(commit).await.unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'RecoveryApplyDelay'";
        flautino_lab::ask::<i64>(replica, waits).await == 1
    })
    .await;
}

/// A write, and the token for it.
pub(super) async fn write(engine: &Engine, value: i32) -> Token {
    let db = engine.handle();
    insert(&db, value).await;
    let token = db.token().await.unwrap();
    assert!(!is_until(token), "{token}");
    token
}

#[tokio::test]
async fn a_read_that_may_wait_is_served_by_a_replica_right_after_its_write() {
    let lab = lab("waits", 2, LONG).start().await;
    for round in 1..=20 {
        let token = write(&lab.engine, round).await;
        let read = read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
        assert_eq!(read.value, i64::from(round), "{read:?}");
        assert_eq!((read.is_from_replica(), &*read.reason), (true, "floor_met"), "{read:?}");
    }
    assert!(position_probes(&lab.engine) > 0);
    assert_eq!(status_of(&lab.engine, "main").position_probes, 0);
    for name in REPLICAS {
        assert_eq!(status_of(&lab.engine, name).timeline, Some(1));
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_read_that_may_not_wait_is_served_by_the_primary_and_later_ones_by_a_replica() {
    let lab = lab("goes_on", 2, Duration::ZERO).start().await;
    let token = write(&lab.engine, 1).await;
    let db = with_token(&lab.engine, token);
    let first = read(&lab.engine, &db, COUNT).await;
    assert_eq!((first.value, &*first.node, &*first.reason), (1, "main", "floor_ahead"));
    wait_until("a replica serves the token", async || {
        let read = read(&lab.engine, &db, COUNT).await;
        assert_eq!(read.value, 1, "{read:?}");
        read.is_from_replica()
    })
    .await;
    lab.engine.close().await;
}

#[tokio::test]
async fn after_such_a_read_the_positions_of_new_tokens_are_asked_for_before_anyone_reads() {
    let lab = lab("followed", 2, Duration::ZERO).start().await;
    let token = write(&lab.engine, 1).await;
    read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
    for round in 2..=10 {
        let token = write(&lab.engine, round).await;
        let lsn = parts(token).2;
        wait_until("a replica is known to have it", async || {
            let positions = REPLICAS.map(|name| status_of(&lab.engine, name).position);
            positions.iter().any(|position| position.is_some_and(|position| position.0 >= lsn))
        })
        .await;
        let read = read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
        assert_eq!((read.value, &*read.reason), (i64::from(round), "floor_met"), "{read:?}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn nobody_is_asked_where_no_read_follows_a_write() {
    let lab = lab("unread", 1, LONG).start().await;
    for round in 1..=20 {
        write(&lab.engine, round).await;
        assert!(read(&lab.engine, &lab.engine.handle(), COUNT).await.is_from_replica());
    }
    // Nor for reads that a position does not help.
    let db = lab.engine.handle();
    insert(&db, 21).await;
    assert_eq!(read(&lab.engine, &db, COUNT).await.reason, "own_write");
    let strong = lab.engine.handle().with_consistency(flautino::Consistency::Strong);
    assert_eq!(read(&lab.engine, &strong, COUNT).await.reason, "strong");
    let foreign = "1.until.ffffffffff";
    let foreign = flautino_lab::summed(foreign).parse().unwrap();
    let read = read(&lab.engine, &with_token(&lab.engine, foreign), COUNT).await;
    assert_eq!((&*read.reason, read.took < NO_WAIT), ("token_window", true), "{read:?}");
    assert_eq!(position_probes(&lab.engine), 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn with_a_rate_of_0_nobody_is_asked_and_nobody_waits() {
    let off = |config: &mut EngineConfig| config.routing.position_rate = 0;
    let lab = lab("off", 1, LONG).config(off).start().await;
    for round in 1..=3 {
        let token = write(&lab.engine, round).await;
        catch_up(&lab.cluster).await;
        let read = read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
        assert_eq!((&*read.node, &*read.reason), ("main", "floor_ahead"), "{read:?}");
        assert!(read.took < NO_WAIT, "{read:?}");
    }
    assert_eq!(position_probes(&lab.engine), 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn readers_at_one_time_share_a_question() {
    let once = |config: &mut EngineConfig| config.routing.position_rate = 1;
    let lab = lab("shared", 2, LONG).config(once).start().await;
    let token = write(&lab.engine, 1).await;
    catch_up(&lab.cluster).await;
    let reads = join_all((0..64).map(async |_| {
        let db = with_token(&lab.engine, token);
        let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&db).await.unwrap();
        (count, db.served_by().unwrap())
    }))
    .await;
    assert!(reads.iter().all(|(count, _)| *count == 1), "{reads:?}");
    assert!(reads.iter().all(|(_, node)| node.starts_with("read_replica")), "{reads:?}");
    assert_eq!(position_probes(&lab.engine), 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn there_are_no_more_questions_than_the_rate_allows() {
    let slow = |config: &mut EngineConfig| config.routing.position_rate = 10;
    let lab = lab("bounded", 2, Duration::ZERO).config(slow).start().await;
    let started = Instant::now();
    for round in 1..=10 {
        let token = write(&lab.engine, round).await;
        let readers = (0..32).map(async |_| {
            let db = with_token(&lab.engine, token);
            assert_eq!(
                sqlx::query_scalar::<_, i64>(COUNT).fetch_one(&db).await.unwrap(),
                i64::from(round)
            );
        });
        join_all(readers).await;
    }
    wait_until("the last write is known to be there", async || {
        let db = with_token(&lab.engine, write(&lab.engine, 0).await);
        read(&lab.engine, &db, COUNT).await;
        position_probes(&lab.engine) >= 3
    })
    .await;
    let asked = position_probes(&lab.engine);
    assert!(asked <= 1 + millis_since(started) / 100, "{asked}");
    lab.engine.close().await;
}

/// The servers accept what the primary sends, and do not replay it: paused, late on purpose, hung.
#[tokio::test]
async fn a_replica_that_does_not_replay_is_waited_for_no_longer_than_allowed() {
    let lab = lab("in_vain", 3, Duration::from_millis(200)).start().await;
    replay_late(&lab.cluster, lab.cluster.replica(1)).await;
    lab.cluster.replica(0).pause_replay().await.unwrap();
    lab.cluster.replica(2).hang().await.unwrap();
    for round in 1..=10 {
        let token = write(&lab.engine, round).await;
        let read = read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
        assert_eq!((read.value, &*read.node), (i64::from(round), "main"), "{read:?}");
        assert!(read.took < NO_WAIT, "{read:?}");
    }
    lab.cluster.replica(2).resume().await.unwrap();
    lab.engine.close().await;
}

#[tokio::test]
async fn a_replica_that_replays_hours_late_is_asked_less_and_less_often() {
    let lab = lab("late", 1, Duration::ZERO).start().await;
    replay_late(&lab.cluster, lab.cluster.replica(0)).await;
    let token = write(&lab.engine, 1).await;
    let started = Instant::now();
    for _ in 0..400 {
        let read = read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
        assert_eq!((read.value, &*read.node), (1, "main"), "{read:?}");
    }
    // The age at which it is asked again grows by half each time.
    let most = (started.elapsed().as_secs_f64() / 0.001).log(1.5);
    let asked = u32::try_from(position_probes(&lab.engine)).unwrap();
    assert!(asked > 0 && f64::from(asked) <= most + 2.0, "{asked}, at most {most}");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_promotion_is_seen_by_the_question_and_its_position_serves_no_one() {
    let lab = lab("promoted", 1, Duration::from_millis(200)).start().await;
    let Lab { engine, cluster, .. } = &lab;
    write(engine, 1).await;
    catch_up(cluster).await;
    cluster.replica(0).promote().await.unwrap();
    // Its log is far beyond any token of the old primary.
    let much = "CREATE TABLE much AS SELECT generate_series(1, 50000)";
    cluster.replica(0).execute(much).await.unwrap();
    let token = write(engine, 2).await;
    wait_until("the engine knows", async || {
        let read = read(engine, &with_token(engine, token), COUNT).await;
        assert_ne!(read.reason, "floor_met", "{read:?}");
        assert_eq!(read.value, if read.node == "main" { 2 } else { 1 }, "{read:?}");
        engine.status().primary.as_deref() == Some("read_replica_1")
    })
    .await;
    let token = write(engine, 3).await;
    assert_eq!(parts(token).1, 2, "{token}");
    let read = read(engine, &with_token(engine, token), COUNT).await;
    assert_eq!((read.value, &*read.node), (2, "read_replica_1"), "{read:?}");
    engine.close().await;
}

#[tokio::test]
async fn a_read_that_waits_can_be_given_up_and_ends_when_the_engine_closes() {
    let lab = lab("closing", 1, settings::HOUR).start().await;
    let token = write(&lab.engine, 1).await;
    catch_up(&lab.cluster).await;
    lab.cluster.replica(0).hang().await.unwrap();
    let read = || {
        let db = with_token(&lab.engine, token);
        async move { sqlx::query_scalar::<_, i64>(COUNT).fetch_one(&db).await }
    };
    let given_up = tokio::spawn(read());
    wait_until("it waits", async || position_probes(&lab.engine) == 1).await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    let waiting = tokio::spawn(read());
    lab.engine.close().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::Closed { .. })), "{error}");
    lab.cluster.replica(0).resume().await.unwrap();
    lab.engine.open().await.unwrap();
    assert_eq!(read().await.unwrap(), 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_role_that_sees_no_timelines_reads_its_writes_and_hardly_asks() {
    let lab = lab("plain", 2, Duration::from_millis(50)).as_role("app").start().await;
    let started = Instant::now();
    for round in 1..=100 {
        let token = write(&lab.engine, round).await;
        let read = read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
        assert_eq!(read.value, i64::from(round), "{read:?}");
        assert!(read.took < NO_WAIT, "{read:?}");
    }
    let asked = position_probes(&lab.engine);
    assert!(asked * 20 <= 2 + millis_since(started), "{asked}");
    lab.engine.close().await;
}
