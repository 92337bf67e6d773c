//! Configuration: where the database is and how to connect to it, read from the environment.
//!
//! | variable | meaning | when unset or empty |
//! |---|---|---|
//! | `DATABASE_URL` | `postgres://user:password@host:port/database`; see below | `postgres://myuser:mypassword@localhost:5432/mydb` |
//! | `PGUSER` | the user, if the URL has none | – |
//! | `PGPASSWORD` | the password, if the URL has none | – |
//! | `DATABASE_AUTH` | how to authenticate: `password`, or a fresh IAM token for each connection: `dsql` (Aurora DSQL) or `rds` (RDS, Aurora, RDS Proxy) | `password` |
//! | `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | what tokens are signed with; Lambda sets them | – |
//! | `DATABASE_POOLER` | what sits in front of the database: `transaction`, a pooler that may give each transaction a different connection, so that prepared statements can't be used; or `none`, so that each connection prepares its statements | `transaction` |
//! | `PGSSLROOTCERT` | path of a PEM file with the certificate authorities to trust instead of the system's; `system` for the system's | the system's |
//!
//! In the URL, the characters `@ : / ? # %` in a user name or password must be percent-encoded. Several hosts are
//! separated by commas; the first one that accepts writes is used. After `?` come [options of
//! `tokio-postgres`](tokio_postgres::Config#keys), and:
//!
//! - `sslmode`. For any host but loopback, TLS is required and the server's certificate chain and host name are
//!   verified (libpq's `verify-full`), regardless of `sslmode`. If every host is loopback, `require`, `verify-ca` and
//!   `verify-full` do the same; with `disable`, `allow`, `prefer` or no `sslmode`, TLS is not used.
//! - `sslrootcert`: same as `PGSSLROOTCERT`, and takes precedence over it.
//! - `sslnegotiation=direct` starts TLS at once instead of requesting it first, which saves a round trip, and requires
//!   TLS on loopback too. Aurora DSQL and PostgreSQL 17 or later support it; other servers close the connection.
//!
//! With an IAM token the URL must name exactly one host, because a token is valid for one host.

use std::{borrow::Cow, env, fmt, fs, net::IpAddr};

use native_tls::{Certificate, TlsConnector};
use percent_encoding::percent_decode_str;
use postgres_native_tls::{MakeTlsConnector, set_postgresql_alpn};
use tokio_postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};

use crate::{
    credentials::{Service, Signer},
    error::{ConfigError, Failure},
    limits::{CONNECT_TIMEOUT, TCP_USER_TIMEOUT},
};

/// The guide's database, for local use.
const DEFAULT_URL: &str = "postgres://myuser:mypassword@localhost:5432/mydb";

/// Where the database is and how to connect to it securely.
pub struct Config {
    options: tokio_postgres::Config,
    credential: Credential,
    pub(crate) tls: MakeTlsConnector,
    pub(crate) pooler: Pooler,
}

/// What sits in front of the database. It can't be detected by trying: behind a pooler that gives each transaction a
/// different connection, a name may belong to another function's prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooler {
    /// Possibly a pooler in transaction mode.
    Transaction,
    /// Nothing: a connection always reaches the same session.
    None,
}

/// How a connection authenticates.
enum Credential {
    /// With the options' password, if any.
    Password,
    /// With a fresh token for each connection.
    Token(Signer),
}

impl Config {
    /// Reads the environment; the [module](self) lists the variables.
    ///
    /// # Errors
    /// One sentence that names the variable and says what is wrong with it, without any part of a password.
    pub fn from_env() -> Result<Self, ConfigError> {
        let url = variable("DATABASE_URL")?;
        let root_cert = variable("PGSSLROOTCERT")?;
        let mut config = Self::from_url(url.as_deref().unwrap_or(DEFAULT_URL), root_cert.as_deref())?;
        if let (None, Some(user)) = (config.options.get_user(), variable("PGUSER")?) {
            config.options.user(user);
        }
        if let (None, Some(password)) = (config.options.get_password(), variable("PGPASSWORD")?) {
            config.options.password(password);
        }
        config.pooler = match variable("DATABASE_POOLER")?.as_deref() {
            None | Some("transaction") => Pooler::Transaction,
            Some("none") => Pooler::None,
            Some(_) => {
                return Err(ConfigError("DATABASE_POOLER is invalid: use transaction or none".to_owned()));
            }
        };
        let service = match variable("DATABASE_AUTH")?.as_deref() {
            None | Some("password") => return Ok(config),
            Some("dsql") => Service::Dsql,
            Some("rds") => Service::Rds,
            Some(_) => {
                return Err(ConfigError("DATABASE_AUTH is invalid: use password, dsql or rds".to_owned()));
            }
        };
        let region = variable("AWS_REGION")?
            .ok_or_else(|| ConfigError("AWS_REGION is not set, and an IAM token needs it".to_owned()))?;
        config.credential = Credential::Token(signer(&config.options, service, region)?);
        Ok(config)
    }

    /// The same from values, with password authentication and the default pooler setting: `url` is `DATABASE_URL`,
    /// `root_cert` is `PGSSLROOTCERT`.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_url(url: &str, root_cert: Option<&str>) -> Result<Self, ConfigError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(ConfigError::url("must start with postgres:// or postgresql://"));
        }
        // Anything before the last @ may be secret; no message below quotes it.
        if url.matches('@').count() > 1 {
            return Err(ConfigError::url(
                "holds more than one @: write those of the user name or password as %40",
            ));
        }
        let (url, tls) = TlsOptions::take_from(url)?;
        let mut options: tokio_postgres::Config =
            url.parse().map_err(|error| ConfigError::unreadable(&error))?;
        if options.get_hosts().is_empty() && options.get_hostaddrs().is_empty() {
            return Err(ConfigError::url("names no host"));
        }

        options.tcp_user_timeout(TCP_USER_TIMEOUT);
        let direct = options.get_ssl_negotiation() == SslNegotiation::Direct;
        options.ssl_mode(if direct || tls.required || !is_loopback(&options) {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        if options.get_hosts().len() > 1 {
            options.target_session_attrs(TargetSessionAttrs::ReadWrite);
            // An unreachable host must leave time for the next one.
            options.connect_timeout(CONNECT_TIMEOUT / 2);
        }
        let tls = connector(tls.root_cert.as_deref().or(root_cert), direct)?;
        Ok(Self { options, credential: Credential::Password, tls, pooler: Pooler::Transaction })
    }

    /// The options for the next connection, with a credential made for it.
    pub(crate) async fn connect_options(&self) -> Result<Cow<'_, tokio_postgres::Config>, Failure> {
        match &self.credential {
            Credential::Password => Ok(Cow::Borrowed(&self.options)),
            Credential::Token(signer) => {
                let mut options = self.options.clone();
                options.password(signer.token().await?);
                Ok(Cow::Owned(options))
            }
        }
    }

    /// The service that checks the IAM token, if tokens are used.
    pub(crate) fn service(&self) -> Option<Service> {
        match &self.credential {
            Credential::Password => None,
            Credential::Token(signer) => Some(signer.service),
        }
    }
}

/// Where the database is, as `host:port/database`, without credentials.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.options.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let addresses = self.options.get_hostaddrs().iter().skip(names.len()).map(ToString::to_string);
        let ports = self.options.get_ports();
        for (n, host) in names.chain(addresses).enumerate() {
            let port = ports.get(n).or(ports.first()).unwrap_or(&5432);
            write!(f, "{}{host}:{port}", if n > 0 { "," } else { "" })?;
        }
        // The user is PostgreSQL's default if the URL names no database.
        let database = self.options.get_dbname().or(self.options.get_user());
        write!(f, "/{}", database.unwrap_or_default())
    }
}

/// A variable's value; `None` if it is unset or empty.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is where Lambda's users put the configuration"
)]
fn variable(name: &str) -> Result<Option<String>, ConfigError> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(ConfigError(format!("{name} is not UTF-8"))),
    }
}

impl ConfigError {
    fn url(problem: &str) -> Self {
        Self(format!("DATABASE_URL {problem}"))
    }

    fn unreadable(error: &tokio_postgres::Error) -> Self {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        Self::url(&format!("can't be read: {}", cause.unwrap_or_else(|| error.to_string())))
    }
}

/// The URL options of libpq that `tokio-postgres` doesn't support, or not with all their values.
#[derive(Default)]
struct TlsOptions {
    required: bool,
    root_cert: Option<String>,
}

impl TlsOptions {
    /// Splits `url` into the part that `tokio-postgres` reads and the options that we handle.
    fn take_from(url: &str) -> Result<(String, Self), ConfigError> {
        let mut ours = Self::default();
        // A ? before the @ belongs to the password.
        let host = url.find('@').unwrap_or(0);
        let Some(question_mark) = url[host..].find('?').map(|at| host + at) else {
            return Ok((url.to_owned(), ours));
        };
        let mut theirs = Vec::new();
        for option in url[question_mark + 1..].split('&') {
            match option.split_once('=') {
                Some(("sslmode", "disable" | "allow" | "prefer")) => ours.required = false,
                Some(("sslmode", "require" | "verify-ca" | "verify-full")) => ours.required = true,
                Some(("sslmode", _)) => {
                    return Err(ConfigError::url(
                        "has an unknown sslmode: use disable, allow, prefer, require, verify-ca or verify-full",
                    ));
                }
                Some(("sslrootcert", path)) => {
                    ours.root_cert = Some(percent_decode_str(path).decode_utf8_lossy().into_owned());
                }
                _ => theirs.push(option),
            }
        }
        Ok((format!("{}?{}", &url[..question_mark], theirs.join("&")), ours))
    }
}

fn signer(config: &tokio_postgres::Config, service: Service, region: String) -> Result<Signer, ConfigError> {
    let [Host::Tcp(host)] = config.get_hosts() else {
        return Err(ConfigError::url("must name exactly one host: an IAM token is made for one"));
    };
    let user = config.get_user().ok_or_else(|| {
        ConfigError("PGUSER is not set, DATABASE_URL names no user, and an IAM token needs one".to_owned())
    })?;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    Ok(Signer { service, region, host: host.clone(), port, user: user.to_owned() })
}

fn is_loopback(config: &tokio_postgres::Config) -> bool {
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        Host::Unix(_) => true,
    });
    hosts && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

fn connector(root_cert: Option<&str>, direct: bool) -> Result<MakeTlsConnector, ConfigError> {
    let mut builder = TlsConnector::builder();
    if direct {
        // The server requires ALPN, to prevent cross-protocol attacks.
        set_postgresql_alpn(&mut builder);
    }
    if let Some(path) = root_cert.filter(|path| *path != "system") {
        let unusable = |problem| ConfigError(format!("PGSSLROOTCERT or sslrootcert: {problem}: {path}"));
        let pem = fs::read(path).map_err(|_| unusable("can't read the file"))?;
        let certificates = Certificate::stack_from_pem(&pem)
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .ok_or_else(|| unusable("no PEM certificates in the file"))?;
        builder.disable_built_in_roots(true);
        for certificate in certificates {
            builder.add_root_certificate(certificate);
        }
    }
    let connector = builder.build().map_err(|error| ConfigError(format!("TLS can't be set up: {error}")))?;
    Ok(MakeTlsConnector::new(connector))
}
