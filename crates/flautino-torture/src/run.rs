//! One run, from the start of the servers to the verdict.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::check::{Limits, check};
use crate::clients::Clients;
use crate::error::BoxError;
use crate::history::{History, Op};
use crate::options::Options;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::world::{Records, World};
use crate::{faults, soak};

/// flautino's defaults, which the apps run with.
const LIMITS: Limits =
    Limits { failover_timeout: Duration::from_secs(10), max_lag: Duration::from_secs(10) };

/// How long there is load before the first fault.
const WARM_UP: Duration = Duration::from_millis(1500);
/// How long there is load before the first measurement, in soak mode.
const SOAK_WARM_UP: Duration = Duration::from_secs(20);

/// Runs clients and faults, checks the history, and says what it does on stderr.
///
/// # Errors
///
/// When the run itself fails: a server does not start, or a fault cannot be performed.
///
/// # Cancellation
///
/// Dropped, all processes are ended and all folders removed.
pub async fn run(options: &Options) -> Result<Report, BoxError> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?,
    };
    let apps = usize::try_from(options.apps)?;
    let world = World::start(program, apps, options.logs.clone()).await?;
    let pace = Duration::from_millis(options.pace);
    let clients = Arc::new(Clients::new(world.clock, Arc::clone(&world.apps), pace)?);
    let mut running = JoinSet::new();
    for number in 0..options.clients {
        running.spawn(Arc::clone(&clients).run_client(number, seed));
    }

    let before = if options.soak {
        tokio::time::sleep(SOAK_WARM_UP).await;
        Some(soak::measure(&world, &clients).await?)
    } else {
        tokio::time::sleep(WARM_UP).await;
        None
    };
    let began = Instant::now();
    inject_faults(options, seed, &world, &clients, began).await?;
    let elapsed = began.elapsed();
    let soaked = match before {
        Some(before) => {
            let after = soak::measure(&world, &clients).await?;
            soak::compare(&world, &before, &after);
            Some((before, after))
        }
        None => None,
    };

    let ops = stop(&clients, running).await?;
    world.wait_for_recovery().await?;
    let history = gather(&world, ops).await?;
    let violations = check(&history, LIMITS);
    Ok(Report { seed, elapsed, history, violations, soaked })
}

/// Performs faults until there were enough of them, and of operations.
async fn inject_faults(
    options: &Options,
    seed: u64,
    world: &World,
    clients: &Clients,
    began: Instant,
) -> Result<(), BoxError> {
    let mut schedule = Schedule::new(seed, &options.only, &options.first);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut performed = 0;
    // In soak mode faults of apps hit only the last one; the others live from begin to end, and are
    // compared.
    let victim = (options.soak).then(|| world.apps.count() - 1);
    loop {
        let operations = clients.count.load(Ordering::Relaxed);
        let late = options.max_duration().is_some_and(|max| began.elapsed() >= max);
        let bound = options.operations > 0 || options.faults > 0;
        let enough = bound && operations >= options.operations && performed >= options.faults;
        if late || enough {
            return Ok(());
        }
        if options.calm {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let next = schedule.next();
        let names: Vec<_> = next.iter().map(|(fault, _)| fault.name()).collect();
        let at = world.clock.elapsed().as_secs_f64();
        faults::perform(world, &next, victim).await?;
        performed += next.len() as u64;
        let took = world.clock.elapsed().as_secs_f64() - at;
        eprintln!("{at:8.1} s  {:<32} {took:4.1} s, {operations} operations", names.join(" + "));
        tokio::time::sleep(Duration::from_millis(rng.u64(100..500))).await;
    }
}

/// Stops all clients. Returns their operations in the order in which they began.
async fn stop(clients: &Clients, mut running: JoinSet<Vec<Op>>) -> Result<Vec<Op>, BoxError> {
    clients.stop();
    let mut ops = Vec::new();
    while let Some(done) = running.join_next().await {
        ops.extend(done?);
    }
    ops.sort_by_key(|op| op.start);
    Ok(ops)
}

async fn gather(world: &World, ops: Vec<Op>) -> Result<History, BoxError> {
    let finals = world.finals().await?;
    let Records { episodes, primaries, remarks } = std::mem::take(&mut *world.records());
    Ok(History { ops, episodes, primaries, finals, remarks })
}
