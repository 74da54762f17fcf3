//! Whether the machine stood still: what was under way meanwhile says nothing about how fast it is.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_millis(10);
/// A beat that is late by more than this is a stall.
const LATE: Duration = Duration::from_millis(100);

/// Beats in a thread and in a task until it is dropped. The one is late when the machine stalls, the
/// other also when the runtime's threads get no turn.
pub(crate) struct Pulse([Arc<Mutex<Beats>>; 2]);

struct Beats {
    last: Instant,
    stalls: Vec<(Instant, Instant)>,
}

impl Pulse {
    pub(crate) fn start() -> Self {
        let beats = || Mutex::new(Beats { last: Instant::now(), stalls: Vec::new() });
        let pulse = Self([Arc::new(beats()), Arc::new(beats())]);
        let [thread, task] = pulse.0.each_ref().map(Arc::downgrade);
        std::thread::spawn(move || {
            while beat(&thread) {
                std::thread::sleep(BEAT);
            }
        });
        tokio::spawn(async move {
            while beat(&task) {
                tokio::time::sleep(BEAT).await;
            }
        });
        pulse
    }

    /// For how long it stalled between these moments.
    pub(crate) fn stalled(&self, from: Instant, to: Instant) -> Duration {
        let of = |beats: &Arc<Mutex<Beats>>| {
            let mut beats = beats.lock().unwrap();
            // One that goes on.
            beats.look();
            let within = |(begin, end): &(Instant, Instant)| {
                to.min(*end).saturating_duration_since(from.max(*begin))
            };
            beats.stalls.iter().map(within).sum()
        };
        self.0.iter().map(of).max().unwrap_or_default()
    }
}

impl Beats {
    fn look(&mut self) {
        let now = Instant::now();
        if now - self.last > BEAT + LATE {
            self.stalls.push((self.last, now));
        }
        self.last = now;
    }
}

/// False once nobody listens.
fn beat(beats: &Weak<Mutex<Beats>>) -> bool {
    let beats = beats.upgrade();
    beats.inspect(|beats| beats.lock().unwrap().look()).is_some()
}
