//! The connections of an execution environment, and how an operation's statement is run on one.
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
//! | connection lost, class 08, XX000, 40003, PANIC, or no answer in time | dropped | once more, else unavailable |
//! | 57P01, 57P05 and other FATALs | dropped | once more, else unavailable |
//! | 25006 read-only: a failover has happened | dropped | once more, the name resolved anew, else unavailable |
//! | 28P01, 28000: a credential has expired | dropped | once more with a new one, else unavailable |
//! | 40001, 40P01, OC000, OC001: a conflict | kept | again while a whole attempt fits the budget, else unavailable |
//! | 23505 on the idempotency keys, or on no table by name: a simultaneous twin | kept | twice more, else internal |
//! | 0A000, 26000 of a prepared statement: a type has changed, or the session was reset | kept | once more, unprepared, else internal |
//! | 55P03, 57014: the server's own time limits | kept | unavailable |
//! | 53xxx during a statement: overload | dropped | unavailable |
//! | 22P05, 22021, 22001: text that the database's encoding does not have | kept | unencodable |
//! | all else: a defect of program or schema | kept | internal |
//!
//! **An operation has a session to itself**: it takes an idle one or opens one, and puts it back. So there are as many as
//! operations at once, no operation waits for the statement of another one, and what breaks a connection breaks one
//! operation. A repetition after a dropped connection opens a new one, and the idle ones are dropped too: a freeze of the
//! environment or a failover has probably met them all.
//!
//! An attempt may have been applied if its statement was handed to the connection and then the connection was lost, our
//! own time was up, or the answer was class 08 (a pooler's), XX000, 40003 or a PANIC: the commit record may survive
//! that. After any other answer of the server, it certainly was not.

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

/// The longest pause before a conflict is tried again.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A handle to the database, made once per process. It connects when needed and keeps the connections.
pub struct Database {
    config: Result<Config, ConfigError>,
    /// The sessions that no operation uses, the last used last.
    idle: Mutex<Vec<Session>>,
}

/// A value and the type that it is sent as.
pub(crate) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// What a statement has answered.
pub(crate) struct Reply {
    pub(crate) rows: Vec<Row>,
    /// How often the operation was tried.
    pub(crate) attempts: usize,
    /// Whether an earlier attempt may have been applied as well.
    pub(crate) maybe_applied_before: bool,
}

impl Database {
    /// A handle for the database that the [environment](crate::config) names. A wrong environment is
    /// reported by every operation, as [`Error::Config`].
    pub fn from_env() -> Self {
        Self::new(Config::from_env())
    }

    /// A handle for this database.
    pub fn new(config: Result<Config, ConfigError>) -> Self {
        Self { config, idle: Mutex::default() }
    }

    /// Connects ahead of the first operation. A failure is not reported: the first operation tries again.
    pub async fn warm_up(&self) {
        if let Ok(config) = &self.config
            && let Ok(session) = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await
        {
            self.idle().push(session);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        // Nothing that could panic is done under the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one statement as the table of this [module](self) says.
    ///
    /// An attempt on a live connection is one round trip: Parse, Bind, Describe, Execute and Sync in one flight, and
    /// nothing that a transaction pooler would have to remember; or, where the statement was prepared, Bind, Execute and
    /// Sync.
    pub(crate) async fn query(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Reply, Error> {
        let config = self.config.as_ref().map_err(Clone::clone)?;
        let deadline = Instant::now() + OPERATION_TIMEOUT;
        let mut seen: Vec<Reaction> = Vec::new();
        let mut maybe_applied = false;
        loop {
            let session = match seen.last() {
                // What has broken one connection may have broken the idle ones as well.
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
            // A statement that is given less time than it may take could leave its outcome unknown.
            if times > failed.reaction.retries() || Instant::now() + pause + STATEMENT_TIMEOUT > deadline {
                let failure = Failure { attempts: seen.len(), maybe_applied, ..failed.failure };
                return Err(FailedAttempt { failure, ..failed }.into());
            }
            sleep(pause).await;
        }
    }

    /// The session that was used last, as it is the likeliest to be alive. One that was closed while the environment was
    /// frozen is found here, without a round trip: what wakes us with a request has shown the closed socket to the
    /// connection's task as well.
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

/// A connection and the task that drives it. The task would outlive a dropped client while a statement is under way,
/// and keep what the server sends too late, so it is aborted.
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
    /// Kept from statement to statement: moving it is free, while a new one takes the runtime a system call to notice.
    timer: Pin<Box<Sleep>>,
    /// Whether nothing stands between us and the server, so that it remembers what this session has prepared.
    prepares: bool,
    prepared: Vec<(&'static str, Statement)>,
    /// Whether something was sent whose answer has not come.
    stuck: bool,
}

impl Session {
    /// Connects, in [`CONNECT_TIMEOUT`] and before `deadline`.
    pub(crate) async fn open(config: &Config, deadline: Instant) -> Result<Self, FailedAttempt> {
        let time = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        let options = config.connect_options().await.map_err(FailedAttempt::no_credential)?;
        let (client, connection) = timeout_at(time, options.connect(config.tls.clone()))
            .await
            .map_err(|_| FailedAttempt::unanswered_connect(config))?
            .map_err(|error| FailedAttempt::of_connect(config, &error))?;
        let task = tokio::spawn(async move {
            // Whoever waits for a statement on the connection learns how it ends.
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

    /// Runs a statement in [`STATEMENT_TIMEOUT`] and before `deadline`.
    ///
    /// Where the session prepares its statements, the first use of one takes the preparation along: the query first, and
    /// behind it in the same flight the preparation, whose failure is no failure of the query.
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
                    // Forgotten, but not dropped: that would send a Close before the repetition.
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

/// Why an attempt failed, and what is to be done about it.
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
        let failure = Failure::new(format!("can't connect to {config}: no answer in time"));
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
        let failure = Failure { maybe_applied: true, ..Failure::new("statement failed: no answer in time") };
        Self { failure, reaction: Reaction::Refresh }
    }
}

/// Whether a statement may have been applied although this was its answer.
fn leaves_outcome_unknown(db: &DbError) -> bool {
    let code = db.code().code();
    !is_conflict(db)
        && (code.starts_with("08")
            || matches!(code, "40003" | "XX000")
            || severity(db) == Some(Severity::Panic))
}

/// Another transaction was in the way, and this one was rolled back. Aurora DSQL puts its own codes, OC000 and OC001, into
/// the message.
fn is_conflict(db: &DbError) -> bool {
    let code = db.code().code();
    let dsql = |text: &str| text.contains("OC000") || text.contains("OC001");
    // In other classes a message may quote what a client sent.
    let says_so = matches!(&code[..2], "40" | "XX" | "OC") && dsql(db.message());
    matches!(code, "40001" | "40P01" | "OC000" | "OC001") || says_so
}

/// The severity, from the field that is never translated, or where a pooler leaves that out, from the other one.
fn severity(db: &DbError) -> Option<Severity> {
    db.parsed_severity().or_else(|| match db.severity() {
        "PANIC" => Some(Severity::Panic),
        "FATAL" => Some(Severity::Fatal),
        _ => None,
    })
}

/// A row of the [table](self), or several that are alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// No connection: try to get one.
    Reconnect,
    /// This connection is of no use any more: take a fresh one.
    Refresh,
    /// Another transaction was in the way: the same again.
    Conflict,
    /// A request with the same key at the same moment: the next attempt sees its row.
    Twin,
    /// The session does not know the prepared statement any more, or not as it was.
    Unprepared,
    /// The server hit its own time limit.
    TimeLimit,
    /// The server has no room for another statement or connection.
    Overload,
    /// The client's text, not the statement, is at fault.
    Unencodable,
    /// Nothing that a repetition could change.
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
            // Fatal, but only because they come while connecting: no such database, no permission for it.
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

    /// Before the attempt after the n-th failure of this kind; random, so that those who collided don't do so again.
    fn pause(self, n: usize) -> Duration {
        let milliseconds = |range| Duration::from_millis(rand::random_range(range));
        match self {
            Self::Reconnect => milliseconds(50..150) * if n == 1 { 1 } else { 2 },
            Self::Twin => milliseconds(5..25),
            // Exponentially longer, with full jitter.
            Self::Conflict => {
                rand::random_range(Duration::ZERO..=MAX_PAUSE.min(Duration::from_millis(10 << n.min(6))))
            }
            _ => Duration::ZERO,
        }
    }
}
