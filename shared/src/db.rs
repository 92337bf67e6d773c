//! The connections of a process, and how the statement of an operation is run on one.
//!
//! **The one rule: every operation may be repeated on a new connection.** Reads are idempotent by nature, PUT and
//! DELETE by their id, POST by its key. So a statement that fails is retried according to the table, within the time
//! limit, and the operation only needs to know whether an earlier attempt of its own may have been applied.
//!
//! | what happened | connection | then |
//! |---|---|---|
//! | can't connect: refused, TLS, 57P03, 53300, 53400, class 08 | – | retried twice, else unavailable |
//! | can't connect: timed out | – | unavailable: the time for connecting is used up |
//! | can't connect: no AWS credentials to sign a token with | – | internal |
//! | connection lost, class 08, XX000, 40003, PANIC, or timed out | dropped | retried once, else unavailable |
//! | 57P01, 57P05 and other FATALs | dropped | retried once, else unavailable |
//! | 25006 read-only: there was a failover | dropped | retried once, with the name resolved again, else unavailable |
//! | 28P01, 28000: the credential has expired | dropped | retried once with a new one, else unavailable |
//! | 40001, 40P01, OC000, OC001: a conflict | kept | retried while there is time for a whole attempt, else unavailable |
//! | 23505 on the idempotency keys or without a table name: a simultaneous twin | kept | retried twice, else internal |
//! | 0A000, 26000 from a prepared statement: a type has changed, or the session was reset | kept | retried once, unprepared, else internal |
//! | 55P03, 57014: the server's own time limits | kept | unavailable |
//! | 53xxx from a statement: overload | dropped | unavailable |
//! | 22P05, 22021, 22001: text that the database's encoding can't represent | kept | unencodable |
//! | anything else: a bug in the program or the schema | kept | internal |
//!
//! **An operation has a session to itself**: it takes an idle one or opens one, and puts it back. So there are as many
//! sessions as concurrent operations, no operation waits for another's statement, and a broken connection affects only
//! one operation. A retry after a dropped connection opens a new one, and the idle ones are dropped too: a freeze of
//! the environment or a failover has probably affected them all.
//!
//! An attempt may have been applied if its statement was handed to the connection and then the connection was lost, our
//! time limit was reached, or the server's answer was class 08 (from a pooler), XX000, 40003 or a PANIC: the commit
//! record may survive that. After any other error from the server, it was certainly not applied.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    join, select,
    task::JoinHandle,
    time::{Instant, Sleep, sleep, sleep_until, timeout_at},
};
use tokio_postgres::{
    Client, Row, Statement,
    error::{DbError, Severity, SqlState},
    types::{ToSql, Type},
};

use crate::{
    config::{Config, Pooler},
    error::{ConfigError, Error, Failure},
    limits::{CONNECT_TIMEOUT, OPERATION_TIMEOUT, STATEMENT_TIMEOUT},
};

/// The longest pause before a conflicting statement is retried.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A handle to the database, created once per process. It connects on demand and keeps its connections open.
pub struct Database {
    config: Result<Config, ConfigError>,
    /// The sessions that no operation is using, the most recently used last.
    idle: Mutex<Vec<Session>>,
}

/// A value and the type as which it is sent.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// The result of a statement.
pub(crate) struct Reply {
    pub(crate) rows: Vec<Row>,
    /// How many times the operation was tried, this attempt included.
    pub(crate) attempts: usize,
    /// Whether an earlier attempt may have been applied too.
    pub(crate) maybe_applied_before: bool,
}

impl Database {
    /// A handle to the database named by the [environment](crate::config). If the environment is invalid, every
    /// operation returns [`Error::Config`].
    pub fn from_env() -> Self {
        Self::new(Config::from_env())
    }

    /// A handle to the database of `config`. If that is an error, every operation returns it as [`Error::Config`].
    pub fn new(config: Result<Config, ConfigError>) -> Self {
        Self { config, idle: Mutex::default() }
    }

    /// Connects ahead of the first operation, within [`CONNECT_TIMEOUT`]. A failure is not reported: the first
    /// operation tries again.
    pub async fn warm_up(&self) {
        if let Ok(config) = &self.config
            && let Ok(session) = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await
        {
            self.idle().push(session);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        // Nothing that could panic runs under the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one statement, handling errors according to the table of this [module](self).
    ///
    /// An attempt on a live connection is one round trip: Parse, Bind, Describe, Execute and Sync in one flight, with
    /// nothing for a transaction pooler to remember; or, if the statement is prepared, Bind, Execute and Sync.
    pub(crate) async fn query(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Reply, Error> {
        let config = self.config.as_ref().map_err(Clone::clone)?;
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let mut seen: Vec<Reaction> = Vec::new();
        let mut maybe_applied = false;
        loop {
            let session = match seen.last() {
                // What broke one connection may have broken the idle ones too.
                Some(Reaction::Refresh) => None,
                _ => self.take_idle(),
            };
            let failed = match self.attempt(config, session, sql, params, deadline).await {
                Ok(rows) => {
                    let attempts = seen.len() + 1;
                    return Ok(Reply { rows, attempts, maybe_applied_before: maybe_applied });
                }
                Err(failed) => failed,
            };
            maybe_applied |= failed.failure.maybe_applied;
            seen.push(failed.reaction);
            let times = seen.iter().filter(|reaction| **reaction == failed.reaction).count();
            let pause = failed.reaction.pause(times);
            // A statement that is given less time than it may take could end with an unknown outcome.
            if times > failed.reaction.retries() || Instant::now() + pause + STATEMENT_TIMEOUT > deadline {
                let failure = Failure { attempts: seen.len(), maybe_applied, ..failed.failure };
                return Err(FailedAttempt { failure, ..failed }.into());
            }
            sleep(pause).await;
        }
    }

    /// The most recently used session, because it is the most likely to be alive. One that was closed while the
    /// environment was frozen is detected here, without a round trip: the same wake-up that brings a request has shown
    /// the closed socket to the connection's task.
    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle();
        while let Some(session) = idle.pop() {
            if !session.client.is_closed() {
                return Some(session);
            }
        }
        None
    }

    async fn attempt(
        &self,
        config: &Config,
        session: Option<Session>,
        sql: &'static str,
        params: &[Param<'_>],
        deadline: Instant,
    ) -> Result<Vec<Row>, FailedAttempt> {
        let mut session = match session {
            Some(session) => session,
            None => Session::open(config, deadline).await?,
        };
        let result = session.query(sql, params, deadline).await;
        match &result {
            Err(failed) if failed.reaction == Reaction::Refresh => self.idle().clear(),
            Err(failed) if failed.reaction == Reaction::Overload => {}
            _ if session.stuck => {}
            _ => self.idle().push(session),
        }
        result
    }
}

/// A connection and the task that drives it. The task would outlive a dropped client while a statement is in progress,
/// and buffer what the server sends too late, so it is aborted.
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
    /// Reused for every statement: resetting it is free, while a new timer costs the runtime a system call.
    timer: Pin<Box<Sleep>>,
    /// Whether statements are prepared: there is no pooler, so the server remembers what this session has prepared.
    prepares: bool,
    prepared: Vec<(&'static str, Statement)>,
    /// Whether something was sent and its answer has not arrived.
    stuck: bool,
}

impl Session {
    /// Connects within [`CONNECT_TIMEOUT`] and before `deadline`.
    pub(crate) async fn open(config: &Config, deadline: Instant) -> Result<Self, FailedAttempt> {
        let time = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let options = config.connect_options().await.map_err(FailedAttempt::no_credential)?;
        let (client, connection) = timeout_at(time, options.connect(config.tls.clone()))
            .await
            .map_err(|_| FailedAttempt::unanswered_connect(config))?
            .map_err(|error| FailedAttempt::of_connect(config, &error))?;
        let task = tokio::spawn(async move {
            // An error of the connection is also reported to the statement that is waiting on it.
            let _ = connection.await;
        });
        Ok(Self {
            client,
            task,
            timer: Box::pin(sleep_until(deadline)),
            prepares: config.pooler == Pooler::None,
            prepared: Vec::new(),
            stuck: false,
        })
    }

    /// Runs a statement within [`STATEMENT_TIMEOUT`] and before `deadline`.
    ///
    /// If the session prepares its statements, the first use of one also prepares it: the query is sent first, followed
    /// in the same flight by the preparation, whose failure doesn't fail the query.
    async fn query(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
        deadline: Instant,
    ) -> Result<Vec<Row>, FailedAttempt> {
        self.timer.as_mut().reset(deadline.min(Instant::now() + STATEMENT_TIMEOUT));
        let known = self.prepared.iter().position(|(text, _)| *text == sql);
        let mut answer = None;
        let mut statement = None;
        let work = async {
            if let Some(known) = known {
                let values: Vec<_> = params.iter().map(|(value, _)| *value).collect();
                answer = Some(self.client.query(&self.prepared[known].1, &values).await);
            } else if self.prepares {
                let types: Vec<_> = params.iter().map(|(_, kind)| kind.clone()).collect();
                let query = async { answer = Some(self.client.query_typed(sql, params).await) };
                statement = join!(biased; query, self.client.prepare_typed(sql, &types)).1.ok();
            } else {
                answer = Some(self.client.query_typed(sql, params).await);
            }
        };
        self.stuck = select! {
            biased;
            () = work => false,
            () = &mut self.timer => true,
        };
        self.prepared.extend(statement.map(|statement| (sql, statement)));
        match answer {
            Some(Ok(rows)) => Ok(rows),
            Some(Err(error)) => {
                let failed = FailedAttempt::of_statement(&error, known.is_some());
                if let (Reaction::Unprepared, Some(known)) = (failed.reaction, known) {
                    // Forgotten, but not dropped: dropping it would send a Close before the retry.
                    self.prepared[known].0 = "";
                }
                Err(failed)
            }
            None => Err(FailedAttempt::unanswered_statement()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why an attempt failed, and how to react.
pub(crate) struct FailedAttempt {
    failure: Failure,
    reaction: Reaction,
}

impl From<FailedAttempt> for Error {
    fn from(failed: FailedAttempt) -> Self {
        match failed.reaction {
            Reaction::Twin | Reaction::Unprepared | Reaction::Defect => Self::Internal(failed.failure),
            Reaction::Unencodable => Self::Unencodable,
            Reaction::Reconnect
            | Reaction::Refresh
            | Reaction::Conflict
            | Reaction::TimeLimit
            | Reaction::Overload => Self::Unavailable(failed.failure),
        }
    }
}

impl FailedAttempt {
    fn of_connect(config: &Config, error: &tokio_postgres::Error) -> Self {
        let reaction = match error.code().map(SqlState::code) {
            None | Some("57P03" | "53300" | "53400") => Reaction::Reconnect,
            Some(code) if code.starts_with("08") => Reaction::Reconnect,
            Some(_) => Reaction::of(error),
        };
        Self { failure: Failure::of_connect(config, error), reaction }
    }

    fn no_credential(failure: Failure) -> Self {
        Self { failure, reaction: Reaction::Defect }
    }

    fn unanswered_connect(config: &Config) -> Self {
        let failure = Failure::new(format!("can't connect to {config}: timed out"));
        Self { failure, reaction: Reaction::Overload }
    }

    fn of_statement(error: &tokio_postgres::Error, prepared: bool) -> Self {
        let maybe_applied = error.as_db_error().is_none_or(leaves_outcome_unknown);
        let failure = Failure { maybe_applied, ..Failure::of_statement(error) };
        let reaction = match error.code().map(SqlState::code) {
            Some("0A000" | "26000") if prepared => Reaction::Unprepared,
            _ => Reaction::of(error),
        };
        Self { failure, reaction }
    }

    fn unanswered_statement() -> Self {
        let failure = Failure { maybe_applied: true, ..Failure::new("statement failed: timed out") };
        Self { failure, reaction: Reaction::Refresh }
    }
}

/// Whether a statement may have been applied even though it got this error.
fn leaves_outcome_unknown(db: &DbError) -> bool {
    let code = db.code().code();
    !is_conflict(db)
        && (code.starts_with("08")
            || matches!(code, "40003" | "XX000")
            || severity(db) == Some(Severity::Panic))
}

/// Whether the transaction was rolled back because it conflicted with another one. Aurora DSQL puts its own codes,
/// OC000 and OC001, into the message.
fn is_conflict(db: &DbError) -> bool {
    let code = db.code().code();
    let dsql = |text: &str| text.contains("OC000") || text.contains("OC001");
    // In other classes a message may quote client input.
    let says_so = matches!(&code[..2], "40" | "XX" | "OC") && dsql(db.message());
    matches!(code, "40001" | "40P01" | "OC000" | "OC001") || says_so
}

/// The severity, from the field that is never localized, or, if a pooler omits that, from the other one.
fn severity(db: &DbError) -> Option<Severity> {
    db.parsed_severity().or_else(|| match db.severity() {
        "PANIC" => Some(Severity::Panic),
        "FATAL" => Some(Severity::Fatal),
        _ => None,
    })
}

/// A row of the [table](self), or several that are handled the same way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// No connection: try to open one again.
    Reconnect,
    /// This connection is unusable: open a new one.
    Refresh,
    /// The transaction conflicted with another one: run it again.
    Conflict,
    /// A simultaneous request with the same key: the next attempt sees its row.
    Twin,
    /// The prepared statement no longer exists in the session, or its result type has changed.
    Unprepared,
    /// The server hit its own time limit.
    TimeLimit,
    /// The server has no room for another statement or connection.
    Overload,
    /// The client's text is at fault, not the statement.
    Unencodable,
    /// Nothing that a retry could fix.
    Defect,
}

impl Reaction {
    fn of(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else { return Self::Refresh };
        let code = db.code().code();
        match (&code[..2], code) {
            _ if severity(db) == Some(Severity::Panic) => Self::Refresh,
            _ if is_conflict(db) => Self::Conflict,
            // Aurora DSQL may name no table.
            (_, "23505") if db.table().is_none_or(|table| table == "idempotency_keys") => Self::Twin,
            (_, "55P03" | "57014") => Self::TimeLimit,
            (_, "22P05" | "22021" | "22001") => Self::Unencodable,
            ("53", _) => Self::Overload,
            ("08", _) | (_, "25006" | "28P01" | "28000" | "40003" | "XX000") => Self::Refresh,
            // FATAL only because they occur while connecting: no such database, or no permission to use it.
            ("3D" | "42", _) => Self::Defect,
            _ if severity(db) == Some(Severity::Fatal) => Self::Refresh,
            _ => Self::Defect,
        }
    }

    fn retries(self) -> usize {
        match self {
            Self::Conflict => usize::MAX,
            Self::Reconnect | Self::Twin => 2,
            Self::Refresh | Self::Unprepared => 1,
            Self::TimeLimit | Self::Overload | Self::Unencodable | Self::Defect => 0,
        }
    }

    /// The pause after the n-th failure of this kind; random, so that requests that collided don't collide again.
    fn pause(self, n: usize) -> Duration {
        let milliseconds = |range| Duration::from_millis(rand::random_range(range));
        match self {
            Self::Reconnect => milliseconds(50..150) * if n == 1 { 1 } else { 2 },
            Self::Twin => milliseconds(5..25),
            // Exponential backoff with full jitter: the upper bound doubles from 20 ms up to `MAX_PAUSE`.
            Self::Conflict => {
                rand::random_range(Duration::ZERO..=MAX_PAUSE.min(Duration::from_millis(10 << n.min(6))))
            }
            _ => Duration::ZERO,
        }
    }
}
