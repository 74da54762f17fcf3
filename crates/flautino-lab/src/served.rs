//! A program that serves, such as an example, as a child process.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that serves until it is told to stop. Dropped, it is told so too.
#[derive(Debug)]
pub struct Served {
    /// Such as `http://127.0.0.1:40001`.
    pub url: String,
    child: Child,
}

impl Served {
    /// Starts the program, which takes the address to listen on, and waits until it says where it listens.
    #[must_use]
    pub fn start(program: &str) -> Self {
        let mut command = Command::new(program);
        command.arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut served = Self { url: String::new(), child: command.spawn().unwrap() };
        let mut line = String::new();
        let stdout = served.child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("listening on ");
        served.url = url.unwrap_or_else(|| panic!("{program} says `{line}`")).to_owned();
        served
    }

    /// Tells it to stop, and waits until it has.
    #[must_use]
    pub fn stop(mut self) -> ExitStatus {
        self.end().unwrap()
    }

    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pid = self.child.id().try_into().map_err(io::Error::other)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        self.child.wait()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // No panic within a panic.
        let _ = self.end();
    }
}
