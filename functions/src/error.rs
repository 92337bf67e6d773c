//! Why a request fails.

use serde::Serialize;

/// Why a handler fails.
#[derive(Debug)]
pub enum Error {
    /// The request is invalid; the database was not contacted.
    Rejected(Rejection),
    /// The operation was refused or failed.
    Operation(shared::Error),
    /// The handler panicked at this place.
    Panicked(String),
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<shared::Error> for Error {
    fn from(error: shared::Error) -> Self {
        Self::Operation(error)
    }
}

/// Why a request is rejected.
#[derive(Debug)]
pub enum Rejection {
    /// The body, the query or a header is invalid, with every violation found.
    Invalid(Vec<Violation>),
    /// The id in the path can't be a user's.
    NoSuchUser,
    /// A precondition on the collection, which has no entity tag, does not hold.
    PreconditionFailed,
    /// The body is larger than 16 KiB.
    BodyTooLarge,
    /// The body is declared to be something other than JSON.
    UnsupportedMediaType,
    /// The body is compressed.
    UnsupportedContentEncoding,
}

/// One rule that a request violates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The place in the request.
    #[serde(flatten)]
    pub place: Place,
    /// The rule, such as "must be an integer from 0 to 150".
    pub detail: String,
    /// Whether a required member is missing rather than invalid.
    #[serde(skip)]
    pub missing: bool,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A JSON Pointer (RFC 6901) into the body, as a URI fragment.
    Pointer(&'static str),
    /// The name of a query parameter.
    Parameter(String),
    /// The name of a header.
    Header(&'static str),
}

impl Violation {
    pub(crate) fn new(place: Place, detail: impl Into<String>) -> Self {
        Self { place, detail: detail.into(), missing: false }
    }
}

impl From<Violation> for Rejection {
    fn from(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }
}
