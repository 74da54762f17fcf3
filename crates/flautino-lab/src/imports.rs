//! Which file of a crate imports which other file, as its source says.
//!
//! An import is a path from `crate`, `super`, `self` or a child module, in a `use` or elsewhere.
//! Comments and `#[cfg(test)]` items do not count. The layout is taken to be that of rustfmt.

use std::collections::{BTreeMap, BTreeSet};
use std::{fs, path::Path};

/// Each file's text, by its path below `src`.
pub type Sources = BTreeMap<String, String>;
/// The files that each file imports.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// Reads all files below `src`, except unit tests in files of their own.
#[must_use]
pub fn read(src: &Path) -> Sources {
    let (mut folders, mut sources) = (vec![src.to_owned()], Sources::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                let name = path.strip_prefix(src).unwrap().display().to_string();
                sources.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    sources
}

/// Returns for each file the files that it imports.
#[must_use]
pub fn imports(sources: &Sources) -> Imports {
    let files: BTreeMap<_, _> = sources.keys().map(|file| (module(file), file)).collect();
    let of = |(file, text): (&String, &String)| {
        // The longest prefix that is a file. `std::fmt` passes for something of the file itself.
        let owner = |path: &str| {
            let path = absolute(file, path);
            (0..=path.len()).rev().find_map(|end| files.get(&path[..end]).copied())
        };
        let code = without_groups(code(text));
        let paths = code.split(|c| !in_path(c)).filter(|path| path.contains("::"));
        let owners = paths.filter_map(owner).filter(|owner| *owner != file);
        (file.clone(), owners.cloned().collect())
    };
    sources.iter().map(of).collect()
}

/// Returns the imports from one top-level module into another that the table does not name.
#[must_use]
pub fn not_allowed(imports: &Imports, table: &[(&str, &[&str])]) -> Vec<String> {
    let top = |file: &str| file.split(['/', '.']).next().unwrap_or_default().to_owned();
    let named = |from: &str, to: &str| table.iter().any(|(f, may)| *f == from && may.contains(&to));
    let all = imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to)));
    let wrong = all.filter(|(from, to)| top(from) != top(to) && !named(&top(from), &top(to)));
    wrong.map(|(from, to)| format!("{from} imports {to}")).collect()
}

/// Returns the files that are in a circle, or on a way from one circle to another.
#[must_use]
pub fn circles(imports: &Imports) -> Vec<String> {
    let mut left = imports.clone();
    // A file that imports none of those left, or that none of those imports, is in no circle.
    let is_imported = |file: &str, left: &Imports| left.values().any(|to| to.contains(file));
    let is_outside = |file: &str, left: &Imports| left[file].is_empty() || !is_imported(file, left);
    while let Some(file) = left.keys().find(|file| is_outside(file, &left)).cloned() {
        left.remove(&file);
        left.values_mut().for_each(|imported| imported.retain(|to| *to != file));
    }
    left.into_keys().collect()
}

/// Returns the sources with a line more at the end of one file, which is made where it is not there.
#[must_use]
pub fn with(mut sources: Sources, file: &str, line: &str) -> Sources {
    sources.entry(file.to_owned()).or_default().push_str(line);
    sources
}

/// The names in a file's module path: `extract`, `db` of `extract/db.rs`, none of `lib.rs`.
fn module(file: &str) -> Vec<String> {
    let names = file.trim_end_matches(".rs").split('/');
    names.filter(|name| !["lib", "main", "mod"].contains(name)).map(str::to_owned).collect()
}

/// The path from the crate's root, for one that is written in a file.
fn absolute(file: &str, path: &str) -> Vec<String> {
    let mut names = module(file);
    for name in path.split("::") {
        match name {
            "crate" => names.clear(),
            "super" => drop(names.pop()),
            "self" => {}
            name => names.push(name.to_owned()),
        }
    }
    names
}

/// The code of a text, without visibilities such as `pub(in crate::router)`.
fn code(text: &str) -> String {
    let (mut code, mut test_item) = (String::new(), None);
    for line in text.lines() {
        let (line, indent) = (line.trim(), line.len() - line.trim_start().len());
        if let Some(outer) = test_item {
            let ends = indent == outer && (line.starts_with('}') || line.ends_with(';'));
            test_item = Some(outer).filter(|_| !ends);
        } else if line.starts_with("#[cfg(test)]") {
            test_item = Some(indent);
        } else if !line.starts_with("//") {
            code.extend([line.split(" //").next().unwrap_or_default(), " "]);
        }
    }
    code.replace("(in crate::", "(")
}

fn in_path(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == ':'
}

/// Writes `crate::{a::B, c::{D, E}}` as `crate::a::B,crate::c::D,crate::c::E`.
fn without_groups(mut code: String) -> String {
    // The last group that opens has no other one inside.
    while let Some(open) = code.rfind("::{") {
        let end = open + code[open..].find('}').unwrap();
        let start = code[..open].trim_end_matches(in_path).len();
        let items = code[open + 3..end].split(',').map(|item| item.trim_matches([' ', '{']));
        let paths: Vec<_> = items.map(|item| format!("{}::{item}", &code[start..open])).collect();
        code.replace_range(start..=end, &paths.join(","));
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[(&str, &[&str])] = &[("lib", &["layer"]), ("layer", &["context"])];

    /// Two layers: `layer`, which has a file of its own, above `context`.
    fn two_layers(file: &str, line: &str) -> Imports {
        let files = [
            ("lib.rs", "mod context;\nmod layer;\npub use self::layer::Layer;\n"),
            ("layer.rs", "mod future;\nuse self::future::Future;\nuse crate::context::Context;\n"),
            ("layer/future.rs", "use crate::context::Context;\n"),
            ("context.rs", "use std::fmt;\n"),
        ];
        let sources = files.map(|(file, text)| (file.to_owned(), text.to_owned())).into();
        imports(&with(sources, file, line))
    }

    #[test]
    fn imports_of_layers_below_are_allowed() {
        let imports = two_layers("lib.rs", "");
        assert_eq!(not_allowed(&imports, ALLOWED), [""; 0]);
        assert_eq!(circles(&imports), [""; 0]);
    }

    #[test]
    fn an_arrow_upwards_is_seen_however_it_is_written() {
        for line in [
            "use crate::layer::Layer;",
            "use crate::{context::Context, layer::{Layer, Service}};",
            "use super::layer::Layer;",
            "fn f() -> crate::layer::Layer { todo!() }",
            "mod inner { use crate::layer::*; }",
            "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse crate::layer::Layer;\n",
        ] {
            let imports = two_layers("context.rs", line);
            let found = not_allowed(&imports, ALLOWED);
            assert!(found.contains(&"context.rs imports layer.rs".to_owned()), "{line}: {found:?}");
            assert_eq!(circles(&imports), ["context.rs", "layer.rs", "layer/future.rs"], "{line}");
        }
    }

    #[test]
    fn a_circle_of_a_module_with_its_own_file_is_seen() {
        for line in ["use super::Layer;", "use super::{other, Layer};"] {
            let imports = two_layers("layer/future.rs", line);
            assert_eq!(not_allowed(&imports, ALLOWED), [""; 0], "{line}");
            assert_eq!(circles(&imports), ["layer.rs", "layer/future.rs"], "{line}");
        }
    }

    #[test]
    fn comments_visibility_and_unit_tests_are_no_imports() {
        for line in [
            "// use crate::layer::Layer;",
            "fn f() {} // as crate::layer::Layer does",
            "pub(in crate::layer) fn f() {}",
            "#[cfg(test)]\nmod tests {\n    use crate::layer::Layer;\n}\n",
            "#[cfg(test)]\nuse crate::layer::Layer;\n",
        ] {
            assert_eq!(two_layers("context.rs", line), two_layers("lib.rs", ""), "{line}");
        }
    }
}
