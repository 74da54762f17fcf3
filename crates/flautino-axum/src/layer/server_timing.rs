//! The `Server-Timing` header: which node ran each statement of a request, why, and how long it took.

use flautino::Timing;
use http::{HeaderMap, HeaderName, HeaderValue};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Writes one `db` entry for each statement, and no header where there was none.
pub(super) fn write(timings: &[Timing], headers: &mut HeaderMap) {
    if timings.is_empty() {
        return;
    }
    let entries: Vec<_> = timings.iter().map(entry).collect();
    if let Ok(value) = HeaderValue::from_str(&entries.join(", ")) {
        headers.append(SERVER_TIMING, value);
    }
}

fn entry(timing: &Timing) -> String {
    let millis = timing.elapsed.as_secs_f64() * 1000.0;
    // A node's name is free text from the configuration, and stands in a quoted string here.
    let unfit = |c: char| !c.is_ascii_graphic() || c == '"' || c == '\\';
    let node = timing.node.replace(unfit, "_");
    format!("db;dur={millis:.1};desc=\"{node} {}\"", timing.reason.as_str())
}
