//! What is measured: how each is started, and what is deployed of it.

use std::{
    env,
    ffi::OsString,
    fs,
    io::Write,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use flate2::{Compression, write::DeflateEncoder};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process::Tree;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    GetOne,
    List,
    Create,
    Update,
}

/// A variable that `cargo xtask bench` sets, if it could fetch what the subject needs.
pub(crate) fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

/// One of those that are measured as Lambda functions.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(PartialEq, Eq)]
enum Kind {
    /// The executables, and what stands between them and the database.
    Functions(PathBuf, &'static str),
    Probe(PathBuf),
    /// The package, and the runtime interface client.
    Python(PathBuf, PathBuf),
    Node(PathBuf, PathBuf),
}

impl Subject {
    /// All whose folders are known; ours first.
    pub(crate) fn all() -> Vec<Self> {
        let functions = |pooler| Some(Kind::Functions(folder("BENCH_FUNCTIONS")?, pooler));
        let probe = |binary| Some(folder("BENCH_PROBES")?.join(binary).join("bootstrap"));
        [
            ("This project", functions("none")),
            ("This project, for a pooler", functions("transaction")),
            ("Probe, native-tls", probe("native-tls").map(Kind::Probe)),
            ("Probe, rustls", probe("rustls").map(Kind::Probe)),
            (
                "Python, psycopg 3",
                folder("BENCH_PYTHON").zip(folder("BENCH_PYTHON_CLIENT")).map(|(a, b)| Kind::Python(a, b)),
            ),
            (
                "Node.js, pg",
                folder("BENCH_NODE").zip(folder("BENCH_NODE_CLIENT")).map(|(a, b)| Kind::Node(a, b)),
            ),
        ]
        .into_iter()
        .filter_map(|(name, kind)| Some(Self { name, kind: kind? }))
        .collect()
    }

    /// Whether it can do this.
    pub(crate) fn does(&self, operation: Operation) -> bool {
        operation == Operation::GetOne || !matches!(self.kind, Kind::Probe(_))
    }

    /// Whether an environment of it can serve several requests at once.
    pub(crate) fn serves_several(&self) -> bool {
        matches!(self.kind, Kind::Functions(..) | Kind::Probe(_))
    }

    /// What starts an environment of it for this database.
    pub(crate) fn command(&self, operation: Operation, url: &str) -> Command {
        let (url_without_options, options) = url.split_once('?').unwrap_or((url, ""));
        let root_cert = options.split('&').find_map(|option| option.strip_prefix("sslrootcert="));
        let root_cert =
            root_cert.unwrap_or_default().replace("%2F", "/").replace("%2E", ".").replace("%2D", "-");
        let [function, snake, camel] = match operation {
            Operation::GetOne => ["get-user", "get_user", "getUser"],
            Operation::List => ["list-users", "list_users", "listUsers"],
            Operation::Create => ["create-user", "create_user", "createUser"],
            Operation::Update => ["update-user", "update_user", "updateUser"],
        };
        let mut command = match &self.kind {
            Kind::Functions(folder, pooler) => {
                let mut command = Command::new(bootstrap(folder, function));
                command.env("DATABASE_POOLER", pooler);
                command
            }
            Kind::Probe(program) => {
                let mut command = Command::new(program);
                // At INFO lambda_http's default would prepare the context of a record for each request.
                command.env("AWS_LAMBDA_LOG_LEVEL", "WARN");
                command
            }
            Kind::Python(package, client) => {
                let mut command = Command::new("python3");
                command.args(["-m", "awslambdaric", &format!("handler.{snake}")]).current_dir(package);
                // Where AWS's own runtime has it, the client is installed in Python itself.
                command.env("PYTHONPATH", joined([package, client]));
                command
            }
            Kind::Node(package, client) => {
                let mut command = Command::new("node");
                command.arg(client.join("index.mjs")).env("_HANDLER", format!("handlers.{camel}"));
                command.current_dir(package);
                command
            }
        };
        let inherited: Vec<_> =
            ["PATH", "HOME"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))).collect();
        let own: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(OsString::from))).collect();
        command.env_clear().envs(inherited);
        command.envs(own.into_iter().filter_map(|(name, value)| Some((name, value?))));
        command.env("PGSSLROOTCERT", root_cert);
        match &self.kind {
            Kind::Functions(..) | Kind::Probe(_) => {
                // As template.yaml has it.
                command.env("SSL_CERT_FILE", "/dev/null").env("DATABASE_URL", url);
                command.envs(folder("BENCH_LAYER").map(|layer| ("OPENSSL_CONF", layer.join("openssl.cnf"))));
            }
            Kind::Python(package, _) => {
                command.env("LAMBDA_TASK_ROOT", package).env("DATABASE_URL", url);
            }
            Kind::Node(package, _) => {
                command.env("LAMBDA_TASK_ROOT", package).env("DATABASE_URL", url_without_options);
            }
        }
        command
    }

    /// The bytes that are deployed, as they are and compressed. What AWS's runtimes bring does not count.
    pub(crate) fn package(&self) -> (u64, u64) {
        match &self.kind {
            Kind::Functions(folder, _) => size(&bootstrap(folder, "get-user")),
            Kind::Probe(program) => size(program),
            Kind::Python(package, _) | Kind::Node(package, _) => size(package),
        }
    }
}

/// An executable in what `cargo lambda build` or `sam build` has made.
pub(crate) fn bootstrap(folder: &Path, function: &str) -> PathBuf {
    let built = folder.join(function).join("bootstrap");
    if built.is_file() {
        return built;
    }
    let capitalised = |word: &str| word[..1].to_uppercase() + &word[1..];
    folder.join(function.split('-').map(capitalised).collect::<String>()).join("bootstrap")
}

fn joined(folders: [&PathBuf; 2]) -> OsString {
    env::join_paths(folders).expect("folders without colons")
}

/// A deflated stream per file, as a zip has it; its directory does not count.
fn size(path: &Path) -> (u64, u64) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
        // What Python compiles when it first runs is not deployed.
        return entries
            .filter(|path| !path.ends_with("__pycache__"))
            .map(|path| size(&path))
            .fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    }
    let content = fs::read(path).unwrap_or_default();
    let mut zip = DeflateEncoder::new(Vec::new(), Compression::best());
    zip.write_all(&content).expect("compressing in memory");
    (content.len() as u64, zip.finish().expect("compressing in memory").len() as u64)
}

/// The guide's app under gunicorn with two workers; dropped, it is killed.
pub(crate) struct Flask {
    child: Child,
    pub(crate) port: u16,
}

impl Flask {
    /// Starts it, if it was fetched, and waits until it listens.
    pub(crate) fn start(url: &str) -> Option<Self> {
        let (app, packages) = (folder("BENCH_FLASK")?, env::var_os("BENCH_FLASK_PACKAGES")?);
        let port =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port();
        let child = Command::new("python3")
            .args([
                "-m",
                "gunicorn",
                "--workers=2",
                "--log-level=error",
                &format!("--bind=127.0.0.1:{port}"),
                "app:app",
            ])
            .env("PYTHONPATH", packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DATABASE_URL", url)
            .current_dir(app)
            .stdin(Stdio::null())
            .spawn()
            .expect("starting gunicorn");
        let flask = Self { child, port };
        for _ in 0..1000 {
            if flask.tree().len() >= 3 && TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(flask);
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("gunicorn does not listen");
    }

    /// Its processes.
    pub(crate) fn tree(&self) -> Tree {
        Tree(self.child.id())
    }
}

impl Drop for Flask {
    fn drop(&mut self) {
        // gunicorn stops its workers when told to stop.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
