//! SQL is a read or a write, the first time and when it is known.
#![no_main]

use std::sync::LazyLock;

use flautino::{Access, Engine, EngineConfig};
use libfuzzer_sys::fuzz_target;

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let text = "host = \"127.0.0.1\"\n[extra_nodes.replica]\nhost = \"127.0.0.1\"\n";
    let config = EngineConfig::from_toml(text).expect("a valid configuration");
    Engine::new(config).expect("a valid configuration")
});

fuzz_target!(|sql: &str| {
    let access = ENGINE.access(sql);
    assert_eq!(ENGINE.access(sql), access);
    // Whatever comes first, a second statement that writes makes it a write.
    let both = format!("{sql}\n;\nDROP TABLE notes");
    let hides = sql.contains(['\'', '"', '$']) || sql.contains("/*");
    assert!(hides || ENGINE.access(&both) == Access::Write);
});
