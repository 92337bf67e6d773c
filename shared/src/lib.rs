//! The `users` table in PostgreSQL: configuration, credentials, connections, migrations, roles and the five operations.
//!
//! Nothing here handles HTTP messages or Lambda events. A caller creates one [`Database`] per process and passes it to
//! the functions of [`users`]; every operation is one statement, takes one round trip, and may be repeated on a new
//! connection.

mod admin;
pub mod config;
mod credentials;
pub mod db;
pub mod error;
pub mod idempotency;
pub mod limits;
pub mod migrate;
pub mod roles;
pub mod users;

pub use config::Config;
pub use db::Database;
pub use error::{ConfigError, Error};
