//! Runs the owner's statements (migrations and grants), which several processes may run at the same time.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

use crate::error::{Error, Failure};

/// How many times a statement is tried if it keeps losing races against other processes.
const TRIES: usize = 10;

/// Runs `create`, which has no `IF NOT EXISTS`, unless `exists` returns a row. If `create` fails because another
/// process was faster, that counts as success.
pub(crate) async fn ensure(client: &Client, what: &str, exists: &str, create: &str) -> Result<(), Error> {
    if run(client, what, exists).await?.is_empty()
        && let Err(error) = run(client, what, create).await
        && run(client, what, exists).await?.is_empty()
    {
        return Err(error);
    }
    Ok(())
}

/// Runs one statement, retrying it if another process was faster, and returns its first column without NULLs. The
/// reason of an [`Error::Internal`] starts with `what`.
pub(crate) async fn run(client: &Client, what: &str, sql: &str) -> Result<Vec<String>, Error> {
    let mut tries = 1;
    loop {
        match client.simple_query(sql).await {
            Ok(messages) => return Ok(first_column(&messages)),
            Err(error) if tries == TRIES || !lost_a_race(&error) => {
                let failure = Failure { attempts: tries, ..Failure::of_statement(&error) };
                if error.as_db_error().is_none() {
                    return Err(Error::Unavailable(failure));
                }
                return Err(Error::Internal(Failure { reason: format!("{what}: {failure}"), ..failure }));
            }
            Err(_) => tries += 1,
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn first_column(messages: &[SimpleQueryMessage]) -> Vec<String> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    rows.map(str::to_owned).collect()
}

/// How PostgreSQL (42P07, 42710, 23505 on a catalog, 40P01, XX000 "tuple concurrently updated") and Aurora DSQL (40001)
/// report that another process is doing the same.
fn lost_a_race(error: &tokio_postgres::Error) -> bool {
    let race = [
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::UNIQUE_VIOLATION,
        SqlState::INTERNAL_ERROR,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ];
    error.code().is_some_and(|code| race.contains(code))
}
