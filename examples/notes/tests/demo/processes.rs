//! The process table, as `ps` tells it.

use std::process::Command;

pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) command: String,
}

/// All that run; those that only wait to be reaped are left out.
pub(crate) fn processes() -> Vec<Process> {
    let output =
        Command::new("ps").args(["-ww", "-axo", "pid=,ppid=,stat=,command="]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let pid = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let dead = fields.next()?.starts_with('Z');
        let command = fields.collect::<Vec<_>>().join(" ");
        (!dead).then_some(Process { pid, parent, command })
    };
    text.lines().filter_map(parse).collect()
}

/// Those of these processes that still run.
pub(crate) fn alive(pids: &[i32]) -> Vec<i32> {
    let all = processes();
    let runs = |pid: &i32| all.iter().any(|process| process.pid == *pid);
    pids.iter().copied().filter(runs).collect()
}
