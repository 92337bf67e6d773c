//! Applies `migrations/`, in order, each once, and makes the database roles of the functions.
//!
//! A migration is one statement, valid on PostgreSQL and on Aurora DSQL, and harmless when repeated. Aurora DSQL
//! allows one DDL statement per transaction and has no advisory locks, so several appliers may run the same
//! statement at the same moment; `IF NOT EXISTS` doesn't make that safe, but the loser repeats and finds it done.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

use crate::{
    config::Config,
    credentials::Service,
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

/// A database role, as which functions connect.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Role {
    /// Lower case letters, digits and underscores, a letter first, 63 characters at most.
    pub name: String,
    /// What it may do.
    pub duty: Duty,
    /// The ARNs of the IAM roles that may connect as it; only Aurora DSQL keeps them in the database.
    #[serde(default)]
    pub iam_roles: Vec<String>,
}

/// What a role may do: as much as its statements in [`crate::users`] need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// Reading users.
    Reader,
    /// Creating users, and remembering the keys of the requests that did.
    Creator,
    /// Changing users.
    Updater,
    /// Deleting users.
    Deleter,
}

impl Duty {
    /// Privileges on tables. A `RETURNING` or a `WHERE` reads, so every duty may read users.
    fn grants(self) -> &'static [&'static str] {
        match self {
            Self::Reader => &["SELECT ON users"],
            Self::Creator => &["SELECT, INSERT ON users", "SELECT, INSERT ON idempotency_keys"],
            Self::Updater => &["SELECT, UPDATE ON users"],
            Self::Deleter => &["SELECT, DELETE ON users"],
        }
    }
}

/// Applies what has not been applied yet, and returns its names.
///
/// # Errors
/// [`Error::Unavailable`] if the database can't be reached or the connection breaks, [`Error::Internal`] if it refuses a statement.
pub async fn apply(config: &Config) -> Result<Vec<&'static str>, Error> {
    let session = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await?;
    let client = &session.client;
    run(client, "schema_migrations", RECORD_TABLE).await?;
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

/// Makes these roles as far as they don't exist, and gives them what their duties need. What a role has beyond that
/// stays.
///
/// With an IAM token in the `config`, the roles connect with tokens too; else somebody has to give them passwords.
///
/// # Errors
/// As [`apply`]; also [`Error::Internal`] for a name that is no [`Role::name`].
pub async fn grant(config: &Config, roles: &[Role]) -> Result<(), Error> {
    let session = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await?;
    for role in roles {
        if !is_identifier(&role.name) {
            return Err(Failure::new(format!("{:?} can't be the name of a role", role.name)).into());
        }
        grant_role(&session.client, config.service(), role).await?;
    }
    Ok(())
}

async fn grant_role(client: &Client, service: Option<Service>, role: &Role) -> Result<(), Error> {
    let Role { name, duty, iam_roles } = role;
    let what = &format!("role {name}");
    let exists = format!("SELECT 1 FROM pg_roles WHERE rolname = '{name}'");
    ensure(client, what, &exists, &format!("CREATE ROLE {name} WITH LOGIN")).await?;
    for privileges in duty.grants() {
        run(client, what, &format!("GRANT {privileges} TO {name}")).await?;
    }
    match service {
        // Source: https://docs.aws.amazon.com/aurora-dsql/latest/userguide/using-database-and-iam-roles.html
        Some(Service::Dsql) => {
            for arn in iam_roles {
                let arn = arn.replace('\'', "''");
                let mapped = format!(
                    "SELECT 1 FROM sys.iam_pg_role_mappings WHERE pg_role_name = '{name}' AND arn = '{arn}'"
                );
                ensure(client, what, &mapped, &format!("AWS IAM GRANT {name} TO '{arn}'")).await?;
            }
            // Aurora DSQL has neither tables like the guide's nor the time limits below.
            return Ok(());
        }
        Some(Service::Rds) => {
            run(client, what, &format!("GRANT rds_iam TO {name}")).await?;
        }
        None => {}
    }
    if *duty == Duty::Creator {
        // A table made by the guide has a sequence of its own, on which INSERT needs a privilege.
        for sequence in run(client, what, "SELECT pg_get_serial_sequence('users', 'id')").await? {
            run(client, what, &format!("GRANT USAGE ON SEQUENCE {sequence} TO {name}")).await?;
        }
    }
    // Below the time limits of `db`, so that the server ends what we have given up.
    for limit in ["lock_timeout = '1s'", "statement_timeout = '2s'", "idle_session_timeout = '10min'"] {
        run(client, what, &format!("ALTER ROLE {name} SET {limit}")).await?;
    }
    Ok(())
}

/// Runs `create`, for which there is no `IF NOT EXISTS`, unless `exists` has a row. It may fail if another applier was
/// faster.
async fn ensure(client: &Client, what: &str, exists: &str, create: &str) -> Result<(), Error> {
    if run(client, what, exists).await?.is_empty()
        && let Err(error) = run(client, what, create).await
        && run(client, what, exists).await?.is_empty()
    {
        return Err(error);
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    let valid = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(valid)
}

/// Runs one statement, again if another applier was faster, and returns its first column without NULLs. A failure is
/// told as one of `what`.
async fn run(client: &Client, what: &str, sql: &str) -> Result<Vec<String>, Error> {
    let mut tries = 1;
    loop {
        match client.simple_query(sql).await {
            Ok(messages) => return Ok(first_column(&messages)),
            Err(error) if tries == TRIES || !lost_a_race(&error) => {
                let failure = Failure { attempts: tries, ..Failure::of_statement(&error) };
                if error.as_db_error().is_none() {
                    return Err(Error::Unavailable(failure));
                }
                let reason = reason(what, &error).unwrap_or(failure.reason);
                return Err(Failure { reason, ..failure }.into());
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

/// The server's own words, unless they may quote what a table holds: classes 22 and 23 do.
fn reason(what: &str, error: &tokio_postgres::Error) -> Option<String> {
    let db = error.as_db_error()?;
    let code = db.code().code();
    (!code.starts_with("22") && !code.starts_with("23")).then(|| format!("{what}: {} ({code})", db.message()))
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
