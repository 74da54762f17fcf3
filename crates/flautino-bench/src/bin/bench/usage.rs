//! What a process has used, as `/proc` tells it.

use std::fs;
use std::time::Duration;

use crate::error::BoxError;

/// The unit of times in `/proc`: hundredths of a second, whatever unit the kernel counts in.
const CLOCK_TICK: Duration = Duration::from_millis(10);

/// The CPU time of all threads of a process so far, those that have ended included.
pub(crate) fn cpu(pid: u32) -> Result<Duration, BoxError> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, which may contain any character.
    let (_, rest) = stat.rsplit_once(')').ok_or("unreadable /proc/PID/stat")?;
    // `rest` begins with field 3; utime and stime are 14 and 15.
    let times: Vec<u32> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(CLOCK_TICK * times.iter().sum())
}
