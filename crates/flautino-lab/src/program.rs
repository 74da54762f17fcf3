//! Programs that some tests need and not every machine has.

use std::path::PathBuf;

/// Where a program is installed. `None`, and a line that says so, where it is not, which fails under
/// `CI=true`.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!is_ci, "{name} is not installed, and CI needs it");
        println!("skipped: {name} is not installed");
    }
    found
}
