//! The contract, checked from outside: the real binaries, run as Lambda runs them, against a real PostgreSQL.
//!
//! A file per endpoint, and one per matter that concerns several of them.

mod callers;
mod chaos;
mod concurrency;
mod configuration;
mod create_user;
mod delete_user;
mod differential;
mod documents;
mod errors;
mod faults;
mod get_user;
mod hijacking;
mod imports;
mod input;
mod keys;
mod list_users;
mod migrate;
mod migrations;
mod model;
mod old_keys;
mod openapi;
mod outcomes;
mod prepared;
mod properties;
mod roles;
mod round_trips;
mod safe_writes;
mod soak;
mod support;
mod tokens;
mod update_user;
mod wiring;
