//! Why a request gets no success.

use serde::Serialize;

/// Why a handler has no success to answer.
#[derive(Debug)]
pub enum Error {
    /// The request is not what it should be; the database was not asked.
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

/// Why a request is turned away.
#[derive(Debug)]
pub enum Rejection {
    /// Body, query or headers are wrong; every violation that was found.
    Invalid(Vec<Violation>),
    /// The path holds no possible id of a user.
    NoSuchUser,
    /// A precondition on the collection, which has no entity tag, does not hold.
    PreconditionFailed,
    /// The body is over 16 KiB.
    BodyTooLarge,
    /// The body is declared to be something else than JSON.
    UnsupportedMediaType,
    /// The body is compressed.
    UnsupportedContentEncoding,
}

/// One rule that a request breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What would be right.
    pub detail: String,
    /// Whether something is missing rather than wrong.
    #[serde(skip)]
    pub missing: bool,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A JSON Pointer (RFC 6901) into the body, as a URI fragment.
    Pointer(&'static str),
    /// A parameter of the query.
    Parameter(String),
    /// A header.
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
