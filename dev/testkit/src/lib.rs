//! What black-box tests of the binaries need: a [`Database`] of one's own on a real PostgreSQL server, a real binary
//! run as Lambda runs it ([`Function`]), events as API Gateway sends them ([`Event`]), a [`Proxy`] between binary and
//! database that counts round trips, an [`IamGate`] that demands tokens there, and a [`Receiver`] in CloudFormation's
//! place.
//!
//! Everything is synchronous and cleans up after itself when dropped, also when a test panics.

mod account;
mod certificate;
mod database;
mod event;
mod function;
mod http;
mod iam_gate;
mod network;
mod pgbouncer;
mod proxy;
mod receiver;
mod runtime_api;
mod token;

pub use account::Account;
pub use database::{Database, Server, as_role, as_user, role, roles};
pub use event::{Caller, Event};
pub use function::{Answer, Failure, Function, Pending};
pub use http::HttpRequest;
pub use iam_gate::{IamGate, Service};
pub use network::{FullPort, Network, skip};
pub use pgbouncer::PgBouncer;
pub use proxy::{ErrorResponse, Fate, Greeting, Hold, Proxy};
pub use receiver::Receiver;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic in one test must not become a second one in whoever shares the lock: what the locks here guard is
/// consistent after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
