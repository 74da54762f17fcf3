//! Several app processes over one cluster, many clients, faults at random; and then the question
//! whether anybody was told what is not true.
//!
//! ```sh
//! just torture                                        # a minute
//! just torture --operations 200000 --faults 100       # at least so many of both
//! just torture --seed 7 --only failover,ghost         # the same faults again, of some kinds
//! just soak                                           # ten minutes, and what apps hold after it
//! just mutants                                        # whether it finds bugs that are planted
//! ```
//!
//! # How
//!
//! A run starts a primary and two replicas, one of which must confirm each commit
//! (`synchronous_standby_names = 'ANY 1 (…)'`), puts a TCP proxy in front of each, and starts itself
//! again as three app processes: axum, [`EngineLayer`](flautino_axum::EngineLayer) and
//! [`serve`](flautino_axum::serve), with the defaults but for the pools' size and idle time and the
//! probes' interval. 24 clients ask whichever app they like, one thing at a time. Most carry the
//! token that they were given last. They add ids that nobody else uses to keys that others use too,
//! and read keys; some go away before they are answered. Each operation is written down with what
//! was sent and told, the moments before and after it, and the nodes that ran it.
//!
//! Meanwhile faults happen, one at a time or two that do not touch, and all is whole before the
//! next: every replica streams, and every app sees every node. The seed decides which faults, whom
//! they hit and for how long, and what each client asks for; when exactly things meet is left to the
//! machine, so a seed that found something may have to be run a few times to find it again.
//!
//! In the end the tables of all nodes are read directly, and [`check`](check::check) says what the
//! history breaks. The table has no unique constraint: a write that was done twice is there twice.
//!
//! # What is checked
//!
//! | name | promise |
//! |---|---|
//! | `read-your-writes` | who carries tokens reads what it was told is written |
//! | `monotonic-reads` | at the level `Session`, what was read is read again |
//! | `lost-write` | what was acknowledged is on every node at the end |
//! | `double-write` | what was written once is there once |
//! | `dirty-read` | what was rolled back, refused or abandoned before `COMMIT` is never seen |
//! | `torn-transaction` | of a transaction all is seen, or nothing |
//! | `stale-read` | no read misses what was acknowledged much longer ago than `max_lag` |
//! | `failed-read` | no read fails, whatever is wrong with servers and network |
//! | `failed-write` | a write fails only where its connection to the primary broke under it, or after `failover_timeout` without a primary |
//! | `no-answer` | nobody waits for 40 s |
//! | `forbidden-node` | nothing is served by an old primary that came back as one, nor by a replica on a timeline that was left behind, once the new primary is known |
//! | `not-whole` | every app sees every node again within 40 s |
//! | `unclean-stop` | an app that is told to stop cuts off no request |
//! | `leak` | with `--soak`: quiet apps hold as many files, tasks and sessions as before, and no more memory than a fifth and 8 MB on top |
//!
//! What is excused, and why:
//!
//! - A write may fail with an unknown outcome (500) if it was under way while connections to the
//!   primary broke, or was sent half a second later into one whose end had not been noticed. One
//!   that a shutdown ended before it did anything (57P01) is not excused where it is a single
//!   statement, since that is sent again. A transaction that had begun may be refused then (503):
//!   unlike a single statement it cannot wait for another connection.
//! - A read is run again twice (`routing.retries`), so no fault breaks a connection more often than
//!   that in the time that a slow read takes.
//! - A read-only *transaction* may fail while some node is in trouble, and so may a read that had
//!   given out its first row: neither can move to another node.
//! - Requests to an app that is killed may go without an answer, and so may those that one which is
//!   told to stop had not begun to read.
//! - What was never acknowledged may be seen and then be lost in a failover. And a commit that waits
//!   for its standby shows on that standby before it shows on the primary, so a session that saw it
//!   there may miss it on the primary for as long as it is under way.
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
//! Times are seconds from the start. Lines with `>` show the violation; between them stands what else
//! that client did; below them the faults at the time, with the rules that held. `by` names the node
//! of each statement and the router's reason; `sent` and `given` are the tokens (system, timeline and
//! position, in hexadecimal). `--logs FOLDER` keeps the logs of the apps.
//!
//! # The modules, a question each
//!
//! - [`history`]: what happened?
//! - [`check`]: does it keep the promises? Pure functions, tested with small histories by hand
//! - [`schedule`]: which faults are there, and which comes next?
//! - `faults`: how is a fault done, and what does it excuse?
//! - `world`: what is tortured? Servers, proxies, app processes (`apps`)
//! - `clients`: what do clients ask for, and what do they make of the answers?
//! - [`app`]: what is an app?
//! - `soak`: what do quiet apps hold?
//! - `run`, `report`: one run, and what is said of it

pub mod app;
mod apps;
pub mod check;
mod clients;
mod faults;
pub mod history;
mod options;
mod report;
mod run;
pub mod schedule;
mod soak;
mod world;

pub use self::options::Options;
pub use self::report::Report;
pub use self::run::run;
pub use self::soak::Held;
