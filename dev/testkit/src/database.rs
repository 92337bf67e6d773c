//! A database per test.

use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use native_tls::{Certificate, TlsConnector};
use postgres::{Client, Config, NoTls, config::SslMode};
use postgres_native_tls::MakeTlsConnector;
use shared::{
    migrate::apply,
    roles::{Access, Role, grant},
};

use crate::{Proxy, lock};

/// A database of one test's own, dropped with the value.
///
/// The server is the one at `TEST_DATABASE_URL`, a superuser's URL. The first database of a test process makes a
/// migrated template, of which the others are clones, and with it their privileges: roles belong to all databases of a
/// server, so a process has one for each [`Access`]. Template and roles, and what a crashed run left behind, are dropped
/// by the next run.
#[derive(Debug)]
pub struct Database {
    name: String,
}

impl Database {
    /// A migrated database.
    ///
    /// # Panics
    /// When the server can't be used: a test without its database has failed.
    #[expect(clippy::new_without_default, reason = "a default that creates a database would surprise")]
    pub fn new() -> Self {
        let run = Run::current();
        let template = run.template.get_or_init(|| {
            let name = run.create("template0");
            migrate(&url(&name)).expect("migrating the template");
            name
        });
        Self { name: run.create(template) }
    }

    /// A database in which nothing was created yet.
    ///
    /// # Panics
    /// As [`Database::new`].
    pub fn empty() -> Self {
        Self { name: Run::current().create("template0") }
    }

    /// A migrated database that stores text in this encoding.
    ///
    /// # Panics
    /// As [`Database::new`].
    pub fn in_encoding(encoding: &str) -> Self {
        let database =
            Self { name: Run::current().create(&format!("template0 ENCODING {encoding} LOCALE 'C'")) };
        database.migrate().expect("migrating");
        database
    }

    /// Applies the migrations, tells which were new, and gives the [roles](role) their access.
    pub fn migrate(&self) -> Result<Vec<&'static str>, shared::Error> {
        migrate(&self.url())
    }

    /// `DATABASE_URL` for a function: verified TLS where the server's URL asks for it.
    pub fn url(&self) -> String {
        url(&self.name)
    }

    /// The same by way of a proxy. The host keeps its name, so certificates stay valid.
    pub fn url_via(&self, proxy: &Proxy) -> String {
        Server::current().url(proxy.port(), &self.name)
    }

    /// The same without TLS.
    pub fn plain_url_via(&self, proxy: &Proxy) -> String {
        self.plain_url_at(proxy.port())
    }

    /// The same without TLS at another port, where something else speaks for the server.
    pub fn plain_url_at(&self, port: u16) -> String {
        let Server { credentials, host, .. } = Server::current();
        format!("postgres://{credentials}@{host}:{port}/{}?sslmode=disable", self.name)
    }

    /// The URL of a new role of this database's own that may read and write the tables and nothing else.
    ///
    /// # Panics
    /// When there is one already.
    pub fn url_of_role(&self, password: &str) -> String {
        self.create_role(password, Server::current().port)
    }

    /// The same by way of a proxy.
    ///
    /// # Panics
    /// As [`Database::url_of_role`].
    pub fn role_url_via(&self, proxy: &Proxy) -> String {
        self.create_role("password", proxy.port())
    }

    fn create_role(&self, password: &str, port: u16) -> String {
        let role = &self.name;
        let quoted = password.replace('\'', "''");
        self.execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{quoted}';
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
        ));
        let encoded = percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC);
        let Server { host, query, .. } = Server::current();
        format!("postgres://{role}:{encoded}@{host}:{port}/{}?{query}", self.name)
    }

    /// Waits until so many statements wait for a lock.
    ///
    /// # Panics
    /// After 10 seconds.
    pub fn wait_for_locks(&self, statements: i64) {
        let mut client = self.client();
        for _ in 0..1000 {
            let waiting = "SELECT count(*) FROM pg_stat_activity, pg_sleep(0.01)
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            if client.query_one(waiting, &[]).expect("asking for locks").get::<_, i64>(0) == statements {
                return;
            }
        }
        panic!("there were never {statements} statements that wait for a lock");
    }

    /// The database's name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection of the test's own, to arrange and to assert.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn client(&self) -> Client {
        Server::current().client(&self.name)
    }

    /// Runs statements that return nothing.
    ///
    /// # Panics
    /// When one fails.
    pub fn execute(&self, statements: &str) {
        self.client().batch_execute(statements).expect("arranging the database");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // No panic: this may run while a failed test unwinds. What stays is swept by the next run.
        let _ = remove(&mut lock(&Run::current().admin), &self.name);
    }
}

/// The password of the [roles](role).
pub(crate) const PASSWORD: &str = "password";

/// Four roles, one for each kind of access, whose names begin like this.
pub fn roles(prefix: &str) -> [Role; 4] {
    Access::ALL.map(|access| Role {
        name: role_name(prefix, access).try_into().expect("the name of a role"),
        access,
        iam_roles: Vec::new(),
    })
}

/// The role that has this access to all databases of this test process.
pub fn role(access: Access) -> String {
    role_name(&Run::current().prefix(), access)
}

fn role_name(prefix: &str, access: Access) -> String {
    format!("{prefix}_{access:?}").to_lowercase()
}

/// A superuser's URL as that of the [role] with this access. Any other stays as it is.
pub fn as_role(access: Access, url: &str) -> String {
    as_user(&role(access), url)
}

/// A superuser's URL as that of a user with the password `password`. Any other stays as it is.
pub fn as_user(user: &str, url: &str) -> String {
    let superuser = format!("//{}@", Server::current().credentials);
    url.replacen(&superuser, &format!("//{user}:{PASSWORD}@"), 1)
}

/// Drops a database, and the roles whose names begin like its own.
fn remove(admin: &mut Client, name: &str) -> Result<(), postgres::Error> {
    // FORCE: the binary under test may still hold its connection.
    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))?;
    let roles = "SELECT rolname FROM pg_roles WHERE rolname = $1 OR starts_with(rolname, $1 || '_')";
    for role in admin.query(roles, &[&name])? {
        admin.batch_execute(&format!("DROP ROLE IF EXISTS {}", role.get::<_, &str>(0)))?;
    }
    Ok(())
}

fn url(database: &str) -> String {
    let server = Server::current();
    server.url(server.port, database)
}

fn migrate(url: &str) -> Result<Vec<&'static str>, shared::Error> {
    let config = shared::Config::from_url(url, None).expect("the test server's URL is understood");
    block_on(async {
        let applied = apply(&config).await?;
        grant(&config, &roles(&Run::current().prefix())).await?;
        Ok(applied)
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// The server that `TEST_DATABASE_URL` names.
#[derive(Debug)]
pub struct Server {
    /// `user:password`, percent-encoded as in the URL.
    pub credentials: String,
    /// The host's name, for which its certificate is valid.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What follows the `?`.
    pub query: String,
    database: String,
}

impl Server {
    /// Reads the variable once.
    ///
    /// # Panics
    /// When it is missing: a test without its server has failed.
    pub fn current() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let url = std::env::var("TEST_DATABASE_URL").unwrap_or_else(|_| {
                panic!("TEST_DATABASE_URL is not set: set it to a superuser's URL, or run `cargo xtask test`")
            });
            Self::parse(&url).unwrap_or_else(|| {
                panic!(
                    "TEST_DATABASE_URL is not of the form postgres://user:password@host:port/database?options"
                )
            })
        })
    }

    fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/')?;
        let (credentials, address) = authority.rsplit_once('@')?;
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
        Some(Self {
            credentials: credentials.to_owned(),
            host: host.to_owned(),
            port: port.parse().ok()?,
            query: query.to_owned(),
            database: database.to_owned(),
        })
    }

    fn url(&self, port: u16, database: &str) -> String {
        let Self { credentials, host, query, .. } = self;
        format!("postgres://{credentials}@{host}:{port}/{database}?{query}")
    }

    /// The value of one of the URL's options.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// The file with the CA of the server's certificate, unless the system's roots are meant.
    pub fn root_cert(&self) -> Option<String> {
        let value = self.option("sslrootcert")?;
        Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    pub(crate) fn client(&self, database: &str) -> Client {
        let Self { credentials, host, port, .. } = self;
        let mut config: Config =
            format!("postgres://{credentials}@{host}:{port}/{database}").parse().expect("TEST_DATABASE_URL");
        let connected = if self.option("sslmode") == Some("disable") {
            config.ssl_mode(SslMode::Disable).connect(NoTls)
        } else {
            let mut tls = TlsConnector::builder();
            if let Some(path) = self.root_cert() {
                let pem = std::fs::read(&path).expect("reading sslrootcert of TEST_DATABASE_URL");
                tls.add_root_certificate(
                    Certificate::from_pem(&pem).expect("sslrootcert is a PEM certificate"),
                );
            }
            let tls = MakeTlsConnector::new(tls.build().expect("TLS"));
            config.ssl_mode(SslMode::Require).connect(tls)
        };
        connected.unwrap_or_else(|error| panic!("connecting to the server at TEST_DATABASE_URL: {error:?}"))
    }
}

/// This test process: its number is part of every database's name, and locked while the process lives.
struct Run {
    number: i64,
    admin: Mutex<Client>,
    databases: AtomicU32,
    template: OnceLock<String>,
}

impl Run {
    fn current() -> &'static Self {
        static RUN: OnceLock<Run> = OnceLock::new();
        RUN.get_or_init(|| {
            let server = Server::current();
            let mut admin = server.client(&server.database);
            sweep(&mut admin);
            // Session-level: the server lets go of it however this process ends.
            let number = admin
                .query_one(
                    "SELECT n, pg_advisory_lock(n) FROM (SELECT (random() * 1e15)::bigint AS n OFFSET 0) AS run",
                    &[],
                )
                .expect("locking the number of this run")
                .get(0);
            let run =
                Self { number, admin: Mutex::new(admin), databases: AtomicU32::new(0), template: OnceLock::new() };
            for role in roles(&run.prefix()) {
                lock(&run.admin)
                    .batch_execute(&format!("CREATE ROLE {} LOGIN PASSWORD '{PASSWORD}'", role.name))
                    .expect("creating a role");
            }
            run
        })
    }

    /// How the name of everything begins that this process leaves on the server.
    fn prefix(&self) -> String {
        format!("test_{}", self.number)
    }

    /// Creates a database from a template, whose name other options may follow.
    fn create(&self, template: &str) -> String {
        let name = format!("{}_{}", self.prefix(), self.databases.fetch_add(1, Ordering::Relaxed));
        lock(&self.admin)
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .expect("creating a database");
        name
    }
}

/// Drops the databases and roles of runs that are over.
fn sweep(admin: &mut Client) {
    let leftovers = admin
        .query(
            // Databases first: they hold privileges of roles.
            r"SELECT name, split_part(name, '_', 2)::bigint
              FROM (SELECT datname, 1 FROM pg_database UNION SELECT rolname, 2 FROM pg_roles) AS known (name, kind)
              WHERE name ~ '^test_\d{1,18}_\w+$' ORDER BY kind",
            &[],
        )
        .expect("listing what earlier runs left");
    for leftover in leftovers {
        let (name, run): (String, i64) = (leftover.get(0), leftover.get(1));
        let over: bool =
            admin.query_one("SELECT pg_try_advisory_lock($1)", &[&run]).expect("asking for a lock").get(0);
        if over {
            remove(admin, &name).expect("dropping what an earlier run left");
            admin.execute("SELECT pg_advisory_unlock($1)", &[&run]).expect("giving back the lock");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exists(name: &str) -> bool {
        let mut admin = Server::current().client(&Server::current().database);
        admin.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name]).unwrap().is_some()
    }

    #[test]
    fn a_database_is_dropped_also_when_its_test_panics() {
        let (send, receive) = std::sync::mpsc::channel();
        let test = std::thread::spawn(move || {
            let database = Database::new();
            send.send(database.name().to_owned()).unwrap();
            let _connected = database.client();
            panic!("as a failed test does");
        });
        assert!(test.join().is_err());
        assert!(!exists(&receive.recv().unwrap()));
    }

    #[test]
    fn what_a_crashed_run_left_is_swept_and_what_is_in_use_is_not() {
        let server = Server::current();
        let mut admin = server.client(&server.database);
        // Nobody holds the lock of this run's number.
        let crashed = format!("test_{}_0", 2_000_000_000_000_000 + i64::from(std::process::id()));
        admin.batch_execute(&format!("CREATE DATABASE {crashed}")).unwrap();
        let role = format!("test_{}_reader", crashed.split('_').nth(1).unwrap());
        for role in [&crashed, &format!("{crashed}_reader"), &role] {
            admin
                .batch_execute(&format!("CREATE ROLE {role}; GRANT CREATE ON DATABASE {crashed} TO {role}"))
                .unwrap();
        }
        let in_use = Database::new();

        sweep(&mut admin);

        assert!(!exists(&crashed));
        let left = "SELECT FROM pg_roles WHERE starts_with(rolname, $1)";
        assert!(admin.query(left, &[&role.strip_suffix("reader")]).unwrap().is_empty());
        assert!(exists(in_use.name()));
    }

    #[test]
    fn each_database_is_migrated_and_has_nothing_of_another() {
        let (one, other) = (Database::new(), Database::new());
        one.execute("INSERT INTO users (name, age) VALUES ('Alice', 30)");
        let count = |database: &Database| -> i64 {
            database.client().query_one("SELECT count(*) FROM users", &[]).unwrap().get(0)
        };
        assert_eq!((count(&one), count(&other)), (1, 0));
        assert!(other.migrate().unwrap().is_empty());
    }
}
