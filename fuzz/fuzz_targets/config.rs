//! A configuration is read or refused, and what is read makes an engine.
#![no_main]

use flautino::{Engine, EngineConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match EngineConfig::from_toml(text) {
        Ok(config) => {
            let _ = format!("{config:?}");
            assert!(Engine::new(config).is_ok());
        }
        Err(error) => drop(error.to_string()),
    }
});
