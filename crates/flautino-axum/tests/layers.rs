//! The layers of the crate: no module imports one beside it or above it, and no two files import each
//! other, not even over a third one.
//!
//! | layer | modules | may import |
//! |---|---|---|
//! | the public names | `lib` | both layers below |
//! | what an app uses | `serve`, `layer`, `extract`, `status` | the layer below |
//! | what these share | `context`, `token`, `error` | nothing of the crate |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "layers/imports.rs"]
mod imports;

use std::path::Path;

use imports::{Sources, circles, imports, not_allowed, read};

/// Which module may import which others, apart from its own files. Those that are not listed: none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("lib", &["serve", "layer", "extract", "status", "token", "error"]),
    ("layer", &["context", "token"]),
    ("extract", &["context"]),
];

fn sources() -> Sources {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 10, "{:?}", sources.keys());
    sources
}

/// The crate as it is, with a line more at the end of one file.
fn with(file: &str, line: &str) -> Sources {
    let mut sources = sources();
    sources.entry(file.to_owned()).or_default().push_str(line);
    sources
}

#[test]
fn no_file_imports_one_of_a_layer_above() {
    assert_eq!(not_allowed(&imports(&sources()), ALLOWED), [""; 0]);
}

#[test]
fn there_is_no_circle() {
    assert_eq!(circles(&imports(&sources())), [""; 0]);
}

#[test]
fn an_arrow_that_is_added_is_seen_however_it_is_written() {
    for line in [
        "use crate::layer::EngineLayer;",
        "use crate::{token::RequestTokens, layer::{EngineLayer, EngineService}};",
        "use super::layer::EngineLayer;",
        "fn f() -> crate::layer::EngineLayer { todo!() }",
        "mod inner { use crate::layer::*; }",
    ] {
        let imports = imports(&with("context.rs", line));
        let found = not_allowed(&imports, ALLOWED);
        assert!(found.contains(&"context.rs imports layer.rs".to_owned()), "{line}: {found:?}");
        assert_eq!(circles(&imports), ["context.rs", "layer.rs", "layer/future.rs"], "{line}");
    }
}

#[test]
fn a_circle_inside_of_a_module_is_seen() {
    for line in ["use super::EngineLayer;", "use super::{server_timing, EngineLayer};"] {
        let imports = imports(&with("layer/future.rs", line));
        assert_eq!(not_allowed(&imports, ALLOWED), [""; 0], "{line}");
        assert_eq!(circles(&imports), ["layer.rs", "layer/future.rs"], "{line}");
    }
}

#[test]
fn comments_visibility_and_unit_tests_are_no_imports() {
    for line in [
        "// use crate::layer::EngineLayer;",
        "fn f() {} // as crate::layer::EngineLayer does",
        "pub(in crate::layer) fn f() {}",
        "#[cfg(test)]\nmod tests {\n    use crate::layer::EngineLayer;\n}\n",
        "#[cfg(test)]\nuse crate::layer::EngineLayer;\n",
    ] {
        assert_eq!(imports(&with("context.rs", line)), imports(&sources()), "{line}");
    }
}

#[test]
fn what_follows_a_unit_test_is_read_again() {
    let line = "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse crate::layer::EngineLayer;\n";
    assert_eq!(
        circles(&imports(&with("context.rs", line))),
        ["context.rs", "layer.rs", "layer/future.rs"]
    );
}
