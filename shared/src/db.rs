//! The one connection of an execution environment, and the one place that runs statements on it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::JoinHandle, time::timeout};
use tokio_postgres::{
    Client, Row,
    error::{Severity, SqlState},
    types::{ToSql, Type},
};

use crate::{
    config::{Config, ConfigError},
    error::{Error, Failure},
};

/// For all of a connect: name resolution, TCP, TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// For a statement, from handing it to the connection to its last row. Above the server's own
/// `statement_timeout` (2 s) and the kernel's TCP_USER_TIMEOUT (2.5 s), so that those speak first.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

/// A handle to the database, made once per process. It connects when needed and keeps the connection.
pub struct Database {
    config: Result<Config, ConfigError>,
    session: Mutex<Option<Arc<Session>>>,
}

impl Database {
    /// A handle for the database that the [environment](crate::config) names. A wrong environment is
    /// reported by every operation, as [`Error::Config`].
    pub fn from_env() -> Self {
        Self { config: Config::from_env(), session: Mutex::new(None) }
    }

    /// Connects ahead of the first operation. A failure is not reported: the first operation tries again.
    pub async fn warm_up(&self) {
        let _ = self.session().await;
    }

    /// Runs one statement in one round trip: Parse, Bind, Describe, Execute and Sync in one flight, and
    /// nothing that a transaction pooler would have to remember.
    pub(crate) async fn query(
        &self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        let session = self.session().await?;
        match timeout(QUERY_TIMEOUT, session.client.query_typed(sql, params)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                if !is_usable_after(&error) {
                    self.give_up(&session).await;
                }
                let failure = Failure::of_statement(&error);
                Err(if is_our_fault(&error) { Error::Internal(failure) } else { Error::Unavailable(failure) })
            }
            Err(_) => {
                self.give_up(&session).await;
                Err(Error::Unavailable(Failure::new("statement failed: no answer in time")))
            }
        }
    }

    /// The live connection, or a new one.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let config = self.config.as_ref().map_err(Clone::clone)?;
        let mut slot = self.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::open(config).await?);
        *slot = Some(session.clone());
        Ok(session)
    }

    /// Makes sure that nobody uses this connection again.
    async fn give_up(&self, session: &Arc<Session>) {
        session.task.abort();
        let mut slot = self.session.lock().await;
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *slot = None;
        }
    }
}

/// A connection and the task that drives it. The task would outlive a dropped client while a statement
/// is under way, so it is aborted.
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Session {
    pub(crate) async fn open(config: &Config) -> Result<Self, Error> {
        match timeout(CONNECT_TIMEOUT, config.postgres.connect(config.tls.clone())).await {
            Ok(Ok((client, connection))) => {
                let task = tokio::spawn(async move {
                    // How a connection ends is told to whoever waits for a statement on it.
                    let _ = connection.await;
                });
                Ok(Self { client, task })
            }
            Ok(Err(error)) => {
                let failure = Failure::of_connect(&error);
                Err(if is_our_fault(&error) { Error::Internal(failure) } else { Error::Unavailable(failure) })
            }
            Err(_) => Err(Error::Unavailable(Failure::new("can't connect: no answer in time"))),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the server has answered, and goes on serving this connection.
fn is_usable_after(error: &tokio_postgres::Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| !matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)))
}

/// Whether asking again can't help: the server understood us and refused for a reason that stays.
fn is_our_fault(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        let passing =
            [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::READ_ONLY_SQL_TRANSACTION];
        !passing.contains(code) && !["08", "28", "40", "53", "57", "58"].contains(&&code.code()[..2])
    })
}
