//! The layers of the crate: no module imports one beside it or above it, and no two files import each
//! other, not even over a third one.
//!
//! | layer | modules | may import |
//! |---|---|---|
//! | the public names | `lib` | all layers below |
//! | what an app uses | `serve`, `layer`, `extract`, `status` | the layers below |
//! | what these share | `context`, `token`, `error` | the layer below |
//! | the rest | `settings`, `name` | nothing of the crate |

use std::path::Path;

use flautino_lab::imports::{Imports, circles, imports, not_allowed, read, with};

/// Which module may import which others, apart from its own files. Those that are not listed: none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("lib", &["serve", "layer", "extract", "status", "token", "error", "name"]),
    ("layer", &["context", "token", "error", "settings", "name"]),
    ("extract", &["context", "name"]),
    ("context", &["settings"]),
    ("token", &["name"]),
];

/// The crate's imports, with a line more at the end of one file.
fn imports_with(file: &str, line: &str) -> Imports {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 10, "{:?}", sources.keys());
    imports(&with(sources, file, line))
}

#[test]
fn no_file_imports_one_of_a_layer_above_and_there_is_no_circle() {
    let imports = imports_with("lib.rs", "");
    assert_eq!(not_allowed(&imports, ALLOWED), [""; 0]);
    assert_eq!(circles(&imports), [""; 0]);
}

#[test]
fn an_arrow_upwards_that_is_added_is_seen() {
    let imports = imports_with("context.rs", "use crate::layer::EngineLayer;");
    assert_eq!(not_allowed(&imports, ALLOWED), ["context.rs imports layer.rs"]);
    assert_eq!(circles(&imports), ["context.rs", "layer.rs", "layer/future.rs"]);
}

#[test]
fn a_circle_inside_of_a_module_is_seen() {
    let imports = imports_with("layer/future.rs", "use super::EngineLayer;");
    assert_eq!(not_allowed(&imports, ALLOWED), [""; 0]);
    assert_eq!(circles(&imports), ["layer.rs", "layer/future.rs"]);
}
