//! The HTTP code that the five functions share, and the logging and panic handling that `migrate` shares with them.
//!
//! A request flows strictly downwards: event → `bin/<operation>.rs` → [`extract`], [`preconditions`], [`body`] →
//! [`shared::users`] → [`response`]. [`runtime`] wraps it all.

pub mod body;
pub mod error;
pub mod extract;
pub mod preconditions;
pub mod response;
pub mod runtime;

pub use error::Error;
pub use lambda_http::{Error as StartError, Request};
pub use response::Response;
pub use runtime::run;
pub use shared::Database;
