//! What idle apps hold: memory, file descriptors, tasks, and sessions on the servers.

use std::fmt;
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::error::BoxError;
use crate::violation::Check;
use crate::world::{NODES, World};

/// How long it may take until idle connections are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many samples in a row must be the same.
const STABLE_SAMPLES: u32 = 5;
/// How much the counts may differ, since the monitor opens connections when it needs them.
const TOLERANCE: u64 = 2;

/// What one app process holds when it is idle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Its process id.
    pub pid: u32,
    /// Resident memory in kB.
    pub memory: u64,
    /// Open file descriptors.
    pub files: u64,
    /// Live tasks.
    pub tasks: u64,
    /// Its sessions on each server.
    pub sessions: Vec<u64>,
}

impl Footprint {
    /// What must be the same in all samples.
    fn counts(&self) -> (u64, u64, &[u64]) {
        (self.files, self.tasks, &self.sessions)
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, memory, files, tasks, sessions } = self;
        write!(f, "pid {pid}: {memory} kB, {files} files, {tasks} tasks, sessions {sessions:?}")
    }
}

/// Pauses all clients until the apps are idle and their counts stay the same, and lets them go on.
/// Returns what each app held then.
pub(crate) async fn measure(world: &World, clients: &Clients) -> Result<Vec<Footprint>, BoxError> {
    clients.pause(true);
    let deadline = Instant::now() + IDLE_TIMEOUT;
    let mut before = sample(world).await?;
    let mut same = 0;
    while same < STABLE_SAMPLES && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = sample(world).await?;
        let unchanged = now.iter().zip(&before).all(|(one, other)| one.counts() == other.counts());
        same = if unchanged { same + 1 } else { 0 };
        before = now;
    }
    clients.pause(false);
    Ok(before)
}

/// Records a violation for everything that an app holds more of than before.
pub(crate) fn compare(world: &World, before: &[Footprint], after: &[Footprint]) {
    for (app, (before, after)) in before.iter().zip(after).enumerate() {
        let sum = |footprint: &Footprint| footprint.sessions.iter().sum::<u64>();
        let counts = [
            ("files", before.files, after.files),
            ("tasks", before.tasks, after.tasks),
            ("sessions", sum(before), sum(after)),
        ];
        for (what, before, after) in counts {
            if before.abs_diff(after) > TOLERANCE {
                let text = format!("app {app} had {before} {what} and now has {after}");
                world.remark(Check::Leak, text);
            }
        }
        let max_memory = before.memory + before.memory / 5 + 8 * 1024;
        if before.pid == after.pid && after.memory > max_memory {
            let text = format!("app {app} grew from {} kB to {} kB", before.memory, after.memory);
            world.remark(Check::Leak, text);
        }
    }
}

async fn sample(world: &World) -> Result<Vec<Footprint>, BoxError> {
    let mut footprints = Vec::new();
    for (app, address) in world.apps.addresses().into_iter().enumerate() {
        let (Some(address), Some(pid)) = (address, world.apps.pid(app).await) else {
            return Err(format!("app {app} does not run").into());
        };
        let tasks = world.fetch(format!("http://{address}/tasks")).await?.parse()?;
        let mut sessions = Vec::new();
        for number in 0..NODES.len() {
            let mut connection = world.node(number).connect().await?;
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
            let query = sqlx::query_scalar::<_, i64>(sql).bind(format!("app-{app}"));
            sessions.push(u64::try_from(query.fetch_one(&mut connection).await?)?);
        }
        let (memory, files) = (memory(pid)?, files(pid)?);
        footprints.push(Footprint { pid, memory, files, tasks, sessions });
    }
    Ok(footprints)
}

fn memory(pid: u32) -> Result<u64, BoxError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("the system does not tell the memory of a process")?.parse()?)
}

fn files(pid: u32) -> Result<u64, BoxError> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}
