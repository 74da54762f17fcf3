//! One run, from the start of the servers to the verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::apps::Broken;
use crate::check::{self, Limits};
use crate::clients::Clients;
use crate::history::{History, Op};
use crate::options::Options;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::world::World;
use crate::{faults, soak};

/// flautino's defaults, which the apps run with.
const LIMITS: Limits =
    Limits { failover_timeout: Duration::from_secs(10), max_lag: Duration::from_secs(10) };

/// How long load alone lasts before the first fault.
const WARM: Duration = Duration::from_millis(1500);
/// And in soak mode before the first measuring.
const WARM_SOAK: Duration = Duration::from_secs(20);

/// Tortures and checks, and says what it does on stderr.
///
/// # Errors
///
/// When the run itself breaks: a server that does not start, a fault that cannot be performed.
///
/// # Cancellation
///
/// Dropped, all processes are ended and all folders removed.
pub async fn run(options: &Options) -> Result<Report, Broken> {
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
    let mut alive = JoinSet::new();
    for number in 0..options.clients {
        alive.spawn(Arc::clone(&clients).live(number, seed));
    }

    let before = if options.soak {
        tokio::time::sleep(WARM_SOAK).await;
        Some(soak::measure(&world, &clients).await?)
    } else {
        tokio::time::sleep(WARM).await;
        None
    };
    let began = Instant::now();
    torture(options, seed, &world, &clients, began).await?;
    let elapsed = began.elapsed();
    let soaked = match before {
        Some(before) => {
            let after = soak::measure(&world, &clients).await?;
            soak::compare(&world, &before, &after);
            Some((before, after))
        }
        None => None,
    };

    let ops = end(&clients, alive).await?;
    world.whole().await?;
    let history = gather(&world, ops).await?;
    let violations = check::check(&history, LIMITS);
    Ok(Report { seed, elapsed, history, violations, soaked })
}

/// Faults, until there was enough of everything.
async fn torture(
    options: &Options,
    seed: u64,
    world: &World,
    clients: &Clients,
    began: Instant,
) -> Result<(), Broken> {
    let mut schedule = Schedule::new(seed, &options.only, &options.first);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut performed = 0;
    // In soak mode the others are measured from the begin to the end.
    let victim = (options.soak).then(|| world.apps.count() - 1);
    loop {
        let operations = clients.count.load(std::sync::atomic::Ordering::Relaxed);
        let late = options.longest().is_some_and(|longest| began.elapsed() >= longest);
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

/// The end of all clients, and what they wrote down.
async fn end(clients: &Clients, mut alive: JoinSet<Vec<Op>>) -> Result<Vec<Op>, Broken> {
    clients.end();
    let mut ops = Vec::new();
    while let Some(done) = alive.join_next().await {
        ops.extend(done?);
    }
    ops.sort_by_key(|op| op.start);
    Ok(ops)
}

async fn gather(world: &World, ops: Vec<Op>) -> Result<History, Broken> {
    let finals = world.finals().await?;
    let notes = std::mem::take(&mut *world.notes());
    Ok(History {
        ops,
        episodes: notes.episodes,
        primaries: notes.primaries,
        finals,
        remarks: notes.remarks,
    })
}
