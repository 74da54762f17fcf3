//! [`Tracer`]: what is known of the traces that statements leave, and whether that is current.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::effects::Effects;
use super::traces::{Traces, Trusted};

/// Holds the latest [`Traces`]. They are outdated from when a statement of the engine begins to change
/// the schema until the catalogue was read after its end, and everything is in doubt meanwhile.
#[derive(Default)]
pub(crate) struct Tracer {
    traces: ArcSwap<Traces>,
    /// Counts what [`Traces`] there were. What was judged by earlier ones does not hold any more.
    version: AtomicU64,
    schema: Mutex<Schema>,
    pub(crate) trusted: Trusted,
    /// Requests that the catalogue be read.
    wanted: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What changes the schema through the engine.
#[derive(Default)]
struct Schema {
    /// How many changes are under way.
    under_way: usize,
    /// How many have begun or ended.
    events: u64,
}

/// A change of the schema that is under way, until it is dropped.
pub(crate) struct SchemaChange(Arc<Tracer>);

impl Tracer {
    pub(super) fn trusting(trusted: Trusted) -> Self {
        Self { trusted, ..Self::default() }
    }

    /// From now on `wanted` is called when the catalogue has to be read. The first call of this counts.
    pub(crate) fn read_by(&self, wanted: Box<dyn Fn() + Send + Sync>) {
        let _ = self.wanted.set(wanted);
    }

    /// What the statement does, which is kept in `judged` for the next time.
    pub(super) fn effects(&self, judged: &AtomicU64, sql: &str) -> Effects {
        // 0 is the version of what was never judged.
        let version = self.version.load(Ordering::Acquire) + 1;
        let known = judged.load(Ordering::Relaxed);
        if known >> 8 == version {
            return Effects::from_bits(known.to_le_bytes()[0]);
        }
        let effects = self.traces.load().effects(sql);
        judged.store(version << 8 | u64::from(effects.bits()), Ordering::Relaxed);
        effects
    }

    /// The name of what makes the statement hold something for as long as the session lasts, if it does.
    pub(super) fn holds(&self, sql: &str) -> Option<String> {
        self.traces.load().holds(sql)
    }

    /// A statement of the engine begins to change the schema.
    pub(crate) fn schema_changes(self: &Arc<Self>) -> SchemaChange {
        let mut schema = self.schema.lock();
        schema.under_way += 1;
        schema.events += 1;
        self.outdate();
        SchemaChange(Arc::clone(self))
    }

    /// Something may have changed the schema that was not seen: the catalogue is to be read again.
    pub(crate) fn want(&self) {
        if let Some(wanted) = self.wanted.get() {
            wanted();
        }
    }

    /// To be asked before the catalogue is read, and given to [`learn`](Self::learn).
    pub(crate) fn events(&self) -> u64 {
        self.schema.lock().events
    }

    /// What the catalogue says. It is current if nothing has changed since `events`.
    pub(crate) fn learn(&self, traces: Traces, events: u64) {
        let schema = self.schema.lock();
        let is_current = schema.under_way == 0 && schema.events == events;
        self.replace(if is_current { traces } else { traces.outdated() });
    }

    /// Whether the catalogue was read, and nothing has changed since.
    pub(crate) fn is_current(&self) -> bool {
        self.traces.load().is_current()
    }

    fn outdate(&self) {
        let traces = self.traces.load();
        if traces.is_current() {
            self.replace(traces.outdated());
        }
    }

    fn replace(&self, traces: Traces) {
        if **self.traces.load() != traces {
            self.traces.store(Arc::new(traces));
            self.version.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for SchemaChange {
    fn drop(&mut self) {
        {
            let mut schema = self.0.schema.lock();
            schema.under_way -= 1;
            schema.events += 1;
        }
        self.0.want();
    }
}

#[cfg(test)]
mod tests {
    use super::super::traces::Objects;
    use super::*;

    #[test]
    fn what_was_read_while_the_schema_changed_is_not_current() {
        let tracer = Arc::new(Tracer::default());
        let read = || Objects::default().traces();
        assert!(!tracer.is_current());
        tracer.learn(read(), tracer.events());
        assert!(tracer.is_current());

        let change = tracer.schema_changes();
        assert!(!tracer.is_current());
        tracer.learn(read(), tracer.events());
        assert!(!tracer.is_current(), "a change is under way");
        let before = tracer.events();
        drop(change);
        tracer.learn(read(), before);
        assert!(!tracer.is_current(), "a change has ended since it was read");
        tracer.learn(read(), tracer.events());
        assert!(tracer.is_current());
    }

    #[test]
    fn what_was_judged_is_judged_anew_by_other_traces() {
        let tracer = Tracer::default();
        let judged = AtomicU64::new(0);
        assert!(tracer.effects(&judged, "SELECT 1").any(Effects::CHANGES));
        tracer.learn(Objects::default().traces(), 0);
        assert_eq!(tracer.effects(&judged, "SELECT 1"), Effects::NONE);
        assert_eq!(tracer.effects(&judged, "SELECT 1"), Effects::NONE);
    }
}
