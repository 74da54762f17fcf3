//! Events as a subscriber sees them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, Once};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// One subscriber for the whole process: with one for each test, tests that run side by side
/// would spoil what `tracing` remembers about who is interested in which event.
static SUBSCRIBER: Once = Once::new();

thread_local! {
    /// The captures under way on this thread.
    static CAPTURES: RefCell<Vec<Arc<Mutex<Seen>>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    /// Each with its number.
    spans: Vec<(u64, Event)>,
}

/// Captures all events of the current thread while it lives: of the whole of a test under
/// `#[tokio::test]`, which runs on one thread.
pub struct Capture {
    seen: Arc<Mutex<Seen>>,
}

/// One captured event, or a span.
#[derive(Debug, Clone)]
pub struct Event {
    /// Such as `flautino::query`.
    pub target: String,
    /// Such as `WARN`.
    pub level: tracing::Level,
    /// Each field as text; the message is under `message`, a span's name under `span`.
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
        let seen = Arc::default();
        CAPTURES.with_borrow_mut(|captures| captures.push(Arc::clone(&seen)));
        Self { seen }
    }

    /// All events so far.
    #[must_use]
    pub fn all(&self) -> Vec<Event> {
        self.seen.lock().unwrap().events.clone()
    }

    /// The spans of one target that began so far.
    #[must_use]
    pub fn spans(&self, target: &str) -> Vec<Event> {
        let seen = self.seen.lock().unwrap();
        let spans = seen.spans.iter().map(|(_, span)| span);
        spans.filter(|span| span.target == target).cloned().collect()
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
            captures.retain(|seen| !Arc::ptr_eq(seen, &self.seen));
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
        for seen in captures {
            seen.lock().unwrap().events.push(event.clone());
        }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        attributes.record(&mut fields);
        let metadata = attributes.metadata();
        fields.0.insert("span".to_owned(), metadata.name().to_owned());
        let (target, level) = (metadata.target().to_owned(), *metadata.level());
        let span = Event { target, level, fields: fields.0 };
        for seen in CAPTURES.with_borrow(Clone::clone) {
            seen.lock().unwrap().spans.push((id.into_u64(), span.clone()));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        values.record(&mut fields);
        for seen in CAPTURES.with_borrow(Clone::clone) {
            let mut seen = seen.lock().unwrap();
            // Numbers of spans that have ended are used again.
            if let Some((_, span)) =
                seen.spans.iter_mut().rev().find(|(number, _)| *number == id.into_u64())
            {
                span.fields.extend(fields.0.clone());
            }
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
