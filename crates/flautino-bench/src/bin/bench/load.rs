//! The clients, in processes of their own.

pub(crate) mod http;
pub(crate) mod script;
pub(crate) mod steady;
pub(crate) mod storm;
