//! Load that never stops, and the history of what became of it, which torture's checks are applied to.

mod carrier;
mod clients;
mod op;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use flautino::Engine;
use flautino_lab::wait_until;
use tokio::task::JoinSet;

use self::clients::Clients;
pub(crate) use self::op::{Op, Way};
pub(crate) use self::tally::{Tally, assert_none};
use crate::common::Rig;
use crate::pulse::Pulse;

/// Clients of all kinds that read and write until they are told to stop.
pub(crate) struct Load {
    clients: Arc<Clients>,
    running: JoinSet<()>,
    pub(crate) pulse: Pulse,
    started: Instant,
}

impl Load {
    pub(crate) fn start<Servers>(rig: &Rig<Servers>) -> Self {
        Self::of(&rig.engine, &rig.app.url, 1)
    }

    /// The ids begin with `first`.
    pub(crate) fn of(engine: &Engine, url: &str, first: i64) -> Self {
        let clients = Clients::new(engine, url, first);
        let running = clients.start();
        Self { clients, running, pulse: Pulse::start(), started: Instant::now() }
    }

    /// Waits until this many more reads and writes have been answered.
    pub(crate) async fn until_more(&self, reads: usize, writes: usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let reads = count(&self.clients.reads) + reads;
        let writes = count(&self.clients.writes) + writes;
        let what = format!("{reads} reads and {writes} writes are answered");
        wait_until(&what, async || {
            count(&self.clients.reads) >= reads && count(&self.clients.writes) >= writes
        })
        .await;
    }

    /// Enough of each kind to count with.
    pub(crate) async fn a_while(&self) {
        self.until_more(400, 80).await;
    }

    /// As [`a_while`](Self::a_while), of reads only.
    pub(crate) async fn a_while_of_reads(&self) {
        self.until_more(400, 0).await;
    }

    /// How many writes have been answered so far.
    pub(crate) fn writes(&self) -> usize {
        self.clients.writes.load(Ordering::Relaxed)
    }

    /// How many writes that began since then have failed.
    pub(crate) fn failed_writes_since(&self, moment: Instant) -> usize {
        let ops = self.clients.ops.lock().unwrap();
        let began = ops.iter().filter(|op| op.started > moment && !op.way.is_read());
        began.filter(|op| !op.is_done()).count()
    }

    /// Lets every client finish what it does.
    pub(crate) async fn stop(mut self) -> Tally {
        self.clients.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap();
        }
        let ops = std::mem::take(&mut *self.clients.ops.lock().unwrap());
        let tally = Tally::new(ops, self.pulse);
        let stalled = tally.pulse.stalled(self.started, Instant::now());
        println!("{tally}the machine stalled for {stalled:?}");
        tally
    }
}

/// A primary and two replicas after a failover under load that lost nothing, and what the load saw.
pub(crate) async fn failed_over(name: &str) -> (Rig, Tally) {
    let rig = Rig::start(name, 2).await;
    rig.lose_nothing().await;
    let load = Load::start(&rig);
    load.a_while().await;
    rig.fail_over(&load).await;
    load.a_while().await;
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    (rig, tally)
}
