//! How each fault is performed, and which rules hold meanwhile.
//!
//! A fault is an [`Injection`], which records the windows in which writes may fail or a node must not be
//! used. All has recovered before the next one.

mod apps;
mod injection;
mod network;
mod primary;
mod replicas;

use parking_lot::Mutex;

use self::injection::Injection;
use crate::error::BoxError;
use crate::schedule::Fault;
use crate::world::World;

/// Performs faults, all at once, and waits until all has recovered.
pub(crate) async fn perform(
    world: &World,
    faults: &[(Fault, u64)],
    victim: Option<usize>,
) -> Result<(), BoxError> {
    let taken = Mutex::default();
    let injections: Vec<_> = faults
        .iter()
        .map(|(fault, seed)| (*fault, Injection::new(world, *fault, *seed, victim, &taken)))
        .collect();
    let all = injections.iter().map(|(fault, injection)| async move {
        let done = inject(injection, *fault).await;
        done.map_err(|error| format!("{fault} {}: {error}", injection.target()))
    });
    futures_util::future::try_join_all(all).await?;
    world.wait_for_recovery().await?;
    for (_, injection) in injections {
        injection.finish();
    }
    Ok(())
}

async fn inject(injection: &Injection<'_>, fault: Fault) -> Result<(), BoxError> {
    match fault {
        Fault::ReplicaKill => injection.kill_replica().await,
        Fault::ReplicaHang => injection.hang_replica().await,
        Fault::ReplayPause => injection.pause_replay().await,
        Fault::Conflict => injection.conflict().await,
        Fault::ReplicaStall => injection.stall(false).await,
        Fault::ReplicaCut => injection.cut(false).await,
        Fault::ReplicaFlap => injection.flap().await,
        Fault::ReplicaReset => injection.reset(false).await,
        Fault::ReplicaSlow => injection.slow(false).await,
        Fault::PrimaryStall => injection.stall(true).await,
        Fault::PrimaryCut => injection.cut(true).await,
        Fault::PrimaryReset => injection.reset(true).await,
        Fault::PrimarySlow => injection.slow(true).await,
        Fault::PrimaryHang => injection.hang_primary().await,
        Fault::PrimaryRestart => injection.restart_primary().await,
        Fault::RollingRestart => injection.restart_all().await,
        Fault::Failover => injection.fail_over().await,
        Fault::DivergentFailover => injection.fail_over_and_diverge().await,
        Fault::Ghost => injection.fail_over_with_ghost().await,
        Fault::AppKill => injection.kill_app().await,
        Fault::AppStop => injection.stop_app().await,
    }
}
