//! flautino
