//! The token between requests: a cookie for browsers, a header for everybody else.
//!
//! A client that wrote gets `flautino_token` and `flautino-token` with the response; whoever brings
//! one of them back reads what that request wrote, from whichever instance and node. Browsers do
//! so by themselves. Other clients send the header, and keep the one they were given last.
//!
//! Two responses under way at once can reach a browser in the wrong order, and the older cookie
//! would replace the newer one. So each token also travels under a name of its own,
//! `flautino_token_…`; the next request brings all of them, the furthest counts, and the response
//! to a write removes those that it replaces.

use std::borrow::Cow;

use cookie::{Cookie, SameSite};
use flautino::{Engine, Handle, Token};
use hmac::{Hmac, KeyInit, Mac};
use http::header::{CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use sha2::Sha256;

/// The header, on requests and responses.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("flautino-token");

/// The cookie; others that begin with it and `_` are its copies.
pub const TOKEN_COOKIE: &str = "flautino_token";

/// More tokens than this in one request are not looked at, since each costs a signature's check.
const MOST_TOKENS: usize = 16;

/// What the request said about tokens, for the response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    /// Names of copies that the client has.
    copies: Vec<String>,
    /// Whether cookies may only go over TLS.
    secure: bool,
}

impl Carried {
    /// Tells the handle what the request's tokens say.
    pub(crate) fn observe(
        headers: &HeaderMap,
        uri: &Uri,
        handle: &Handle,
        engine: &Engine,
    ) -> Self {
        let keys = &engine.routing().token_keys;
        let mut carried = Self { copies: Vec::new(), secure: is_secure(headers, uri) };
        let mut left = MOST_TOKENS;
        let mut note = |text: &str| match left.checked_sub(1).map(|rest| left = rest) {
            Some(()) => match open(text, keys) {
                Some(token) => handle.resume(&token),
                None => handle.observe_unreadable(),
            },
            // One of those not looked at may be the furthest.
            None => handle.observe_unreadable(),
        };
        for value in headers.get_all(TOKEN_HEADER) {
            // A proxy may have joined two.
            String::from_utf8_lossy(value.as_bytes()).split(',').for_each(|text| note(text.trim()));
        }
        for value in headers.get_all(COOKIE) {
            // Others may hold any bytes.
            let text = String::from_utf8_lossy(value.as_bytes());
            for cookie in Cookie::split_parse(&*text).flatten() {
                let Some(copy) = cookie.name().strip_prefix(TOKEN_COOKIE) else { continue };
                if copy.is_empty() {
                    note(cookie.value());
                } else if copy.starts_with('_') && copy.is_ascii() {
                    note(cookie.value());
                    carried.copies.push(cookie.name().to_owned());
                }
            }
        }
        carried
    }

    /// Puts the token into a response. Shared caches are told not to keep that for others, unless
    /// the app says itself what they may do.
    pub(crate) fn give(&self, token: Token, headers: &mut HeaderMap, engine: &Engine) {
        let text = seal(token, &engine.routing().token_keys);
        // Of two tokens a client would take the first.
        headers.remove(TOKEN_HEADER);
        let mut add = |name: HeaderName, value: String| match HeaderValue::from_str(&value) {
            Ok(value) => {
                headers.append(name, value);
            }
            Err(error) => tracing::error!(%error, "the token is no header value"),
        };
        let seconds =
            |time| cookie::time::Duration::try_from(time).unwrap_or(cookie::time::Duration::MAX);
        let age = seconds(engine.routing().token_max_age);
        // A copy matters only while another response may be under way.
        let short = age.min(seconds(engine.routing().token_window));
        // Different for two tokens under way at once, unless they are the same.
        let copy = format!("{TOKEN_COOKIE}_{:016x}", fold(&token.to_string()));
        for (name, age) in [(TOKEN_COOKIE, age), (&*copy, short)] {
            add(SET_COOKIE, self.cookie(name, &text, age));
        }
        for old in self.copies.iter().filter(|old| **old != copy).take(MOST_TOKENS) {
            add(SET_COOKIE, self.cookie(old, "", cookie::time::Duration::ZERO));
        }
        add(TOKEN_HEADER, text);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
    }

    fn cookie(&self, name: &str, value: &str, age: cookie::time::Duration) -> String {
        Cookie::build((name, value))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.secure)
            .max_age(age)
            .to_string()
    }
}

/// Whether the client spoke TLS, with this server or with the first proxy on its way. A cookie that
/// is `Secure` without it would be refused.
fn is_secure(headers: &HeaderMap, uri: &Uri) -> bool {
    let first = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some(value.split(',').next()?.trim().to_ascii_lowercase())
    };
    let by_standard = || {
        let element = first("forwarded")?;
        let protocol = element.split(';').find_map(|pair| pair.trim().strip_prefix("proto="))?;
        Some(protocol.trim_matches('"') == "https")
    };
    let by_habit = || Some(first("x-forwarded-proto")? == "https");
    by_standard()
        .or_else(by_habit)
        .unwrap_or_else(|| uri.scheme() == Some(&http::uri::Scheme::HTTPS))
}

/// The token's text, and its signature where there is a key.
fn seal(token: Token, keys: &[String]) -> String {
    let text = token.to_string();
    match keys.first() {
        Some(key) => format!("{text}~{}", hex(&mac(key, &text).finalize().into_bytes())),
        None => text,
    }
}

/// The token of a text, if it is one and, where there are keys, signed with one of them.
fn open(text: &str, keys: &[String]) -> Option<Token> {
    let (text, signature) = match text.split_once('~') {
        Some((text, signature)) => (text, Cow::Owned(unhex(signature)?)),
        None => (text, Cow::Borrowed(&[][..])),
    };
    let signed = keys.iter().any(|key| mac(key, text).verify_slice(&signature).is_ok());
    if !keys.is_empty() && !signed {
        return None;
    }
    text.parse().ok()
}

fn mac(key: &str, text: &str) -> Hmac<Sha256> {
    // A key of any length will do.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes())
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    // So that what is signed here can pass for nothing else that the key signs.
    mac.update(b"flautino token ");
    mac.update(text.as_bytes());
    mac
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// A short name for a text: FNV-1a, 64 bits.
fn fold(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("{name} {name} {name} {name}")).collect()
    }

    fn token() -> Token {
        flautino::router::Position::new(7, 2, flautino::router::Lsn(0x38e_8a00)).into()
    }

    #[test]
    fn a_signed_token_is_opened_by_every_key_in_use_and_by_no_other() {
        let sealed = seal(token(), &keys(&["old"]));
        assert_eq!(open(&sealed, &keys(&["old"])), Some(token()));
        assert_eq!(open(&sealed, &keys(&["new", "old"])), Some(token()));
        assert_eq!(open(&sealed, &keys(&["new"])), None);
        assert_eq!(open(&token().to_string(), &keys(&["new"])), None);
    }

    #[test]
    fn any_change_of_a_signed_token_is_noticed() {
        let sealed = seal(token(), &keys(&["key"]));
        for at in 0..sealed.len() {
            for with in ["0", "1", "f", "~", ""] {
                let mut text = sealed.clone();
                text.replace_range(at..=at, with);
                assert!(text == sealed || open(&text, &keys(&["key"])).is_none(), "{text}");
            }
            assert_eq!(open(&sealed[..at], &keys(&["key"])), None);
        }
        assert_eq!(open(&format!("{sealed}00"), &keys(&["key"])), None);
    }

    #[test]
    fn without_a_key_any_token_is_taken_and_nothing_else() {
        assert_eq!(open(&token().to_string(), &[]), Some(token()));
        // One that was signed while there was a key.
        assert_eq!(open(&seal(token(), &keys(&["key"])), &[]), Some(token()));
        for text in [
            "",
            "~",
            "1.2.3",
            "ä",
            "1.6b030bd34f021f2b.2.38e8a00~zz",
            "1.6b030bd34f021f2b.2.38e8a00~0",
        ] {
            assert_eq!(open(text, &[]), None, "{text}");
        }
    }

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
