//! Events as a subscriber sees them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, Once};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// One subscriber for the whole process: with one for each test, tests that run side by side
/// would spoil what `tracing` remembers about who is interested in which event.
static SUBSCRIBER: Once = Once::new();

thread_local! {
    /// The captures under way on this thread.
    static CAPTURES: RefCell<Vec<Arc<Mutex<Vec<Event>>>>> = const { RefCell::new(Vec::new()) };
}

/// Captures all events of the current thread while it lives: of the whole of a test under
/// `#[tokio::test]`, which runs on one thread.
pub struct Capture {
    events: Arc<Mutex<Vec<Event>>>,
}

/// One captured event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Such as `flautino::query`.
    pub target: String,
    /// Such as `WARN`.
    pub level: tracing::Level,
    /// Each field as text; the message is under `message`.
    pub fields: BTreeMap<String, String>,
}

impl Event {
    /// A field's text, empty where it is missing.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

impl Capture {
    /// Starts to capture.
    #[must_use]
    pub fn start() -> Self {
        SUBSCRIBER.call_once(|| {
            let subscriber = tracing_subscriber::registry().with(Recorder);
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        let events = Arc::default();
        CAPTURES.with_borrow_mut(|captures| captures.push(Arc::clone(&events)));
        Self { events }
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The events of one target.
    #[must_use]
    pub fn of(&self, target: &str) -> Vec<Event> {
        self.all().into_iter().filter(|event| event.target == target).collect()
    }

    /// The warnings' messages.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.all().into_iter().filter(|event| event.level == tracing::Level::WARN);
        warnings.map(|event| event.field("message").to_owned()).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        CAPTURES.with_borrow_mut(|captures| {
            captures.retain(|events| !Arc::ptr_eq(events, &self.events));
        });
    }
}

impl Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").finish_non_exhaustive()
    }
}

struct Recorder;

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let captures = CAPTURES.with_borrow(Clone::clone);
        if captures.is_empty() {
            return;
        }
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        let event = Event {
            target: metadata.target().to_owned(),
            level: *metadata.level(),
            fields: fields.0,
        };
        for events in captures {
            events.lock().unwrap().push(event.clone());
        }
    }
}

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}
