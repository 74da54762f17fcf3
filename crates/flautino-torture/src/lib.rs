//! The history checker.

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
