//! flautino-cluster
