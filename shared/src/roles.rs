//! Makes the database roles as which the functions connect.

use std::fmt;

use serde::Deserialize;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::{
    admin::{ensure, run},
    config::Config,
    credentials::Service,
    db::Session,
    error::Error,
    limits::{CONNECT_TIMEOUT, LOCK_TIMEOUT, SERVER_STATEMENT_TIMEOUT},
};

/// A database role.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// What it may do.
    pub access: Access,
    /// The ARNs of the IAM roles that may connect as it; only Aurora DSQL keeps them in the database.
    #[serde(default)]
    pub iam_roles: Vec<String>,
}

/// The name of a role: lower-case letters, digits and underscores, a letter first, 63 characters at most. It needs no
/// quotes in a statement.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RoleName(String);

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RoleName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let valid = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        if name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(valid) {
            Ok(Self(name))
        } else {
            Err(format!("{name:?} can't be the name of a role"))
        }
    }
}

/// What a role may do: as much as its statements in [`crate::users`] need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read users.
    Read,
    /// Create users, and remember the keys of the requests that did.
    Create,
    /// Change users.
    Update,
    /// Delete users.
    Delete,
}

impl Access {
    /// Every kind of access.
    pub const ALL: [Self; 4] = [Self::Read, Self::Create, Self::Update, Self::Delete];

    /// Privileges on tables. A `RETURNING` or a `WHERE` reads, so every role may read users.
    fn privileges(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Read => &[("SELECT", "users")],
            Self::Create => &[
                ("SELECT", "users"),
                ("INSERT", "users"),
                ("SELECT", "idempotency_keys"),
                ("INSERT", "idempotency_keys"),
            ],
            Self::Update => &[("SELECT", "users"), ("UPDATE", "users")],
            Self::Delete => &[("SELECT", "users"), ("DELETE", "users")],
        }
    }
}

/// Makes these roles as far as they don't exist, and gives them what they lack. What a role has beyond that stays.
///
/// With an IAM token in the `config`, the roles connect with tokens too; else somebody has to give them passwords.
///
/// # Errors
/// [`Error::Unavailable`] if the database can't be reached or the connection breaks, [`Error::Internal`] if it refuses a
/// statement.
pub async fn grant(config: &Config, roles: &[Role]) -> Result<(), Error> {
    let session = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await?;
    for role in roles {
        grant_role(&session.client, config.service(), role).await?;
    }
    Ok(())
}

/// Each GRANT is a conflict for every other session of Aurora DSQL, so what a role has is not given again.
async fn grant_role(client: &Client, service: Option<Service>, role: &Role) -> Result<(), Error> {
    let Role { name: RoleName(name), access, iam_roles } = role;
    let what = &format!("role {name}");
    let exists = format!("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = '{name}'");
    ensure(client, what, &exists, &format!("CREATE ROLE {name} WITH LOGIN")).await?;
    for (privilege, table) in access.privileges() {
        let has = privilege_check("table", name, table, privilege);
        ensure(client, what, &has, &format!("GRANT {privilege} ON {table} TO {name}")).await?;
    }
    if service == Some(Service::Dsql) {
        // Everybody has it on PostgreSQL.
        let has = privilege_check("schema", name, "public", "USAGE");
        ensure(client, what, &has, &format!("GRANT USAGE ON SCHEMA public TO {name}")).await?;
    }
    if *access == Access::Create {
        // A table made by the guide has a sequence of its own, on which INSERT needs a privilege.
        let sequences = "SELECT pg_catalog.pg_get_serial_sequence('users'::text, 'id'::text)";
        for sequence in run(client, what, sequences).await? {
            let has = privilege_check("sequence", name, &sequence, "USAGE");
            ensure(client, what, &has, &format!("GRANT USAGE ON SEQUENCE {sequence} TO {name}")).await?;
        }
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
            // Aurora DSQL knows none of the settings below.
            return Ok(());
        }
        Some(Service::Rds) => {
            let member = format!(
                "SELECT 1 WHERE pg_catalog.pg_has_role('{name}'::name, 'rds_iam'::name, 'MEMBER'::text)"
            );
            ensure(client, what, &member, &format!("GRANT rds_iam TO {name}")).await?;
        }
        None => {}
    }
    for (setting, value) in settings() {
        let has = format!(
            "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = '{name}' AND '{setting}={value}'::text = ANY (rolconfig)"
        );
        ensure(client, what, &has, &format!("ALTER ROLE {name} SET {setting} = '{value}'")).await?;
    }
    Ok(())
}

/// Time limits below ours, so that the server ends what we have given up; that an acknowledged write is on disk, whatever
/// the server's own settings are; and plans that outlive the growth of a table.
fn settings() -> [(&'static str, String); 5] {
    [
        ("lock_timeout", format!("{}s", LOCK_TIMEOUT.as_secs())),
        ("statement_timeout", format!("{}s", SERVER_STATEMENT_TIMEOUT.as_secs())),
        // An environment that was killed leaves its session open.
        ("idle_session_timeout", "10min".to_owned()),
        ("synchronous_commit", "on".to_owned()),
        // A plan that was made once for a small table would read all of it when it has grown.
        ("enable_seqscan", "off".to_owned()),
    ]
}

/// Has a row if the role has the privilege. The types are said, so that no function of somebody else's fits better.
fn privilege_check(kind: &str, role: &str, object: &str, privilege: &str) -> String {
    format!(
        "SELECT 1 WHERE pg_catalog.has_{kind}_privilege('{role}'::name, '{object}'::text, '{privilege}'::text)"
    )
}
