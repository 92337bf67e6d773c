//! Applies `migrations/`, in order, each once.
//!
//! A migration is one statement, valid on PostgreSQL and on Aurora DSQL, and harmless when repeated. Aurora DSQL
//! allows one DDL statement per transaction and has no advisory locks, so several appliers may run the same
//! statement at the same moment; `IF NOT EXISTS` doesn't make that safe, but the loser repeats and finds it done.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, error::SqlState, types::Type};

use crate::{
    config::Config,
    db::{CONNECT_TIMEOUT, Session},
    error::{Error, Failure},
};

/// All migrations by name, in order. A name is recorded once it was applied: never rename one.
const MIGRATIONS: [(&str, &str); 2] = [
    ("0001_create_users", include_str!("../migrations/0001_create_users.sql")),
    ("0002_create_idempotency_keys", include_str!("../migrations/0002_create_idempotency_keys.sql")),
];

const RECORD_TABLE: &str = "\
    CREATE TABLE IF NOT EXISTS schema_migrations (\
        name TEXT PRIMARY KEY, \
        applied_at TIMESTAMPTZ NOT NULL DEFAULT now())";

/// How often a statement is tried that another applier keeps getting in the way of.
const TRIES: usize = 10;

/// Applies what has not been applied yet, and returns its names.
///
/// # Errors
/// [`Error::Unavailable`] if the database can't be reached, [`Error::Internal`] if it refuses a statement.
pub async fn apply(config: &Config) -> Result<Vec<&'static str>, Error> {
    let session = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await?;
    let client = &session.client;
    run(client, RECORD_TABLE).await?;
    let applied: Vec<String> = client
        .query_typed("SELECT name FROM schema_migrations", &[])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;

    let mut new = Vec::new();
    for (name, sql) in MIGRATIONS {
        if applied.iter().all(|applied| applied != name) {
            run(client, sql).await?;
            let record = "INSERT INTO schema_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING";
            client.execute_typed(record, &[(&name, Type::TEXT)]).await?;
            new.push(name);
        }
    }
    Ok(new)
}

/// Runs one statement, again if another applier was faster.
async fn run(client: &Client, sql: &str) -> Result<(), Error> {
    let mut tries = 1;
    while let Err(error) = client.batch_execute(sql).await {
        if tries == TRIES || !lost_a_race(&error) {
            let mut failure = Failure::of_statement(&error);
            failure.attempts = tries;
            return Err(Error::Internal(failure));
        }
        tries += 1;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The ways in which PostgreSQL (42P07, 23505 on a catalogue, XX000 "tuple concurrently updated") and Aurora DSQL
/// (40001) tell that somebody else does the same.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_in_order_and_holds_one_statement() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, MIGRATIONS.map(|(name, _)| format!("{name}.sql")));
        for (name, sql) in MIGRATIONS {
            assert_eq!(sql.matches(';').count(), 1, "{name}");
            assert!(sql.trim_end().ends_with(';'), "{name}");
        }
    }
}
