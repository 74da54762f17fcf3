//! How the run and its children talk: orders are lines on stdin, answers are lines of JSON on stdout.
//!
//! A child ends when its stdin closes. The run holds the other end, so no child outlives it, however
//! it ends.

use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::error::BoxError;

/// How long a child may take for what normally takes a moment.
pub(crate) const CHILD_TIMEOUT: Duration = Duration::from_secs(60);

/// A child as the run sees it. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: tokio::process::Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this program again, with these arguments.
    pub(crate) fn start(arguments: &[String]) -> Result<Self, BoxError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = process.stdin.take().ok_or("the child has no stdin")?;
        let answers = process.stdout.take().ok_or("the child has no stdout")?;
        let answers = BufReader::new(answers).lines();
        Ok(Self { name: arguments.join(" "), process, orders, answers })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<u32, BoxError> {
        self.process.id().ok_or_else(|| format!("`{}` has ended", self.name).into())
    }

    /// Gives it an order.
    pub(crate) async fn order(&mut self, order: &str) -> Result<(), BoxError> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await?;
        Ok(())
    }

    /// Its next answer, which must come within this time.
    pub(crate) async fn answer<T: DeserializeOwned>(
        &mut self,
        within: Duration,
    ) -> Result<T, BoxError> {
        let line = tokio::time::timeout(within, self.answers.next_line()).await;
        let line = line.map_err(|_| format!("`{}` is silent for {within:?}", self.name))??;
        let line = line.ok_or_else(|| format!("`{}` ended before it answered", self.name))?;
        serde_json::from_str(&line).map_err(|error| format!("`{}`: {error}", self.name).into())
    }

    /// Closes its stdin, and waits for its end.
    pub(crate) async fn end(self) -> Result<(), BoxError> {
        let Self { name, mut process, orders, answers } = self;
        drop((orders, answers));
        let ended = tokio::time::timeout(CHILD_TIMEOUT, process.wait()).await;
        ended.map_err(|_| format!("`{name}` does not end"))??;
        Ok(())
    }
}

/// The child's side: orders as they come. The process exits when there can be no more.
pub(crate) fn orders() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // In a thread of its own, so that the end of stdin is noticed even when the runtime is blocked.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
        std::process::exit(0);
    });
    receiver
}

/// The child's side: an answer.
pub(crate) fn answer<T: Serialize>(value: &T) -> Result<(), BoxError> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
