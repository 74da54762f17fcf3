//! The token as text, signed where there is a key, so that a client cannot make up one of its own.

use std::borrow::Cow;

use flautino::Token;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Returns the token's text, followed by `~` and a signature with the first key if there is one.
pub(super) fn sign(token: Token, keys: &[String]) -> String {
    let text = token.to_string();
    match keys.first() {
        Some(key) => format!("{text}~{}", hex(&mac(key, &text).finalize().into_bytes())),
        None => text,
    }
}

/// Returns the token of a text, if it is one and signed with one of the keys. Without keys a
/// signature is not looked at.
pub(super) fn verify(text: &str, keys: &[String]) -> Option<Token> {
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
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes())
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    // The prefix keeps a token's signature from passing for that of anything else the app signs with
    // the same key.
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
    fn a_signed_token_is_verified_by_every_key_in_use_and_by_no_other() {
        let signed = sign(token(), &keys(&["old"]));
        assert_eq!(verify(&signed, &keys(&["old"])), Some(token()));
        assert_eq!(verify(&signed, &keys(&["new", "old"])), Some(token()));
        assert_eq!(verify(&signed, &keys(&["new"])), None);
        assert_eq!(verify(&token().to_string(), &keys(&["new"])), None);
    }

    #[test]
    fn any_change_of_a_signed_token_is_noticed() {
        let signed = sign(token(), &keys(&["key"]));
        for at in 0..signed.len() {
            for with in ["0", "1", "f", "~", ""] {
                let mut text = signed.clone();
                text.replace_range(at..=at, with);
                assert!(text == signed || verify(&text, &keys(&["key"])).is_none(), "{text}");
            }
            assert_eq!(verify(&signed[..at], &keys(&["key"])), None);
        }
        assert_eq!(verify(&format!("{signed}00"), &keys(&["key"])), None);
    }

    #[test]
    fn without_a_key_any_token_is_taken_and_nothing_else() {
        assert_eq!(verify(&token().to_string(), &[]), Some(token()));
        // One that was signed while there was a key.
        assert_eq!(verify(&sign(token(), &keys(&["key"])), &[]), Some(token()));
        for text in [
            "",
            "~",
            "1.2.3",
            "ä",
            "1.6b030bd34f021f2b.2.38e8a00~zz",
            "1.6b030bd34f021f2b.2.38e8a00~0",
        ] {
            assert_eq!(verify(text, &[]), None, "{text}");
        }
    }
}
