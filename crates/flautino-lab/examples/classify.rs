//! Says of statements whether they are reads or writes, by the catalogue of a running server:
//!
//! ```sh
//! printf 'SELECT 1\0SELECT nextval($$s$$)\0' |
//!   cargo run -p flautino-lab --example classify -- postgres://…/db postgres://…/db
//! ```
//!
//! The URLs are those of a primary and of its standby. Statements come from the standard input and
//! end with a NUL; for each a line is printed, `read` or `write`. An empty statement has the
//! catalogue read anew, and prints `ready`.
#![allow(clippy::print_stdout, reason = "what it prints is its answer")]

use std::error::Error;
use std::io::{BufRead, Write};

use flautino::{Access, Engine, EngineConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    let [primary, replica] = &urls[..] else { return Err("give two URLs".into()) };
    let toml = format!("url = {primary:?}\n[extra_nodes.replica]\nurl = {replica:?}\n");
    let config = EngineConfig::from_toml(&toml)?;
    let mut engine = open(&config).await?;
    for statement in std::io::stdin().lock().split(0) {
        let statement = String::from_utf8(statement?)?;
        let answer = if statement.is_empty() {
            engine.close().await;
            engine = open(&config).await?;
            "ready"
        } else if engine.access(&statement) == Access::Read {
            "read"
        } else {
            "write"
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    engine.close().await;
    Ok(())
}

/// A new engine reads the catalogue before it is open.
async fn open(config: &EngineConfig) -> Result<Engine, Box<dyn Error>> {
    let engine = Engine::new(config.clone())?;
    engine.open().await?;
    Ok(engine)
}
