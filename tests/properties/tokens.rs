//! A token's text.

use flautino::Token;
use flautino_lab::{bare, summed};
use proptest::prelude::*;

use crate::common::{cases, mutated};

/// A valid token's text.
pub(crate) fn valid() -> impl Strategy<Value = String> {
    let at = (any::<u64>(), any::<u32>(), any::<u64>())
        .prop_map(|(system, timeline, lsn)| format!("1.{system:x}.{timeline:x}.{lsn:x}"));
    let until = any::<u64>().prop_map(|seconds| format!("1.until.{seconds:x}"));
    prop_oneof![3 => at, 1 => until].prop_map(|text| summed(&text))
}

/// Some of them, for [`mutated`].
pub(crate) fn some() -> Vec<String> {
    let texts = ["1.6b030bd34f021f2b.2.38e8a00", "1.0.0.0", "1.until.6a000000", "1.until.0"];
    let most = format!("1.{:x}.{:x}.{:x}", u64::MAX, u32::MAX, u64::MAX);
    texts.into_iter().map(str::to_owned).chain([most]).map(|text| summed(&text)).collect()
}

pub(crate) const PIECES: &[&str] =
    &[".", "1.", "until", "0", "f", "-", "+", "0x", " ", "\0", "ä", ";", ",", "=", "\"", "%2e"];

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_valid_token_is_read_and_written_as_it_was(text in valid()) {
        let token: Token = text.parse().unwrap();
        prop_assert_eq!(token.to_string(), &*text);
        let json = serde_json::to_string(&token).unwrap();
        prop_assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), token);
    }

    #[test]
    fn what_is_read_is_written_the_same(text in prop_oneof![
        any::<String>(),
        mutated(some(), PIECES, 4),
        mutated(some(), PIECES, 4).prop_map(|text| match text.contains('.') {
            true => summed(bare(&text)),
            false => summed(&text),
        }),
    ]) {
        if let Ok(token) = text.parse::<Token>() {
            prop_assert_eq!(token.to_string(), &*text);
        }
        let json = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<Token>(&json).is_ok(), text.parse::<Token>().is_ok());
    }

    #[test]
    fn one_wrong_character_is_noticed(
        text in valid(), at in any::<prop::sample::Index>(), other in "[0-9a-z.]",
    ) {
        let at = at.index(text.len());
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        prop_assert_eq!(changed.parse::<Token>().is_ok(), changed == text);
    }

    #[test]
    fn a_token_that_lost_its_end_is_noticed(text in valid(), at in any::<prop::sample::Index>()) {
        prop_assert!(text[..at.index(text.len())].parse::<Token>().is_err());
    }
}
