//! Clusters that Patroni runs: it changes the primary by itself, planned or not, and flautino follows.

mod failover;
mod switchover;

use std::time::{Duration, Instant};

use flautino::{EngineConfig, NodeConfig, Role};
use flautino_cluster::patroni::{Member, Patroni};
use flautino_lab::{program, wait_until};

use crate::common::{ENTRIES, MAIN, Rig};
use crate::load::{Op, Tally};

/// Longer than Patroni takes to find out that its leader is gone, also on a busy machine.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(90);

/// `None`, and a line that says so, where Patroni or etcd is not installed, which fails under `CI=true`.
async fn start(name: &str) -> Option<Rig<Patroni>> {
    program("patroni")?;
    program("etcd")?;
    let patroni = Patroni::builder().start().await.unwrap();
    let leader = patroni.leader().await.unwrap();
    leader.execute(&format!("CREATE TABLE {ENTRIES}")).await.unwrap();
    let node = |member: &Member| NodeConfig {
        url: Some(member.url()),
        application_name: Some(name.to_owned()),
        ..NodeConfig::default()
    };
    let mut members = patroni.members().iter();
    let mut config = EngineConfig {
        main: node(members.next().unwrap()),
        extensions: vec![],
        ..EngineConfig::default()
    };
    config.extra_nodes = members.map(|member| (member.name().to_owned(), node(member))).collect();
    config.routing.failover_timeout = FAILOVER_TIMEOUT;
    Some(Rig::with(patroni, config).await)
}

impl Rig<Patroni> {
    fn member(&self, name: &str) -> &Member {
        self.cluster.members().iter().find(|member| member.name() == name).unwrap()
    }

    /// Waits until the first member, which led, serves reads as a replica, under load.
    async fn until_main_serves_reads(&self) {
        self.until_serves(MAIN).await;
        let status = || self.status(MAIN);
        let sent = status().statements;
        wait_until("the old leader serves reads", async || status().statements > sent + 20).await;
        assert_eq!(status().role, Role::Replica);
    }

    /// Every node has each acknowledged write once, and every read showed what its session must see.
    async fn assert_ledger(&self, tally: &Tally) {
        let leader = self.cluster.leader().await.unwrap();
        let mut connection = leader.connect().await.unwrap();
        let sql = "SELECT pg_current_wal_insert_lsn()::text";
        let end: String = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        for member in self.cluster.members() {
            let mut connection = member.connect().await.unwrap();
            if member.name() != leader.name() {
                let sql = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn";
                wait_until("the replica has all", async || {
                    let query = sqlx::query_scalar(sql).bind(&end);
                    query.fetch_one(&mut connection).await.unwrap()
                })
                .await;
            }
            tally.assert_stored(member.name(), connection).await;
        }
        println!("0 reads missed own writes, 0 acknowledged writes are lost on any member");
    }
}

/// Prints for how long no write went through from `since` on, and how many waited for that to end. Whoever calls
/// it has found that no read failed.
fn print_waits(tally: &Tally, since: Instant) {
    let mut ends: Vec<_> = tally.writes().filter(|op| op.is_done()).map(Op::ended).collect();
    ends.sort();
    let gaps = ends.windows(2).filter(|pair| pair[1] > since);
    let gap = gaps.max_by_key(|pair| pair[1] - pair[0]).unwrap();
    let waited = tally.writes().filter(|op| op.is_done() && op.started < gap[1]);
    println!(
        "{} reads, 0 failed; {} writes, {} failed; for {:?} none went through, and {} waited for that to end",
        tally.reads().count(),
        tally.writes().count(),
        tally.writes().filter(|op| !op.is_done()).count(),
        gap[1] - gap[0],
        waited.filter(|op| op.ended() >= gap[1]).count(),
    );
}
