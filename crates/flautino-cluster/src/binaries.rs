//! Where PostgreSQL's programs are.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::ClusterError;

/// The programs that a folder must hold to be used.
const NEEDED: [&str; 3] = ["initdb", "postgres", "pg_ctl"];
/// The first version with `wal_keep_size`, and with a `primary_conninfo` that a reload changes.
const MIN_MAJOR: u32 = 13;

/// A folder with PostgreSQL's programs.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    /// The folder that was named, else the one of `FLAUTINO_PG_BIN`, else what the machine has.
    pub(crate) fn find(named: Option<&Path>) -> Result<Self, ClusterError> {
        if let Some(dir) = named {
            return Self::named(dir);
        }
        if let Some(dir) = in_environment() {
            return Self::named(Path::new(&dir));
        }
        Self::search(
            &std::env::var_os("PATH").unwrap_or_default(),
            &[
                ("/usr/lib/postgresql", "", "bin"),
                ("/usr", "pgsql-", "bin"),
                ("/opt/homebrew/opt", "postgresql", "bin"),
                ("/usr/local/opt", "postgresql", "bin"),
            ],
        )
    }

    /// Whether the user named a folder, here or in the environment.
    #[cfg(feature = "embedded")]
    pub(crate) fn are_named(named: Option<&Path>) -> bool {
        named.is_some() || in_environment().is_some()
    }

    /// Whether the folder holds all programs that are needed.
    pub(crate) fn are_in(dir: &Path) -> bool {
        NEEDED.iter().all(|name| dir.join(name).is_file())
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    #[cfg(feature = "patroni")]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn major(&self) -> u32 {
        self.major
    }

    pub(crate) fn named(dir: &Path) -> Result<Self, ClusterError> {
        let missing: Vec<_> = NEEDED.into_iter().filter(|name| !dir.join(name).is_file()).collect();
        if missing.is_empty() {
            // Absolute, since programs are run from another folder.
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            Self::with_version(dir)
        } else {
            Err(ClusterError::IncompleteBinaries { dir: dir.to_owned(), missing })
        }
    }

    /// PATH first, then the folder that `pg_config` names, then the newest of the usual folders. Each
    /// of those is given as a parent, the beginning of a child's name, and a folder in that child.
    fn search(path: &OsStr, usual: &[(&str, &str, &str)]) -> Result<Self, ClusterError> {
        let mut search = Search::default();
        let found = search.path(path).or_else(|| search.pg_config(path));
        let found = found.or_else(|| search.newest_of(usual));
        found.ok_or_else(|| {
            search.too_old.unwrap_or(ClusterError::NoBinaries { searched: search.searched })
        })
    }

    fn with_version(dir: PathBuf) -> Result<Self, ClusterError> {
        let version = first_line(&dir.join("postgres"), "--version");
        let version = version.unwrap_or_else(|| "nothing: it does not run here".to_owned());
        match major(&version) {
            Some(major) if major >= MIN_MAJOR => Ok(Self { dir, major }),
            _ => Err(ClusterError::UnsupportedVersion { dir, version }),
        }
    }
}

/// A search of the machine, with what an error is to tell.
#[derive(Default)]
struct Search {
    searched: Vec<String>,
    /// Why a folder with all programs was not taken.
    too_old: Option<ClusterError>,
}

impl Search {
    fn path(&mut self, path: &OsStr) -> Option<Binaries> {
        for dir in folders(path) {
            // Some systems link only a few of the programs into PATH; the link leads to all of them.
            let initdb = dir.join("initdb");
            let real = initdb.canonicalize().unwrap_or(initdb);
            let real = real.parent().map(Path::to_owned).unwrap_or_default();
            if let Some(found) = self.accept(real).or_else(|| self.accept(dir)) {
                return Some(found);
            }
        }
        self.searched.push(format!("PATH ({})", path.to_string_lossy()));
        None
    }

    fn pg_config(&mut self, path: &OsStr) -> Option<Binaries> {
        let first = folders(path).find_map(|dir| first_line(&dir.join("pg_config"), "--bindir"))?;
        let found = self.accept(PathBuf::from(&first));
        self.searched.push(format!("{first} (pg_config --bindir)"));
        found
    }

    fn newest_of(&mut self, usual: &[(&str, &str, &str)]) -> Option<Binaries> {
        let mut newest: Option<Binaries> = None;
        for (parent, prefix, leaf) in usual {
            self.searched.push(format!("{parent}/{prefix}*/{leaf}"));
            for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                if !entry.file_name().to_string_lossy().starts_with(prefix) {
                    continue;
                }
                if let Some(found) = self.accept(entry.path().join(leaf))
                    && newest.as_ref().is_none_or(|best| best.major < found.major)
                {
                    newest = Some(found);
                }
            }
        }
        newest
    }

    /// Takes the folder if it holds all programs, of a version that is new enough.
    fn accept(&mut self, dir: PathBuf) -> Option<Binaries> {
        if !Binaries::are_in(&dir) {
            return None;
        }
        Binaries::with_version(dir).map_err(|error| self.too_old = Some(error)).ok()
    }
}

/// The folder that the environment names.
fn in_environment() -> Option<OsString> {
    std::env::var_os("FLAUTINO_PG_BIN").filter(|dir| !dir.is_empty())
}

/// The absolute folders in PATH.
fn folders(path: &OsStr) -> impl Iterator<Item = PathBuf> {
    std::env::split_paths(path).filter(|dir| dir.is_absolute())
}

/// The major version in `postgres (PostgreSQL) 15.8 (Debian 15.8-1)`, `… 18beta1`.
fn major(version: &str) -> Option<u32> {
    let (_, number) = version.split_once("(PostgreSQL) ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit());
    number[..digits.unwrap_or(number.len())].parse().ok()
}

fn first_line(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fake(dir: &Path, version: &str) {
        std::fs::create_dir_all(dir).unwrap();
        for name in NEEDED {
            let file = dir.join(name);
            let said = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n");
            std::fs::write(&file, said).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        }
        // Another test's child may hold it open for writing until its exec ("text file busy").
        while first_line(&dir.join("postgres"), "--version").is_none() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn nothing_found_says_where_it_looked_and_what_to_install() {
        let error = Binaries::search("/nowhere/bin".as_ref(), &[("/nowhere/lib", "", "bin")]);
        let text = error.unwrap_err().to_string();
        for part in [
            "PATH (/nowhere/bin)",
            "/nowhere/lib/*/bin",
            "apt-get install postgresql",
            "dnf install postgresql-server",
            "brew install postgresql",
            "FLAUTINO_PG_BIN",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn a_named_folder_without_programs_says_which() {
        let empty = tempfile::tempdir().unwrap();
        let text = Binaries::find(Some(empty.path())).unwrap_err().to_string();
        assert!(text.contains("initdb, postgres, pg_ctl"), "{text}");
    }

    #[test]
    fn the_newest_of_the_usual_folders_is_taken() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9.6.1", "13.2", "16.1", "14.9"] {
            fake(&root.path().join(version).join("bin"), version);
        }
        let usual = [(root.path().to_str().unwrap(), "", "bin")];
        assert_eq!(Binaries::search("".as_ref(), &usual).unwrap().major(), 16);
    }

    #[test]
    fn a_link_in_the_path_leads_to_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("lib/bin");
        fake(&real, "17beta2 (home-made)");
        let bin = root.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(real.join("initdb"), bin.join("initdb")).unwrap();
        let found = Binaries::search(bin.as_os_str(), &[]).unwrap();
        assert_eq!(found.dir, real.canonicalize().unwrap());
        assert_eq!(found.major(), 17);
    }

    #[test]
    fn only_an_old_version_is_refused_by_its_number() {
        let root = tempfile::tempdir().unwrap();
        fake(&root.path().join("old/bin"), "12.4");
        let usual = [(root.path().to_str().unwrap(), "", "bin")];
        let text = Binaries::search("".as_ref(), &usual).unwrap_err().to_string();
        assert!(text.contains("12.4") && text.contains("13 or newer"), "{text}");
    }
}
