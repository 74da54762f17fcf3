//! The guide: no example of it goes uncompiled.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const CORE: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(CORE).join(path)).unwrap()
}

/// The names in the call of `chapters!`, each with whether an attribute stands before it.
fn chapters(file: &str) -> Vec<(String, bool)> {
    let text = read(file);
    let list = text.split("chapters! {").nth(1).unwrap().split('}').next().unwrap();
    let lines: Vec<_> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let names = lines.iter().enumerate().filter_map(|(at, line)| {
        let has_attribute = at > 0 && lines[at - 1].starts_with("#[");
        Some((line.strip_suffix(',')?.to_owned(), has_attribute))
    });
    names.collect()
}

#[test]
fn the_examples_of_each_chapter_are_compiled_here_or_by_the_axum_crate() {
    let all = chapters("src/guide.rs");
    let left_out = all.iter().filter(|(_, has_attribute)| *has_attribute);
    let left_out: BTreeSet<_> = left_out.map(|(name, _)| name.clone()).collect();
    let elsewhere = chapters("../flautino-axum/src/lib.rs").into_iter().map(|(name, _)| name);
    assert_eq!(left_out, elsewhere.collect());

    let pages = fs::read_dir(Path::new(CORE).join("docs/guide")).unwrap();
    let pages = pages.map(|page| page.unwrap().path().file_stem().unwrap().to_owned());
    let pages: BTreeSet<_> = pages.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(pages, all.into_iter().map(|(name, _)| name).collect());
    for page in pages {
        assert!(!read(&format!("docs/guide/{page}.md")).contains("ignore\n"), "{page}");
    }
}
