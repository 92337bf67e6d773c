//! The `users` table in PostgreSQL: configuration, credentials, the one connection, migrations and the five operations.
//!
//! Nothing here knows of HTTP or Lambda. A caller makes one [`Database`] per process and passes it to the
//! functions of [`users`]; every operation is one statement, one round trip, and may be repeated on a fresh
//! connection.

pub mod config;
mod credentials;
pub mod db;
pub mod error;
pub mod migrate;
pub mod users;

pub use config::{Config, ConfigError};
pub use db::Database;
pub use error::Error;
