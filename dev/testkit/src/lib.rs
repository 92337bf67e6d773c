//! What black-box tests of the binaries need: a [`Database`] of one's own on a real PostgreSQL server, a real binary
//! run as Lambda runs it ([`Function`]), events as API Gateway sends them ([`Event`]), and a [`Proxy`] between binary
//! and database that counts round trips.
//!
//! Everything is synchronous and cleans up after itself when dropped, also when a test panics.

mod database;
mod event;
mod function;
mod network;
mod pgbouncer;
mod proxy;
mod runtime_api;

pub use database::{Database, Server};
pub use event::Event;
pub use function::{Answer, Failure, Function, Pending};
pub use network::Network;
pub use pgbouncer::PgBouncer;
pub use proxy::{Greeting, Proxy};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic in one test must not become a second one in whoever shares the lock: what the locks here guard is
/// consistent after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
