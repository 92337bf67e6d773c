//! The one connection of an execution environment, and the one place that runs statements on it.
//!
//! **The one rule: every operation may be repeated on a fresh connection.** Reads are idempotent by nature, PUT and
//! DELETE by their id, POST by its key. So whatever happens to a statement, it is repeated within the budget, and the
//! operation learns one thing only: whether an earlier attempt of its own may have been applied.
//!
//! | what happened | connection | then |
//! |---|---|---|
//! | can't connect: refused, TLS, 57P03, 53300, 53400, class 08 | – | twice more, else unavailable |
//! | can't connect: no answer in time | – | unavailable: the budget of a connect is spent |
//! | can't connect: nothing to make a credential of | – | internal |
//! | connection lost, class 08, or no answer in time | dropped | once more on a fresh one, else unavailable |
//! | 57P01, 57P05 and other FATALs | dropped | once more, else unavailable |
//! | 25006 read-only: a failover has happened | dropped | once more, the name resolved anew, else unavailable |
//! | 28P01, 28000: a credential has expired | dropped | once more with a new one, else unavailable |
//! | 40001, 40P01, OC000, OC001: a conflict | kept | twice more, else unavailable |
//! | 23505 on the idempotency keys: a simultaneous twin | kept | twice more: now the twin's row is seen |
//! | 55P03, 57014: the server's own time limits | kept | unavailable |
//! | 53xxx during a statement: overload | dropped | unavailable |
//! | all else: a defect of program or schema | kept | internal |
//!
//! An attempt may have been applied if its statement was handed to the connection and then the connection was lost, a
//! pooler reported class 08, or our own time was up. After any other answer of the server, it certainly was not.
//!
//! The time limits are nested: `lock_timeout` 1 s < `statement_timeout` 2 s (both set on the database role) <
//! TCP_USER_TIMEOUT 2.5 s < statement 3 s; connect 2 s; all attempts together 8 s < Lambda's timeout 10 s.
//!
//! No limit looks at the age of a connection: an environment may be frozen for hours, and its clocks with it.

use std::{pin::Pin, time::Duration};

use tokio::{
    select,
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, Sleep, sleep, sleep_until, timeout_at},
};
use tokio_postgres::{
    Client, Row,
    error::{Severity, SqlState},
    types::{ToSql, Type},
};

use crate::{
    config::{Config, ConfigError},
    error::{Error, Failure},
};

/// For all of a connect: credential, name resolution, TCP, TLS and authentication.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// For a statement, from handing it to the connection to its last row.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// For an operation with all its attempts.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);

/// A handle to the database, made once per process. It connects when needed and keeps the connection.
pub struct Database {
    config: Result<Config, ConfigError>,
    session: Mutex<Option<Session>>,
}

/// What a statement has answered.
pub(crate) struct Reply {
    pub(crate) rows: Vec<Row>,
    /// How often the operation was tried.
    pub(crate) attempts: usize,
    /// Whether an earlier attempt may have been applied as well.
    pub(crate) repeated: bool,
}

impl Database {
    /// A handle for the database that the [environment](crate::config) names. A wrong environment is
    /// reported by every operation, as [`Error::Config`].
    pub fn from_env() -> Self {
        Self::new(Config::from_env())
    }

    /// A handle for this database.
    pub fn new(config: Result<Config, ConfigError>) -> Self {
        Self { config, session: Mutex::new(None) }
    }

    /// Connects ahead of the first operation. A failure is not reported: the first operation tries again.
    pub async fn warm_up(&self) {
        if let Ok(config) = &self.config {
            *self.session.lock().await = Session::open(config, Instant::now() + OPERATION_TIMEOUT).await.ok();
        }
    }

    /// Runs one statement as the table of this [module](self) says.
    ///
    /// An attempt on a live connection is one round trip: Parse, Bind, Describe, Execute and Sync in one flight, and
    /// nothing that a transaction pooler would have to remember.
    pub(crate) async fn query(
        &self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Reply, Error> {
        let config = self.config.as_ref().map_err(Clone::clone)?;
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let mut seen: Vec<Reaction> = Vec::new();
        let mut repeated = false;
        loop {
            let fault = match self.attempt(config, sql, params, deadline).await {
                Ok(rows) => return Ok(Reply { rows, attempts: seen.len() + 1, repeated }),
                Err(fault) => fault,
            };
            repeated |= fault.failure.maybe_applied;
            seen.push(fault.reaction);
            let times = seen.iter().filter(|reaction| **reaction == fault.reaction).count();
            let pause = fault.reaction.pause(times);
            if times > fault.reaction.retries() || Instant::now() + pause >= deadline {
                let failure = Failure { attempts: seen.len(), maybe_applied: repeated, ..fault.failure };
                return Err(Fault { failure, ..fault }.into());
            }
            sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        config: &Config,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
        deadline: Instant,
    ) -> Result<Vec<Row>, Fault> {
        let mut slot = self.session.lock().await;
        // One that was closed while the environment was frozen is found here, without a round trip: what wakes us with a
        // request has shown the closed socket to the connection's task as well.
        let session = match slot.take().filter(|session| !session.client.is_closed()) {
            Some(session) => session,
            None => Session::open(config, deadline).await?,
        };
        let session = slot.insert(session);
        let fault = match session.query(sql, params, deadline).await {
            Some(Ok(rows)) => return Ok(rows),
            Some(Err(error)) => Fault::of_statement(&error),
            None => Fault::unanswered_statement(),
        };
        if fault.reaction.drops_connection() {
            *slot = None;
        }
        Err(fault)
    }
}

/// A connection and the task that drives it. The task would outlive a dropped client while a statement is under way,
/// and keep what the server sends too late, so it is aborted.
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
    /// Kept from statement to statement: moving it is free, while a new one takes the runtime a system call to notice.
    timer: Pin<Box<Sleep>>,
}

impl Session {
    /// Connects, in [`CONNECT_TIMEOUT`] and before `deadline`.
    pub(crate) async fn open(config: &Config, deadline: Instant) -> Result<Self, Fault> {
        let time = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let postgres = config.postgres().await.map_err(Fault::no_credential)?;
        let (client, connection) = timeout_at(time, postgres.connect(config.tls.clone()))
            .await
            .map_err(|_| Fault::unanswered_connect())?
            .map_err(|error| Fault::of_connect(&error))?;
        let task = tokio::spawn(async move {
            // How a connection ends is told to whoever waits for a statement on it.
            let _ = connection.await;
        });
        Ok(Self { client, task, timer: Box::pin(sleep_until(deadline)) })
    }

    /// Runs a statement in [`STATEMENT_TIMEOUT`] and before `deadline`; nothing if there was no answer until then.
    async fn query(
        &mut self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
        deadline: Instant,
    ) -> Option<Result<Vec<Row>, tokio_postgres::Error>> {
        self.timer.as_mut().reset(deadline.min(Instant::now() + STATEMENT_TIMEOUT));
        select! {
            biased;
            answer = self.client.query_typed(sql, params) => Some(answer),
            () = &mut self.timer => None,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A failed attempt.
pub(crate) struct Fault {
    failure: Failure,
    reaction: Reaction,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault.reaction {
            Reaction::Defect => Self::Internal(fault.failure),
            _ => Self::Unavailable(fault.failure),
        }
    }
}

impl Fault {
    fn of_connect(error: &tokio_postgres::Error) -> Self {
        let reaction = match error.code().map(SqlState::code) {
            None | Some("57P03" | "53300" | "53400") => Reaction::Reconnect,
            Some(code) if code.starts_with("08") => Reaction::Reconnect,
            Some(_) => Reaction::to_error(error),
        };
        Self { failure: Failure::of_connect(error), reaction }
    }

    fn no_credential(failure: Failure) -> Self {
        Self { failure, reaction: Reaction::Defect }
    }

    fn unanswered_connect() -> Self {
        Self { failure: Failure::new("can't connect: no answer in time"), reaction: Reaction::Overload }
    }

    fn of_statement(error: &tokio_postgres::Error) -> Self {
        let maybe_applied = error.code().is_none_or(|code| code.code().starts_with("08"));
        let failure = Failure { maybe_applied, ..Failure::of_statement(error) };
        Self { failure, reaction: Reaction::to_error(error) }
    }

    fn unanswered_statement() -> Self {
        let failure = Failure { maybe_applied: true, ..Failure::new("statement failed: no answer in time") };
        Self { failure, reaction: Reaction::Refresh }
    }
}

/// A row of the [table](self), or several that are alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// No connection: try to get one.
    Reconnect,
    /// This connection is of no use any more: take a fresh one.
    Refresh,
    /// Somebody else was in the way: the same again.
    Repeat,
    /// The server has had enough of this statement.
    Busy,
    /// The server has had enough.
    Overload,
    /// Nothing that a repetition could change.
    Defect,
}

impl Reaction {
    fn to_error(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else { return Self::Refresh };
        let code = db.code().code();
        match (&code[..2], code) {
            (_, "40001" | "40P01" | "OC000" | "OC001") => Self::Repeat,
            (_, "23505") if db.table() == Some("idempotency_keys") => Self::Repeat,
            (_, "55P03" | "57014") => Self::Busy,
            ("53", _) => Self::Overload,
            ("08", _) | (_, "25006" | "28P01" | "28000") => Self::Refresh,
            // Fatal, but only because they come while connecting: no such database, no permission for it.
            ("3D" | "42", _) => Self::Defect,
            _ if matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) => Self::Refresh,
            _ => Self::Defect,
        }
    }

    fn drops_connection(self) -> bool {
        matches!(self, Self::Refresh | Self::Overload)
    }

    fn retries(self) -> usize {
        match self {
            Self::Reconnect | Self::Repeat => 2,
            Self::Refresh => 1,
            Self::Busy | Self::Overload | Self::Defect => 0,
        }
    }

    /// Before the attempt after the n-th fault of this kind; random, so that those who collided don't do so again.
    fn pause(self, n: usize) -> Duration {
        let milliseconds = match self {
            Self::Reconnect => 50..150,
            Self::Repeat => 5..25,
            _ => return Duration::ZERO,
        };
        Duration::from_millis(rand::random_range(milliseconds) << (n - 1))
    }
}
