//! A thousand changes in a row leave nothing behind.

use flautino_lab::{cluster, reader, run, tasks, until_served_by, wait_until};

use crate::common::{hasty, open_with, sessions, set, these};

/// Connections of this process to these servers, where the system tells.
fn sockets_to(ports: &[u16]) -> usize {
    let Ok(table) = std::fs::read_to_string("/proc/self/net/tcp") else { return 0 };
    let is_ours = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        let port = fields.next().and_then(|remote| remote.rsplit(':').next());
        let port = port.and_then(|port| u16::from_str_radix(port, 16).ok());
        // Established, or waiting for this side to close.
        let state = fields.next();
        port.is_some_and(|port| ports.contains(&port)) && matches!(state, Some("01" | "08"))
    };
    table.lines().skip(1).filter(is_ours).count()
}

/// Resident memory in kB.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_thousand_changes_leave_no_task_no_session_no_socket_and_no_memory() {
    let cluster = cluster(2).await;
    let ports: Vec<_> = cluster.nodes().map(flautino_cluster::Node::port).collect();
    let engine = open_with(&cluster, "thousand", &[0], hasty).await;
    let mut after = Vec::new();
    let mut at_rest = (0, 0);
    for round in 0..1000_usize {
        let replicas = [&[0, 1][..], &[1], &[], &[0]][round % 4];
        set(&engine, these(&cluster, "thousand", replicas)).await;
        run(&engine.handle(), "SELECT 1").await.unwrap();
        if round % 252 == 3 {
            until_served_by(&engine, &["r1"]).await;
            wait_until("the node that left has no session", async || {
                sessions(cluster.replica(1), "thousand").await == 0
            })
            .await;
            after.push(memory());
            if round == 3 {
                at_rest = (tasks(), sockets_to(&ports));
            }
        }
    }
    until_served_by(&engine, &["r1"]).await;
    wait_until("no task is left over", async || tasks() <= at_rest.0 + 3).await;
    wait_until("no session is left over", async || {
        sessions(cluster.replica(1), "thousand").await == 0
            && sessions(cluster.replica(0), "thousand").await <= 12
    })
    .await;
    wait_until("no socket is left over", async || sockets_to(&ports) <= at_rest.1 + 6).await;
    assert_ne!(reader(&engine).await.unwrap(), "r2");
    // Other tests run in this process, so only growth with each quarter is one of this.
    let last = memory();
    let grown = last.saturating_sub(after[1]);
    println!("memory after 4, 256, 508, 760 and 1000 changes: {after:?}, {last} kB");
    assert!(grown < 64 * 1024, "{after:?}, {last} kB");
    engine.close().await;
}
