//! Running PostgreSQL's programs: as whom, in what environment, and to their end.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User};

use crate::binaries::Binaries;
use crate::error::{ClusterError, Step, tail};
use crate::process;

/// The user that root becomes for PostgreSQL, which refuses to run as root.
#[derive(Debug, Clone)]
pub(crate) struct Unprivileged {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Unprivileged {
    /// `None` when this process is not root, and runs the programs as its own user.
    pub(crate) fn needed() -> Result<Option<Self>, ClusterError> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let known = |name| User::from_name(name).ok().flatten();
        let user = known("postgres").or_else(|| known("nobody"));
        let user = user.ok_or_else(|| {
            let fix = "PostgreSQL refuses to run as root, and there is neither a user postgres nor \
                       nobody to run it as; create one of them";
            ClusterError::Invalid(fix.to_owned())
        })?;
        Ok(Some(Self { name: user.name, uid: user.uid, gid: user.gid }))
    }

    /// Checks that the user can reach the folder; else a program would fail with an obscure message.
    pub(crate) fn check_reach(&self, dir: &Path) -> Result<(), ClusterError> {
        for ancestor in dir.ancestors() {
            let meta = fs::metadata(ancestor).step(|| format!("look at {}", ancestor.display()))?;
            let shift = if meta.uid() == self.uid.as_raw() {
                6
            } else if meta.gid() == self.gid.as_raw() {
                3
            } else {
                0
            };
            if meta.permissions().mode() >> shift & 1 == 0 {
                return Err(ClusterError::Invalid(format!(
                    "PostgreSQL runs as the user {} since it refuses root, and {} does not let \
                     that user through; set TMPDIR to a folder that does, such as /tmp",
                    self.name,
                    ancestor.display()
                )));
            }
        }
        Ok(())
    }
}

/// Runs PostgreSQL's programs.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) binaries: Binaries,
    /// The user that they run as, where that is not this process's own.
    pub(crate) user: Option<Unprivileged>,
}

impl Runner {
    /// A program in `dir`, with nothing of the caller's own settings for such programs around it.
    pub(crate) fn command(&self, program: &str, dir: &Path) -> Command {
        self.command_of(&self.binaries.program(program), dir)
    }

    /// As [`command`](Self::command), for a program that is not PostgreSQL's own.
    pub(crate) fn command_of(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        // In a process group of its own, so that a Ctrl-C in the terminal does not end it before its
        // owner's drop does.
        command.current_dir(dir).stdin(Stdio::null()).process_group(0);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["PG", "PATRONI", "ETCD"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("HOME", dir);
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Runs a program to its end. Dropped half-way, it kills the program and what that has started.
    pub(crate) async fn run(
        &self,
        node: &str,
        program: &'static str,
        arguments: &[&str],
        (dir, output): (&Path, &Path),
        bound: Duration,
    ) -> Result<(), ClusterError> {
        let deadline = Instant::now() + bound;
        let file = File::create(output).step(|| format!("create {}", output.display()))?;
        let copy = file.try_clone().step(|| format!("open {}", output.display()))?;
        let mut command = self.command(program, dir);
        command.args(arguments).stdout(file).stderr(copy);
        let mut running = Running(command.spawn().step(|| format!("run {program} for {node}"))?);
        loop {
            match running.0.try_wait().step(|| format!("wait for {program}"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let (node, output) = (node.to_owned(), tail(output));
                    return Err(ClusterError::Program { program, node, status, output });
                }
                None if Instant::now() >= deadline => {
                    return Err(ClusterError::Timeout {
                        node: node.to_owned(),
                        step: format!("finish {program}"),
                        waited: bound,
                        log: tail(output),
                    });
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Makes the user that the programs run as the owner of a folder or file.
    pub(crate) fn change_owner(&self, path: &Path) -> Result<(), ClusterError> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        nix::unistd::chown(path, Some(user.uid), Some(user.gid))
            .map_err(std::io::Error::from)
            .step(|| format!("give {} to the user {}", path.display(), user.name))
    }

    /// Writes a file that belongs to the user that the programs run as.
    pub(crate) fn write(&self, path: &Path, text: &str) -> Result<(), ClusterError> {
        fs::write(path, text).step(|| format!("write {}", path.display()))?;
        self.change_owner(path)
    }

    /// Replaces a file, at once, by one that only the user that the programs run as can read.
    pub(crate) fn replace_private(&self, path: &Path, text: &str) -> Result<(), ClusterError> {
        let new = path.with_added_extension("new");
        self.write(&new, text)?;
        let step = || format!("write {}", path.display());
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).step(step)?;
        fs::rename(&new, path).step(step)
    }

    /// Makes a folder that only the user that the programs run as can read, as PostgreSQL demands of
    /// data directories.
    pub(crate) fn create_private(&self, dir: &Path) -> Result<(), ClusterError> {
        let step = || format!("create {}", dir.display());
        fs::create_dir_all(dir).step(step)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).step(step)?;
        self.change_owner(dir)
    }

    /// Copies a data directory whose server does not run.
    pub(crate) fn copy(&self, from: &Path, to: &Path) -> Result<(), ClusterError> {
        let step = || format!("copy {} to {}", from.display(), to.display());
        self.create_private(to)?;
        for entry in fs::read_dir(from).step(step)? {
            let entry = entry.step(step)?;
            let target: PathBuf = to.join(entry.file_name());
            if entry.file_type().step(step)?.is_dir() {
                self.copy(&entry.path(), &target)?;
            } else {
                fs::copy(entry.path(), &target).step(step)?;
                self.change_owner(&target)?;
            }
        }
        Ok(())
    }
}

/// A program that runs. It is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let (Ok(None), Ok(pid)) = (self.0.try_wait(), i32::try_from(self.0.id())) else {
            return;
        };
        process::send(pid, Signal::SIGSTOP);
        let children: Vec<i32> = process::tree(pid).into_iter().filter(|of| *of != pid).collect();
        let _ = self.0.kill();
        let _ = self.0.wait();
        // initdb's children are servers in single-user mode. They end when their input ends, and then
        // remove their shared memory, which they would leave behind if they were killed.
        if !process::wait_gone(&children, Duration::from_secs(1)) {
            for pid in children {
                process::kill_tree(pid);
            }
        }
    }
}
