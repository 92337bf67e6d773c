//! What can go wrong, without a word about HTTP.

use std::{error, fmt, iter};

use crate::config::ConfigError;

/// Why an operation was refused or failed.
///
/// One type for all operations, so that one exhaustive `match` decides what a client is told. The variants
/// say what the caller can do: ask for something else, ask again, or call the operator.
#[derive(Debug)]
pub enum Error {
    /// No user has this id.
    UserNotFound,
    /// The user exists, but none of the expected entity tags is its own.
    Changed,
    /// The idempotency key was used for another user or by another caller.
    KeyReused,
    /// The database can't be reached or is overloaded. Nothing was applied, or repeating it is safe.
    Unavailable(Failure),
    /// As [`Error::Unavailable`], but something may have been applied, and repeating it could apply it twice.
    OutcomeUnknown(Failure),
    /// A defect of the program or the schema.
    Internal(Failure),
    /// The environment is wrong; nothing works until somebody corrects it.
    Config(ConfigError),
}

impl Error {
    /// What failed, if it was the database.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Unavailable(failure) | Self::OutcomeUnknown(failure) | Self::Internal(failure) => {
                Some(failure)
            }
            Self::UserNotFound | Self::Changed | Self::KeyReused | Self::Config(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserNotFound => f.write_str("user not found"),
            Self::Changed => f.write_str("user has changed"),
            Self::KeyReused => f.write_str("idempotency key was used for something else"),
            Self::Unavailable(failure) | Self::OutcomeUnknown(failure) | Self::Internal(failure) => {
                failure.fmt(f)
            }
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    /// A row is not of the shape that the statement asks for.
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Internal(Failure::of_statement(&error))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Internal(failure)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// A failed statement or connection: what an operator needs to know, and nothing that a user has stored.
#[derive(Debug)]
pub struct Failure {
    /// What was tried and how it ended.
    pub reason: String,
    /// PostgreSQL's five-character error code, if the server sent one.
    pub sqlstate: Option<String>,
    /// How often the operation was tried.
    pub attempts: usize,
    /// Whether one of the attempts may have been applied.
    pub maybe_applied: bool,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sqlstate: None, attempts: 1, maybe_applied: false }
    }

    /// A statement failed. The server's message is left out: it may quote values.
    pub(crate) fn of_statement(error: &tokio_postgres::Error) -> Self {
        let reason = match error.as_db_error() {
            Some(db) => {
                let place = [("table", db.table()), ("column", db.column()), ("constraint", db.constraint())]
                    .into_iter()
                    .filter_map(|(kind, name)| Some(format!(", {kind} {}", name?)));
                format!("statement failed: {}{}", db.severity(), place.collect::<String>())
            }
            None => format!("statement failed: {}", chain(error)),
        };
        Self { reason, sqlstate: sqlstate(error), attempts: 1, maybe_applied: false }
    }

    /// A connection could not be made. No statement was sent, so the server's message quotes no values.
    pub(crate) fn of_connect(error: &tokio_postgres::Error) -> Self {
        Self {
            reason: format!("can't connect: {}", chain(error)),
            sqlstate: sqlstate(error),
            attempts: 1,
            maybe_applied: false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

fn sqlstate(error: &tokio_postgres::Error) -> Option<String> {
    error.code().map(|code| code.code().to_owned())
}

/// The error and its causes, separated by colons.
fn chain(error: &dyn error::Error) -> String {
    iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
