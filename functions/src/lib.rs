//! The HTTP edge of the five functions: what they share around their handlers, and `migrate` with them.
//!
//! A request runs strictly downwards: event → `bin/<operation>.rs` → [`extract`], [`preconditions`], [`body`] →
//! [`shared::users`] → [`response`]. [`runtime`] is around it all.

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
