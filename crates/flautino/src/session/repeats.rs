//! How often a session sent which statement.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use parking_lot::Mutex;

/// How many texts of a session are counted.
const MAX_TEXTS: usize = 64;
/// How many bytes of a text are kept, to be shown.
const MAX_LENGTH: usize = 2_000;

/// The texts of a session, with how often each was sent. Empty until counting starts, which costs nothing
/// then.
#[derive(Debug, Default)]
pub(super) struct Repeats(OnceLock<Mutex<Vec<Text>>>);

#[derive(Debug)]
struct Text {
    hash: u64,
    count: u32,
    beginning: String,
}

impl Repeats {
    /// Starts counting.
    pub(super) fn start(&self) {
        self.0.get_or_init(Mutex::default);
    }

    pub(super) fn count(&self, sql: &str) {
        let Some(texts) = self.0.get() else { return };
        let mut hasher = DefaultHasher::new();
        sql.hash(&mut hasher);
        let hash = hasher.finish();
        let mut texts = texts.lock();
        if let Some(text) = texts.iter_mut().find(|text| text.hash == hash) {
            text.count = text.count.saturating_add(1);
        } else if texts.len() < MAX_TEXTS {
            let beginning = sql[..sql.floor_char_boundary(MAX_LENGTH)].to_owned();
            texts.push(Text { hash, count: 1, beginning });
        }
    }

    /// The text that was sent most often, if that is more often than so many times.
    pub(super) fn above(&self, limit: u32) -> Option<(String, u32)> {
        let texts = self.0.get()?.lock();
        let most = texts.iter().max_by_key(|text| text.count)?;
        (most.count > limit).then(|| (most.beginning.clone(), most.count))
    }
}
