//! A token's text is read or refused, and what is read is written the same.
#![no_main]

use flautino::Token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string(), text);
    }
});
