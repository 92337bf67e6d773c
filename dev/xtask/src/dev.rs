//! `cargo xtask dev`: the API on this machine, on one port, with everything that it needs.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use crate::{
    Context, Result, Stop,
    api::{self, Api},
    docs, failed, migrate,
    postgres::{Cluster, free_port},
    process::{Processes, tail},
    say,
    tools::{Tools, check_build_prerequisites},
};

/// The guide's port, so that its curl lines work to the letter.
const GUIDE_PORT: u16 = 5000;

/// The port of the documentation page.
const DOCUMENTATION_PORT: u16 = 5001;

/// The port of the database, beside which one of yours may have the usual 5432.
const DATABASE_PORT: u16 = 5433;

/// The guide's own user and database.
const GUIDE_DATABASE: &str = "\
CREATE USER myuser WITH PASSWORD 'mypassword'
CREATE DATABASE mydb OWNER myuser
";

/// A function that does not answer within this time did not start.
const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// The command's arguments.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) port: Option<u16>,
    pub(crate) fresh: bool,
    pub(crate) data: Option<PathBuf>,
}

/// What runs.
pub(crate) struct Running {
    /// The API's port.
    pub(crate) port: u16,
    /// The port of the documentation page, or why there is none.
    pub(crate) documentation: std::result::Result<u16, String>,
    /// The URL of our own database.
    database: Option<String>,
    /// Where database and logs are.
    folder: PathBuf,
    api: Api,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--fresh" => options.fresh = true,
                "--port" => match arguments.next().and_then(|it| it.parse().ok()) {
                    Some(port) if port > 0 => options.port = Some(port),
                    _ => return failed("--port needs a number from 1 to 65535"),
                },
                "--data" => match arguments.next() {
                    Some(folder) => options.data = Some(folder.into()),
                    None => return failed("--data needs a folder"),
                },
                _ => return failed(format!("`dev` does not know `{argument}`; see `cargo xtask --help`")),
            }
        }
        Ok(options)
    }
}

/// Runs until Ctrl-C, or until a part of it ends by itself.
pub(crate) fn run(
    options: &Options,
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    if options.fresh && env::var_os("DATABASE_URL").is_some() {
        return failed("--fresh empties only a database of ours, and DATABASE_URL names one of yours");
    }
    let mut running = start(options, target, processes, tools)?;
    announce(&running);
    match running.api.attend(processes, tools) {
        Err(Stop::Interrupted) => {
            say("stopping");
            Ok(ExitCode::SUCCESS)
        }
        end => end.map(|()| ExitCode::FAILURE),
    }
}

/// Starts everything. A fresh database is always one of our own.
pub(crate) fn start(
    options: &Options,
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<Running> {
    let port = choose_port(options.port, GUIDE_PORT)?;
    check_build_prerequisites()?;
    tools.cargo_lambda(processes)?;

    let folder = options.data.clone().unwrap_or_else(|| target.join("dev"));
    let folder = std::path::absolute(folder).context("find the data folder")?;
    fs::create_dir_all(&folder).context(format_args!("create {}", folder.display()))?;
    let database = if options.fresh || env::var_os("DATABASE_URL").is_none() {
        let cluster = Cluster {
            folder: &folder,
            fresh: options.fresh,
            setup: GUIDE_DATABASE,
            settings: &[],
            usual_port: Some(DATABASE_PORT),
        };
        let port = cluster.start(processes, tools)?;
        Some(format!("postgres://myuser:mypassword@127.0.0.1:{port}/mydb"))
    } else {
        None
    };

    let whose = if database.is_some() { "" } else { " to the database that DATABASE_URL names" };
    say(format_args!("applying the migrations{whose} (the first time this compiles, which takes minutes)"));
    migrate(processes, database.as_deref())?;
    let api = Api::start(port, settings(database.as_deref()), &folder, processes, tools)?;
    if let Err(sentence) = processes.during(move || first_answers(port))? {
        let log = api::log(&folder);
        return failed(format!("{sentence}; the log is {}, which ends:\n{}", log.display(), tail(&log)));
    }
    let documentation = match document(port, processes, tools) {
        Ok(port) => Ok(port),
        Err(Stop::Interrupted) => return Err(Stop::Interrupted),
        Err(Stop::Failed(sentence)) => Err(sentence),
    };
    Ok(Running { port, documentation, database, folder, api })
}

/// Serves the documentation page of the API at this port, and returns its own.
fn document(api: u16, processes: &mut Processes, tools: &mut Tools) -> Result<u16> {
    let viewer = docs::viewer(processes, tools)?;
    let port = choose_port(None, DOCUMENTATION_PORT)?;
    let listener = TcpListener::bind(("127.0.0.1", port)).context(format_args!("listen on port {port}"))?;
    docs::serve(listener, viewer, api);
    Ok(port)
}

/// The wanted port if we can have it; else the usual one, or any other.
fn choose_port(wanted: Option<u16>, usual: u16) -> Result<u16> {
    match (wanted, obstacle(wanted.unwrap_or(usual))) {
        (_, None) => Ok(wanted.unwrap_or(usual)),
        (Some(port), Some(obstacle)) => {
            failed(format!("port {port} {obstacle}: choose another one with --port"))
        }
        (None, Some(obstacle)) => {
            let port = free_port()?;
            say(format_args!("port {usual} {obstacle}, so this will be port {port}"));
            Ok(port)
        }
    }
}

/// Why we cannot listen on a port: nobody may answer at `localhost`, by whatever address curl tries first.
fn obstacle(port: u16) -> Option<String> {
    if TcpStream::connect(("localhost", port)).is_ok() {
        return Some("is taken".to_owned());
    }
    match TcpListener::bind(("127.0.0.1", port)).err()?.kind() {
        io::ErrorKind::AddrInUse => Some("is taken".to_owned()),
        io::ErrorKind::PermissionDenied => Some("is not permitted to this user".to_owned()),
        kind => Some(format!("cannot be listened on ({kind})")),
    }
}

/// What the functions find in their environment beside what is in ours.
fn settings(database: Option<&str>) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(url) = database {
        settings.extend([("DATABASE_URL", url.to_owned()), ("DATABASE_POOLER", "none".to_owned())]);
    }
    if database.is_some() || env::var_os("PGSSLROOTCERT").is_some() {
        // As in template.yaml: OpenSSL reads the system's roots even where nobody needs them.
        settings.push(("SSL_CERT_FILE", "/dev/null".to_owned()));
    }
    settings
}

/// Sends one harmless request to every function: each starts with its first request.
fn first_answers(port: u16) -> std::result::Result<(), String> {
    for (method, path, expected) in [
        ("GET", "/api/users?limit=1", 200),
        ("GET", "/api/users/0", 404),
        ("PUT", "/api/users/0", 404),
        ("DELETE", "/api/users/0", 404),
        ("POST", "/api/users", 400),
    ] {
        match status(port, method, path) {
            Ok(found) if found == expected => {}
            Ok(found) => {
                return Err(format!("{method} {path} is answered with {found} instead of {expected}"));
            }
            Err(error) => return Err(format!("{method} {path} is not answered ({error})")),
        }
    }
    Ok(())
}

/// The status of the answer to a request without a body.
fn status(port: u16, method: &str, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(FIRST_ANSWER))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut answer)?;
    let code = String::from_utf8_lossy(&answer[9..]).parse();
    code.map_err(io::Error::other)
}

fn announce(running: &Running) {
    let url = format!("http://localhost:{}/api/users", running.port);
    let documentation = match &running.documentation {
        Ok(port) => format!("http://localhost:{port}"),
        Err(sentence) => format!("none, because {sentence}"),
    };
    let database = running
        .database
        .as_ref()
        .map_or_else(|| "the one that DATABASE_URL names".to_owned(), |url| format!("psql {url}"));
    let logs = match &running.database {
        Some(_) => format!("{} and postgres.log beside it", api::log(&running.folder).display()),
        None => api::log(&running.folder).display().to_string(),
    };
    println!(
        r#"
The API is ready: {url}

curl {url}

curl -X POST {url} \
  -H "Content-Type: application/json" \
  -d '{{"name": "Alice", "age": 30}}'

curl {url}/1

curl -X PUT {url}/1 \
  -H "Content-Type: application/json" \
  -d '{{"name": "Alice Updated", "age": 31}}'

curl -X DELETE {url}/1

Documentation: {documentation}
Database: {database}
Logs: {logs}
Saved changes of the code take effect by themselves. Ctrl-C stops everything.
"#
    );
}
