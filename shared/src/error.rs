//! What can go wrong, independent of HTTP.

use std::{error, fmt, iter};

/// Why an operation was refused or failed.
///
/// One type for all operations, so that a single exhaustive `match` decides what a client gets. The variants differ in
/// what the caller can do: change the request, repeat it, check the outcome, or call the operator.
#[derive(Debug)]
pub enum Error {
    /// No user has this id.
    UserNotFound,
    /// The user exists, but a precondition does not hold. Nothing was changed.
    PreconditionFailed,
    /// This caller has already used the idempotency key for a different request.
    KeyReused,
    /// The database's encoding can't represent the text.
    Unencodable,
    /// The database can't be reached or is overloaded. Nothing was applied, or repeating the operation is safe.
    Unavailable(Failure),
    /// Like [`Error::Unavailable`], but a user may have been created, and repeating the operation could create another.
    CreationUnknown(Failure),
    /// Like [`Error::Unavailable`], but a conditional change may have been made, and repeating it would be refused; or
    /// a retry was refused, perhaps because an earlier attempt had made the change.
    ChangeUnknown(Failure),
    /// A bug in the program or the schema.
    Internal(Failure),
    /// The environment is invalid; no operation works until it is corrected.
    Config(ConfigError),
}

impl Error {
    /// A statement that always returns a row returned none.
    pub(crate) fn no_row(statement: &str) -> Self {
        Self::Internal(Failure::new(format!("{statement} returned no row")))
    }

    /// The details, if a statement or a connection failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Unavailable(failure)
            | Self::CreationUnknown(failure)
            | Self::ChangeUnknown(failure)
            | Self::Internal(failure) => Some(failure),
            Self::UserNotFound
            | Self::PreconditionFailed
            | Self::KeyReused
            | Self::Unencodable
            | Self::Config(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserNotFound => f.write_str("user not found"),
            Self::PreconditionFailed => f.write_str("precondition failed"),
            Self::KeyReused => f.write_str("idempotency key was used for another request"),
            Self::Unencodable => f.write_str("text that the database's encoding can't represent"),
            Self::Unavailable(failure)
            | Self::CreationUnknown(failure)
            | Self::ChangeUnknown(failure)
            | Self::Internal(failure) => failure.fmt(f),
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    /// A row doesn't have the columns that the statement should return.
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Internal(Failure::of_statement(&error))
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// What is wrong with the configuration, in one sentence that contains no secrets.
#[derive(Debug, Clone)]
pub struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for ConfigError {}

/// A failed statement or connection: what an operator needs to know, without any stored user data.
#[derive(Debug)]
pub struct Failure {
    /// What was tried and how it failed.
    pub reason: String,
    /// PostgreSQL's five-character error code (SQLSTATE), if the server sent one.
    pub sqlstate: Option<String>,
    /// How many times the operation was tried: 1 or more.
    pub attempts: usize,
    /// Whether one of the attempts may have been applied.
    pub maybe_applied: bool,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sqlstate: None, attempts: 1, maybe_applied: false }
    }

    /// A statement failed. The server's message is included only if it can't quote values.
    pub(crate) fn of_statement(error: &tokio_postgres::Error) -> Self {
        let reason = match error.as_db_error() {
            Some(db) => {
                let words = server_words(db).map(|words| format!(": {words}")).unwrap_or_default();
                let place = [("table", db.table()), ("column", db.column()), ("constraint", db.constraint())]
                    .into_iter()
                    .filter_map(|(kind, name)| Some(format!(", {kind} {}", name?)));
                format!("statement failed: {}{words}{}", db.severity(), place.collect::<String>())
            }
            None => format!("statement failed: {}", chain(error)),
        };
        Self { sqlstate: sqlstate(error), ..Self::new(reason) }
    }

    /// A connection could not be made. No statement was sent, so the server's message can't quote values.
    pub(crate) fn of_connect(database: &impl fmt::Display, error: &tokio_postgres::Error) -> Self {
        let reason = format!("can't connect to {database}: {}", chain(error));
        Self { sqlstate: sqlstate(error), ..Self::new(reason) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The server's message, unless it may quote stored data: data exceptions and constraint violations do (classes 22, 23
/// and 44), and an error raised by PL/pgSQL code such as a trigger may, with any code.
fn server_words(db: &tokio_postgres::error::DbError) -> Option<&str> {
    let quotes_values = ["22", "23", "44", "P0"].contains(&&db.code().code()[..2]);
    let raised = db.routine() == Some("exec_stmt_raise");
    (!quotes_values && !raised).then(|| db.message())
}

fn sqlstate(error: &tokio_postgres::Error) -> Option<String> {
    error.code().map(|code| code.code().to_owned())
}

/// The error and its sources, separated by colons.
fn chain(error: &dyn error::Error) -> String {
    iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
