//! Settings of PostgreSQL that follow from a request: its tenant, for row-level security.

use std::fmt;
use std::sync::Arc;

use flautino::Handle;
use http::request::Parts;
use http::{Extensions, Request};

/// Derives settings from a request.
pub(crate) type SettingsOf = Arc<dyn Fn(&Parts) -> Vec<(String, String)> + Send + Sync>;

/// How the settings of one request are derived.
pub(crate) struct RequestSettings {
    settings_of: SettingsOf,
    /// The request as it came to the layer.
    head: Box<Parts>,
}

impl RequestSettings {
    pub(crate) fn new<B>(settings_of: &SettingsOf, request: &Request<B>) -> Self {
        Self { settings_of: Arc::clone(settings_of), head: head_of(request) }
    }

    /// A handle with the settings for this request, which has more in its extensions than when it came.
    pub(crate) fn on(&self, handle: &Handle, request: &Parts) -> Handle {
        handle.with_settings((self.settings_of)(request))
    }

    /// The request with these extensions.
    pub(crate) fn request_with(&self, extensions: &Extensions) -> Parts {
        let mut parts = (*self.head).clone();
        parts.extensions = extensions.clone();
        parts
    }
}

impl fmt::Debug for RequestSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestSettings").finish_non_exhaustive()
    }
}

/// A copy of a request's head.
pub(crate) fn head_of<B>(request: &Request<B>) -> Box<Parts> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.version = request.version();
    parts.headers = request.headers().clone();
    parts.extensions = request.extensions().clone();
    Box::new(parts)
}
