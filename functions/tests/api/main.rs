//! The contract, checked from outside: the real binaries, run as Lambda runs them, against a real PostgreSQL.
//!
//! A file per endpoint, and one per matter that concerns several of them.

mod chaos;
mod configuration;
mod create_user;
mod delete_user;
mod differential;
mod errors;
mod faults;
mod get_user;
mod input;
mod list_users;
mod migrate;
mod migrations;
mod model;
mod openapi;
mod properties;
mod roles;
mod round_trips;
mod safe_writes;
mod soak;
mod support;
mod tokens;
mod update_user;
mod wiring;
