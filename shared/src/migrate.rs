//! Applies the `migrations/`, in order, each once.
//!
//! A migration is one statement, valid on PostgreSQL and on Aurora DSQL, and harmless when repeated. Aurora DSQL
//! allows one DDL statement per transaction and has no advisory locks, so several processes may run the same
//! statement at the same time; `IF NOT EXISTS` doesn't make that safe, but the loser retries and finds it done.

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::{
    admin::run,
    config::Config,
    db::Session,
    error::{Error, Failure},
    limits::CONNECT_TIMEOUT,
};

/// All migrations by name, in order. The names of applied ones are recorded in the database: never rename one.
const MIGRATIONS: [(&str, &str); 2] = [
    ("0001_create_users", include_str!("../migrations/0001_create_users.sql")),
    ("0002_create_idempotency_keys", include_str!("../migrations/0002_create_idempotency_keys.sql")),
];

const RECORD_TABLE: &str = "\
    CREATE TABLE IF NOT EXISTS schema_migrations (\
        name TEXT PRIMARY KEY, \
        applied_at TIMESTAMPTZ NOT NULL DEFAULT now())";

/// Applies the migrations that have not been applied yet, and returns their names.
///
/// # Errors
/// [`Error::Unavailable`] if the database can't be reached or the connection breaks, [`Error::Internal`] if it rejects
/// a statement.
pub async fn apply(config: &Config) -> Result<Vec<&'static str>, Error> {
    let session = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await?;
    let client = &session.client;
    if let Err(error) = run(client, "schema_migrations", RECORD_TABLE).await {
        return Err(explained(client, error).await);
    }
    let applied = run(client, "schema_migrations", "SELECT name FROM schema_migrations").await?;

    let mut new = Vec::new();
    for (name, sql) in MIGRATIONS {
        if applied.iter().all(|applied| applied != name) {
            run(client, name, sql).await?;
            let record =
                format!("INSERT INTO schema_migrations (name) VALUES ('{name}') ON CONFLICT DO NOTHING");
            run(client, name, &record).await?;
            new.push(name);
        }
    }
    Ok(new)
}

/// Adds the statement that fixes it to a "permission denied". On PostgreSQL 15 and later, all privileges on a database
/// do not include creating tables in schema `public`; owning the database does.
async fn explained(client: &Client, error: Error) -> Error {
    const LINE: &str =
        "SELECT pg_catalog.format('ALTER DATABASE %I OWNER TO %I', current_database(), current_user)";
    match error {
        Error::Internal(failure) if failure.sqlstate.as_deref() == Some("42501") => {
            let lines = run(client, "schema_migrations", LINE).await.unwrap_or_default();
            let help = lines.iter().map(|line| format!("; a superuser can run: {line}"));
            Error::Internal(Failure { reason: failure.reason + &help.collect::<String>(), ..failure })
        }
        error => error,
    }
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
