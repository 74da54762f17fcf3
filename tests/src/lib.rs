//! The tests stand in `main.rs`; this library is empty.
