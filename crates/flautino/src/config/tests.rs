//! The guide's page on operating has each key of the configuration with its default, and no other.

use std::collections::BTreeSet;

use super::settings::Settings;
use super::{DiscoveryConfig, EngineConfig, PoolConfig, RoutingConfig};

const PAGE: &str = include_str!("../../docs/guide/operating.md");

/// The keys of the page's tables of settings, each with the text of its default.
fn rows() -> Vec<(&'static str, &'static str)> {
    let mut rows = Vec::new();
    let mut in_table = false;
    for line in PAGE.lines() {
        in_table = line.starts_with("| key | default |") || (in_table && line.starts_with('|'));
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        if in_table
            && let (Some(key), Some(default)) = (cells.next(), cells.next())
            && let Some(key) = code(key)
        {
            rows.push((key, default));
        }
    }
    rows
}

/// What stands between backquotes, if that is all there is.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|inner| !inner.contains('`'))
}

#[test]
fn each_key_stands_in_the_guide_once_and_no_other_does() {
    // Exhaustive, so that a new key cannot be forgotten here.
    let DiscoveryConfig { host: _, port: _, interval: _ } = DiscoveryConfig::new("");
    let of = |table: &str, keys: &[&str]| -> Vec<String> {
        keys.iter().map(|key| format!("{table}{key}")).collect()
    };
    let keys = [
        of("", &EngineConfig::keys()),
        of("pool.", &PoolConfig::keys()),
        of("routing.", &RoutingConfig::keys()),
        of("discovery.", &["host", "port", "interval"]),
    ]
    .concat();
    let there: Vec<_> = rows().into_iter().map(|(key, _)| key.to_owned()).collect();
    let [wanted, given] = [&keys, &there].map(|keys| keys.iter().collect::<BTreeSet<_>>());
    let missing: Vec<_> = wanted.difference(&given).collect();
    let unknown: Vec<_> = given.difference(&wanted).collect();
    assert!(missing.is_empty(), "add to docs/guide/operating.md: {missing:?}");
    assert!(unknown.is_empty(), "remove from docs/guide/operating.md: {unknown:?}");
    assert_eq!(there.len(), given.len(), "a key stands there twice: {there:?}");
}

#[test]
fn the_defaults_in_the_guide_are_those_of_the_code() {
    let is_toml = |text: &str| toml::from_str::<toml::Table>(text).is_ok();
    let lines = rows().into_iter().filter_map(|(key, default)| {
        Some(format!("{key} = {}", code(default)?)).filter(|line| is_toml(line))
    });
    let lines: Vec<_> = lines.collect();
    let read = |lines: &str| {
        EngineConfig::from_toml(&format!("host = 'main'\ndiscovery.host = 'replicas'\n{lines}"))
    };
    assert_eq!(read(&lines.join("\n")).unwrap(), read("").unwrap());
    // The others are tables, or follow the environment, sqlx or the build.
    assert!(lines.len() * 2 > rows().len(), "{lines:?}");
}

#[test]
fn the_guide_s_configurations_are_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide");
    let mut count = 0;
    for page in std::fs::read_dir(folder).unwrap().map(|page| page.unwrap().path()) {
        let text = std::fs::read_to_string(&page).unwrap();
        let blocks =
            text.split("\n```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for block in blocks.filter(|block| !block.starts_with("[dependencies]")) {
            let origin = page.display().to_string();
            let mut config = EngineConfig::parse_unchecked(block, &origin).unwrap();
            // Some show other keys alone.
            config.main.host.get_or_insert("main".to_owned());
            config.validate(&origin).unwrap();
            count += 1;
        }
    }
    assert!(count > 0);
}
