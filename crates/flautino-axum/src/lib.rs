//! flautino-axum
