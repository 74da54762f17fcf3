//! The token between requests: a cookie for browsers, a header for every other client.
//!
//! A client that wrote gets `flautino_token` and `flautino-token` with the response. A request that
//! brings one of them back reads what was written, from whichever instance and node. Browsers send
//! the cookie by themselves; other clients send the latest header that they were given.
//!
//! Two responses that are under way at once can reach a browser in the wrong order, and then the
//! older cookie would replace the newer one. So each token also travels in a *copy*: a cookie under a
//! name of its own, `flautino_token_…`. The next request brings all copies, the furthest token
//! counts, and the response to the next write removes the copies that it replaces.

mod names;
mod signature;

use std::sync::Arc;

use cookie::time::Duration;
use cookie::{Cookie, SameSite};
use flautino::{Engine, Handle, Token};
use http::header::{CACHE_CONTROL, COOKIE, FORWARDED, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

pub(crate) use self::names::TokenNames;
pub use self::names::{InvalidTokenPath, TOKEN_COOKIE, TOKEN_HEADER};

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How many tokens of one request are looked at, since each costs the check of a signature.
const MAX_TOKENS: usize = 16;

/// What a request said about tokens, as far as its response must know.
#[derive(Debug)]
pub(crate) struct RequestTokens {
    engine: Engine,
    names: Arc<TokenNames>,
    /// Names of the copies that the client has.
    copies: Vec<String>,
    /// Whether the client spoke TLS, so that its cookies can be `Secure`.
    secure: bool,
}

impl RequestTokens {
    /// Reads a request's tokens into the session of its handle.
    pub(crate) fn read(
        headers: &HeaderMap,
        uri: &Uri,
        handle: &Handle,
        engine: &Engine,
        names: &Arc<TokenNames>,
    ) -> Self {
        let keys = &engine.routing().token_keys;
        let mut count = 0;
        let mut observe = |text: &str| {
            count += 1;
            // One beyond the limit may be the furthest, so it counts as unreadable.
            let token = if count > MAX_TOKENS { None } else { signature::verify(text, keys) };
            match token {
                Some(token) => handle.resume(&token),
                None => handle.observe_unreadable(),
            }
        };
        for value in headers.get_all(&names.header) {
            // A proxy may have joined two headers into one.
            String::from_utf8_lossy(value.as_bytes())
                .split(',')
                .for_each(|text| observe(text.trim()));
        }
        let mut copies = Vec::new();
        for value in headers.get_all(COOKIE) {
            // Cookies of other software may hold any bytes.
            let text = String::from_utf8_lossy(value.as_bytes());
            for cookie in Cookie::split_parse(&*text).flatten() {
                let Some(suffix) = cookie.name().strip_prefix(&*names.cookie) else { continue };
                let is_copy = suffix.starts_with('_') && suffix.is_ascii();
                if is_copy || suffix.is_empty() {
                    observe(cookie.value());
                }
                if is_copy {
                    copies.push(cookie.name().to_owned());
                }
            }
        }
        Self {
            engine: engine.clone(),
            names: Arc::clone(names),
            copies,
            secure: is_secure(headers, uri),
        }
    }

    /// Writes a token into a response's headers: the header, the cookie, its copy, and the removal of
    /// the copies that it replaces. Shared caches are told not to store the response, unless the app
    /// itself says what they may do.
    pub(crate) fn write(&self, token: Token, headers: &mut HeaderMap) {
        let routing = self.engine.routing();
        let text = signature::sign(token, &routing.token_keys);
        let seconds = |time| Duration::try_from(time).unwrap_or(Duration::MAX);
        let age = seconds(routing.token_max_age);
        // A copy matters only while another response may be under way.
        let copy_age = age.min(seconds(routing.token_window));
        // Two tokens that are under way at once differ in their text, and so in their copy's name.
        let TokenNames { header, cookie, .. } = &*self.names;
        let copy = format!("{cookie}_{:016x}", fnv1a(&token.to_string()));

        // Removed first, because a client would take the first of two tokens.
        headers.remove(header);
        append(headers, SET_COOKIE, &self.cookie(cookie, &text, age));
        append(headers, SET_COOKIE, &self.cookie(&copy, &text, copy_age));
        for old in self.copies.iter().filter(|old| **old != copy).take(MAX_TOKENS) {
            append(headers, SET_COOKIE, &self.cookie(old, "", Duration::ZERO));
        }
        append(headers, header.clone(), &text);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
    }

    fn cookie(&self, name: &str, value: &str, age: Duration) -> String {
        Cookie::build((name, value))
            .path(&*self.names.path)
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.secure)
            .max_age(age)
            .to_string()
    }
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => {
            headers.append(name, value);
        }
        Err(error) => tracing::error!(%error, "the token cannot be sent as a header"),
    }
}

/// Whether the client spoke TLS, with this server or with the first proxy on its way. Browsers refuse
/// a `Secure` cookie that comes without TLS.
fn is_secure(headers: &HeaderMap, uri: &Uri) -> bool {
    forwarded_protocol(headers).or_else(|| first_element(headers, &X_FORWARDED_PROTO)).map_or_else(
        || uri.scheme() == Some(&http::uri::Scheme::HTTPS),
        |protocol| protocol == "https",
    )
}

/// The protocol that the standard header `Forwarded` names.
fn forwarded_protocol(headers: &HeaderMap) -> Option<String> {
    let element = first_element(headers, &FORWARDED)?;
    let protocol = element.split(';').find_map(|pair| pair.trim().strip_prefix("proto="))?;
    Some(protocol.trim_matches('"').to_owned())
}

/// The first element of a header's list, in lower case: what the proxy nearest to the client says.
fn first_element(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.split(',').next()?.trim().to_ascii_lowercase())
}

/// A short name for a text: its FNV-1a hash of 64 bits.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_s_word_makes_the_cookie_secure() {
        for (name, value, secure) in [
            ("x-forwarded-proto", "https", true),
            ("x-forwarded-proto", "HTTPS, http", true),
            ("forwarded", "for=1.2.3.4;proto=https", true),
            ("forwarded", "for=1.2.3.4;proto=\"https\", for=5.6.7.8;proto=http", true),
            ("forwarded", "for=1.2.3.4, for=5.6.7.8;proto=https", false),
            ("x-forwarded-proto", "http, https", false),
            ("x-forwarded-proto", "http", false),
            ("host", "https", false),
        ] {
            let headers = HeaderMap::from_iter([(
                HeaderName::try_from(name).unwrap(),
                HeaderValue::from_static(value),
            )]);
            assert_eq!(is_secure(&headers, &Uri::from_static("/")), secure, "{name}: {value}");
        }
        let https = Uri::from_static("https://example.org/");
        assert!(is_secure(&HeaderMap::new(), &https));
    }
}
