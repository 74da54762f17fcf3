//! What quiet apps hold: memory, descriptors, tasks, and sessions on the servers.

use std::fmt;
use std::time::{Duration, Instant};

use crate::apps::Broken;
use crate::check::Check;
use crate::clients::Clients;
use crate::world::{NODES, World};

/// How long it may take until idle connections are closed.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many looks in a row must show the same.
const SAME: u32 = 5;
/// What may differ: a connection of the monitor that it opens when it needs it.
const SLACK: u64 = 2;

/// One app process, when it is quiet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its process id.
    pub pid: u32,
    /// Resident memory in kB.
    pub memory: u64,
    /// Open file descriptors.
    pub files: u64,
    /// Tasks that are alive.
    pub tasks: u64,
    /// Its sessions on each server.
    pub sessions: Vec<u64>,
}

impl Held {
    /// All that is to be the same.
    fn counts(&self) -> (u64, u64, &[u64]) {
        (self.files, self.tasks, &self.sessions)
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, memory, files, tasks, sessions } = self;
        write!(f, "pid {pid}: {memory} kB, {files} files, {tasks} tasks, sessions {sessions:?}")
    }
}

/// Lets all clients rest until nothing changes any more, measures, and lets them go on.
pub(crate) async fn measure(world: &World, clients: &Clients) -> Result<Vec<Held>, Broken> {
    clients.rest(true);
    let deadline = Instant::now() + PATIENCE;
    let mut before = look(world).await?;
    let mut same = 0;
    while same < SAME && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = look(world).await?;
        let unchanged = now.iter().zip(&before).all(|(one, other)| one.counts() == other.counts());
        same = if unchanged { same + 1 } else { 0 };
        before = now;
    }
    clients.rest(false);
    Ok(before)
}

/// Notes what an app holds more of than before.
pub(crate) fn compare(world: &World, before: &[Held], after: &[Held]) {
    for (app, (before, after)) in before.iter().zip(after).enumerate() {
        let sum = |held: &Held| held.sessions.iter().sum::<u64>();
        let counts = [
            ("files", before.files, after.files),
            ("tasks", before.tasks, after.tasks),
            ("sessions", sum(before), sum(after)),
        ];
        for (what, before, after) in counts {
            if before.abs_diff(after) > SLACK {
                let text = format!("app {app} had {before} {what} and now has {after}");
                world.remark(Check::Leak, text);
            }
        }
        let most = before.memory + before.memory / 5 + 8 * 1024;
        if before.pid == after.pid && after.memory > most {
            let text = format!("app {app} grew from {} kB to {} kB", before.memory, after.memory);
            world.remark(Check::Leak, text);
        }
    }
}

async fn look(world: &World) -> Result<Vec<Held>, Broken> {
    let mut held = Vec::new();
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
        held.push(Held { pid, memory: memory(pid)?, files: files(pid)?, tasks, sessions });
    }
    Ok(held)
}

fn memory(pid: u32) -> Result<u64, Broken> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("the system does not tell the memory of a process")?.parse()?)
}

fn files(pid: u32) -> Result<u64, Broken> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}
