//! What a process has used, as `/proc` tells it.

use std::fs;
use std::time::Duration;

use crate::Broken;

/// The unit of times in `/proc`: Linux shows them to programs in hundredths of a second, whatever the
/// kernel counts in.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time of all its threads so far, those that have ended too.
pub(crate) fn cpu(pid: u32) -> Result<Duration, Broken> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in brackets, which may contain anything.
    let (_, rest) = stat.rsplit_once(')').ok_or("unreadable /proc/PID/stat")?;
    // `rest` begins with field 3; utime and stime are 14 and 15.
    let times: Vec<u32> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(TICK * times.iter().sum())
}

/// Its resident memory in kB.
pub(crate) fn resident_kb(pid: u32) -> Result<f64, Broken> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
}
