//! Creates the database roles as which the functions connect.

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
    /// The ARNs of the IAM roles that may connect as it; used only on Aurora DSQL, which stores them in the database.
    #[serde(default)]
    pub iam_roles: Vec<String>,
}

/// The name of a role: lower-case ASCII letters, digits and underscores, starting with a letter, at most 63 characters.
/// Such a name is not quoted in statements.
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

/// What a role may do: just what its statements in [`crate::users`] need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read users.
    Read,
    /// Create users, and store the idempotency keys of the requests that did.
    Create,
    /// Change users.
    Update,
    /// Delete users.
    Delete,
}

impl Access {
    /// Every kind of access.
    pub const ALL: [Self; 4] = [Self::Read, Self::Create, Self::Update, Self::Delete];

    /// Privileges on tables. `RETURNING` and `WHERE` read, so every role may read users.
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

/// Creates those of these roles that don't exist, and grants them what they lack. Nothing is revoked.
///
/// If `config` uses IAM tokens, the roles connect with tokens too; otherwise somebody has to give them passwords.
///
/// # Errors
/// [`Error::Unavailable`] if the database can't be reached or the connection breaks, [`Error::Internal`] if it rejects
/// a statement.
pub async fn grant(config: &Config, roles: &[Role]) -> Result<(), Error> {
    let session = Session::open(config, Instant::now() + CONNECT_TIMEOUT).await?;
    for role in roles {
        grant_role(&session.client, config.service(), role).await?;
    }
    Ok(())
}

/// On Aurora DSQL each GRANT conflicts with every other session, so nothing is granted that a role already has.
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
        // On PostgreSQL everyone has it.
        let has = privilege_check("schema", name, "public", "USAGE");
        ensure(client, what, &has, &format!("GRANT USAGE ON SCHEMA public TO {name}")).await?;
    }
    if *access == Access::Create {
        // The guide's table has a SERIAL column: INSERT needs a privilege on its sequence.
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
            // Aurora DSQL supports none of the settings below.
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

/// Time limits below ours, so that the server ends what we have given up on; acknowledged writes are on disk,
/// regardless of the server's own settings; and no plan becomes slow as a table grows.
fn settings() -> [(&'static str, String); 5] {
    [
        ("lock_timeout", format!("{}s", LOCK_TIMEOUT.as_secs())),
        ("statement_timeout", format!("{}s", SERVER_STATEMENT_TIMEOUT.as_secs())),
        // A killed environment leaves its session open.
        ("idle_session_timeout", "10min".to_owned()),
        ("synchronous_commit", "on".to_owned()),
        // A cached plan made for a small table would still read all of it once it has grown.
        ("enable_seqscan", "off".to_owned()),
    ]
}

/// Returns a row if the role has the privilege. Arguments are cast, so that no user-defined function is a better match.
fn privilege_check(kind: &str, role: &str, object: &str, privilege: &str) -> String {
    format!(
        "SELECT 1 WHERE pg_catalog.has_{kind}_privilege('{role}'::name, '{object}'::text, '{privilege}'::text)"
    )
}
