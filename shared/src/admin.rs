//! Runs the owner's statements, which several may run at the same moment.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

use crate::error::{Error, Failure};

/// How often a statement is tried that another applier keeps getting in the way of.
const TRIES: usize = 10;

/// Runs `create`, for which there is no `IF NOT EXISTS`, unless `exists` has a row. It may fail if another applier was
/// faster.
pub(crate) async fn ensure(client: &Client, what: &str, exists: &str, create: &str) -> Result<(), Error> {
    if run(client, what, exists).await?.is_empty()
        && let Err(error) = run(client, what, create).await
        && run(client, what, exists).await?.is_empty()
    {
        return Err(error);
    }
    Ok(())
}

/// Runs one statement, again if another applier was faster, and returns its first column without NULLs. A failure is
/// reported as one of `what`.
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

/// The ways in which PostgreSQL (42P07, 42710, 23505 on a catalogue, XX000 "tuple concurrently updated") and Aurora
/// DSQL (40001) tell that somebody else does the same.
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
