//! Several app processes over one cluster, many clients, and faults at random. Afterwards the history
//! of all operations is checked for promises that were broken.
//!
//! ```sh
//! just torture                                        # a minute
//! just torture --operations 200000 --faults 100       # at least so many of both
//! just torture --seed 7 --only failover,ghost         # the same faults again, of some kinds
//! just soak                                           # ten minutes, and whether apps leak
//! just mutants                                        # whether it finds planted bugs
//! ```
//!
//! # How
//!
//! A run starts a primary and two replicas, one of which must confirm each commit
//! (`synchronous_standby_names = 'ANY 1 (…)'`), puts a TCP proxy in front of each, and starts itself
//! again as three app processes: axum, [`EngineLayer`](flautino_axum::EngineLayer) and
//! [`serve`](flautino_axum::serve), with the defaults but for the pools' size and idle time and the
//! probes' interval. 24 clients send requests to any of the apps, one at a time. Most send the token
//! that they were given last. They add ids that nobody else uses to keys that others use too, and read
//! keys; some go away before they get a response. Each operation is recorded with what was sent and
//! received, the moments before and after it, and the nodes that ran it.
//!
//! Meanwhile faults happen, one at a time or two that do not affect each other. Before the next one,
//! every replica streams again and every app sees every node. The seed decides which faults happen,
//! what they hit and for how long, and what each client does. The exact timing depends on the machine,
//! so a seed that found something may have to be run a few times to find it again.
//!
//! In the end the tables of all nodes are read directly, and [`check`](check::check) finds the
//! violations. The table has no unique constraint, so a write that was done twice is there twice.
//!
//! # What is checked
//!
//! | name | promise |
//! |---|---|
//! | `read-your-writes` | a client that carries its tokens reads what it was told is written |
//! | `monotonic-reads` | at the level `Session`, what a client has read it reads again |
//! | `lost-write` | what was acknowledged is on every node at the end |
//! | `double-write` | what was written once is there once |
//! | `dirty-read` | what was rolled back, refused or abandoned before `COMMIT` is never seen |
//! | `torn-transaction` | a read shows all of a transaction, or nothing of it |
//! | `stale-read` | no read misses what was acknowledged much longer ago than `max_lag` |
//! | `failed-read` | no read fails, whatever is wrong with servers and network |
//! | `failed-write` | a write fails only where its connection to the primary broke under it, or after `failover_timeout` without a primary |
//! | `no-answer` | no client waits for 40 s |
//! | `forbidden-node` | once the new primary is known, nothing is served by an old primary that came back as one, nor by a replica on the old timeline |
//! | `not-recovered` | every app sees every node again within 40 s |
//! | `unclean-stop` | an app that is told to stop cuts off no request |
//! | `leak` | with `--soak`: idle apps hold as many files, tasks and sessions as before, and at most a fifth and 8 MB more memory |
//!
//! What is excused, and why:
//!
//! - A write may fail with an unknown outcome (500) if it was under way while connections to the
//!   primary broke, or was sent up to 1.5 seconds later over one whose end had not been noticed. If the
//!   server's shutdown ended it before it did anything (57P01), that excuses a transaction only: a
//!   single statement is sent again. A transaction that had begun may also be refused then (503), since
//!   it cannot move to another connection.
//! - A read is run again twice (`routing.retries`), so no fault breaks connections more often than
//!   that while a slow read runs.
//! - A read-only *transaction* may fail while a fault hits some node, and so may a read that had
//!   given out its first row: neither can move to another node.
//! - Requests to an app that is killed may get no response. The same holds for those that an app had
//!   not begun to read when it was told to stop.
//! - What was never acknowledged may be seen and then be lost in a failover. And a commit that waits
//!   for its standby is visible on that standby before it is on the primary, so a session that saw it
//!   there may miss it on the primary until the commit returns.
//!
//! # How to read a violation
//!
//! ```text
//! VIOLATION read-your-writes: client 4 wrote id 812 under key 31 and did not read it afterwards
//!   > 12.310 to 12.316  client 4 app 0 insert key 31 ids [812] Acknowledged 200 by main write sent … given …
//!     12.320 to 12.322  client 4 app 1 read key 29 saw [790] Acknowledged 200 by replica_2 floor_met sent …
//!   > 12.341 to 12.343  client 4 app 2 read key 31 saw [801] Acknowledged 200 by replica_1 floor_met sent …
//!     11.902 to 14.033  fault replay-pause replica_1; TransactionsBreak 11.902 to 14.033
//! ```
//!
//! Times are seconds from the start. Lines with `>` show the violation; the lines between them are what
//! else that client did, and the last lines the faults at the time, with the rules that held. `by` names
//! the node of each statement and the router's reason; `sent` and `given` are the tokens (system,
//! timeline and position, in hexadecimal). `--logs FOLDER` keeps the logs of the apps.
//!
//! # The modules, from the top layer down
//!
//! - `run`, `report`: one run, and what is printed about it
//! - `soak`: what idle apps hold
//! - `faults`: how each fault is performed, and which failures it excuses
//! - [`schedule`]: which faults there are, and which comes next
//! - `clients`: what clients do, and how they understand the responses
//! - `world`: the servers, the proxies in front of them, and the app processes (`apps`)
//! - [`app`]: one app process
//! - [`check`]: the checks of a history: pure functions, tested with small histories
//! - [`history`], [`violation`]: what happened, and what can be wrong with it

pub mod app;
mod apps;
pub mod check;
mod clients;
mod error;
mod faults;
pub mod history;
mod options;
mod report;
mod run;
pub mod schedule;
mod soak;
pub mod violation;
mod world;

pub use self::error::BoxError;
pub use self::options::Options;
pub use self::report::Report;
pub use self::run::run;
pub use self::soak::Footprint;
