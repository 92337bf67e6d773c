//! The API on this machine: our proxy, behind it the router of `cargo lambda watch`, and behind that the functions, which
//! are built and started anew whenever their code is saved.
//!
//! `cargo lambda watch` would build and start the functions as well, but keeps requests until the code compiles, and then
//! hands over those that were given up long ago.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, IsTerminal, PipeWriter, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use http_body_util::{BodyExt, Either, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::{
    runtime,
    sync::{OwnedRwLockWriteGuard, RwLock},
    time::{sleep, timeout},
};

use crate::{
    Context, Result, failed, metadata,
    postgres::{free_port, poll},
    process::{Processes, bound_to_us, cargo},
    root, say,
    server::{self, AnswerBody},
    tools::Tools,
};

/// What the functions are built of: in these places, the files with these endings.
const SOURCES: [&str; 7] = [
    "Cargo.toml",
    "Cargo.lock",
    "functions/Cargo.toml",
    "functions/src",
    "shared/Cargo.toml",
    "shared/migrations",
    "shared/src",
];
const EXTENSIONS: [&str; 4] = ["lock", "rs", "sql", "toml"];

/// How often we look for what was saved.
const LOOK: Duration = Duration::from_millis(100);

/// How long the functions may still work on what they have begun when their code is saved: Lambda's time limit for them.
const PATIENCE: Duration = Duration::from_secs(10);

/// The router starts within this time.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The source files, and when each was changed.
type Sources = BTreeMap<PathBuf, SystemTime>;

/// The functions that run, and all that it takes to run them anew.
pub(crate) struct Api {
    settings: Vec<(&'static str, String)>,
    folder: PathBuf,
    /// Where what the functions log goes to the terminal and the log.
    output: PipeWriter,
    children: Vec<Pid>,
    /// What they were built of.
    sources: Sources,
    proxy: Arc<Proxy>,
}

/// What the proxy goes by.
struct Proxy {
    /// Read for as long as a request is worked on, and written while the functions are built and started.
    code: Arc<RwLock<Code>>,
    /// Whether saved changes take effect, and requests are told in the terminal.
    attended: AtomicBool,
}

struct Code {
    sources: Sources,
    /// What answers requests, or why there is nothing.
    state: std::result::Result<Router, String>,
}

/// The router of `cargo lambda watch`.
struct Router {
    port: u16,
    /// Its table in `Cargo.toml`.
    routes: Value,
}

/// What is to be run: the binaries, each at its path.
struct Built {
    functions: BTreeMap<String, PathBuf>,
    routes: Value,
}

impl Api {
    /// Builds and starts the functions with these variables, and serves them on this port; the log is in this folder.
    pub(crate) fn start(
        port: u16,
        settings: Vec<(&'static str, String)>,
        folder: &Path,
        processes: &mut Processes,
        tools: &Tools,
    ) -> Result<Self> {
        let log = log(folder);
        File::create(&log).context(format_args!("write {}", log.display()))?;
        let file = append(&log)?;
        let (reader, output) = io::pipe().context("make a pipe")?;
        thread::spawn(move || copy(reader, file));
        let sources = sources();
        let code = Code { sources: sources.clone(), state: Err("nothing is built yet".to_owned()) };
        let proxy = Proxy { code: Arc::new(RwLock::new(code)), attended: AtomicBool::new(false) };
        let (folder, proxy) = (folder.to_owned(), Arc::new(proxy));
        let mut api = Self { settings, folder, output, children: Vec::new(), sources, proxy };

        say("building the functions");
        if let Err(fault) = &api.renew(processes, tools)?.state {
            return failed(fault);
        }
        let listener =
            TcpListener::bind(("127.0.0.1", port)).context(format_args!("listen on port {port}"))?;
        let proxy = Arc::clone(&api.proxy);
        server::serve(listener, move |request| Arc::clone(&proxy).answer(request));
        Ok(api)
    }

    /// Lets saved changes take effect, and tells requests, until something ends everything; never returns `Ok`.
    pub(crate) fn attend(&mut self, processes: &mut Processes, tools: &Tools) -> Result<()> {
        self.proxy.attended.store(true, Ordering::Relaxed);
        loop {
            self.children.iter().for_each(|child| processes.let_end(*child));
            if let Some(fault) = processes.wait(LOOK)? {
                eprintln!("error: {fault}");
                say("until a change is saved, requests are answered with 503");
                self.stop(Duration::ZERO, processes)?.state = Err(fault);
            }
            let saved = sources();
            if saved != self.sources {
                self.sources = saved;
                say("a change was saved: building the functions");
                let code = self.renew(processes, tools)?;
                say(match &code.state {
                    Ok(_) => "the functions are started anew",
                    Err(_) => "until it is mended, requests are answered with 503",
                });
            }
        }
    }

    /// Builds the functions and starts them in the place of those that run.
    fn renew(&mut self, processes: &mut Processes, tools: &Tools) -> Result<OwnedRwLockWriteGuard<Code>> {
        let mut code = self.stop(PATIENCE, processes)?;
        code.state = match self.build(processes)? {
            Ok(built) => Ok(self.run(built, processes, tools)?),
            Err(fault) => Err(fault),
        };
        code.sources.clone_from(&self.sources);
        Ok(code)
    }

    /// Keeps further requests waiting, until what it returns is dropped, and stops the functions when they have answered
    /// those before, or this time is over.
    fn stop(&mut self, patience: Duration, processes: &mut Processes) -> Result<OwnedRwLockWriteGuard<Code>> {
        let code = self.lock(patience, processes)?;
        self.children.drain(..).rev().for_each(|child| processes.stop(child));
        match code {
            Some(code) => Ok(code),
            // Without functions no request is worked on for long.
            None => self.lock(PATIENCE, processes)?.map_or_else(|| failed("a request does not end"), Ok),
        }
    }

    /// Waits until no request is worked on, or this time is over.
    fn lock(
        &self,
        patience: Duration,
        processes: &mut Processes,
    ) -> Result<Option<OwnedRwLockWriteGuard<Code>>> {
        let code = Arc::clone(&self.proxy.code);
        processes.during(move || {
            let runtime = runtime::Builder::new_current_thread().enable_time().build().ok()?;
            runtime.block_on(async { timeout(patience, code.write_owned()).await.ok() })
        })
    }

    /// Compiles the functions, or returns the first thing that is wrong with them; the terminal has it all.
    fn build(&self, processes: &mut Processes) -> Result<std::result::Result<Built, String>> {
        let output = self.folder.join("build.json");
        let file = File::create(&output).context(format_args!("write {}", output.display()))?;
        let format = if io::stderr().is_terminal() { "json-diagnostic-rendered-ansi" } else { "json" };
        let mut build = cargo();
        build.args(["build", "--package", "functions", "--bins", "--message-format", format]).stdout(file);
        let success = processes.run(&mut build)?.success();
        let messages = fs::read_to_string(&output).context(format_args!("read {}", output.display()))?;
        let messages: Vec<Value> =
            messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for rendered in messages.iter().filter_map(|it| it["message"]["rendered"].as_str()) {
            eprint!("{rendered}");
        }
        if !success {
            let first = messages.iter().map(|it| &it["message"]).find(|it| it["level"] == "error");
            return Ok(Err(first.map_or_else(
                || "the functions cannot be built: see the terminal".to_owned(),
                |error| format!("the code does not compile: {}", one_line(error)),
            )));
        }
        let functions = messages
            .iter()
            .filter_map(|it| {
                Some((it["target"]["name"].as_str()?.to_owned(), it["executable"].as_str()?.into()))
            })
            .collect();
        let routes = metadata()?["metadata"]["lambda"]["watch"]["router"].take();
        let built = Built { functions, routes };
        let missing = built.routed().find(|name| !built.functions.contains_key(*name));
        Ok(match missing {
            Some(name) => Err(format!("Cargo.toml routes requests to `{name}`, and no binary is named so")),
            None => Ok(built),
        })
    }

    /// Starts the router, and the functions that it routes to.
    fn run(&mut self, built: Built, processes: &mut Processes, tools: &Tools) -> Result<Router> {
        let port = free_port()?;
        let log = log(&self.folder);
        let mut router = bound_to_us(cargo().get_program(), "KILL");
        router
            .args(["lambda", "watch", "--only-lambda-apis", "--package", "functions"])
            .args(["--invoke-address", "127.0.0.1", "--invoke-port", &port.to_string()])
            .current_dir(root())
            .stdout(append(&log)?)
            .stderr(append(&log)?);
        let name = "cargo lambda watch";
        self.children.push(processes.start(name, tools.visible_to(&mut router), Signal::KILL, Some(&log))?);
        let listens = move || TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !processes.during(move || poll(START_LIMIT, listens))? {
            return failed(format!("{name} does not listen; its log is {}", log.display()));
        }
        for (name, program) in &built.functions {
            if !built.routed().any(|it| it == name) {
                continue;
            }
            let mut function = bound_to_us(program, "KILL");
            function
                .env("AWS_LAMBDA_FUNCTION_NAME", name)
                .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
                .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
                .env("AWS_LAMBDA_RUNTIME_API", format!("http://127.0.0.1:{port}/.rt/{name}"))
                .envs(self.settings.iter().map(|(name, value)| (name, value)))
                .current_dir(root())
                .stdout(self.output.try_clone().context("share a pipe")?)
                .stderr(self.output.try_clone().context("share a pipe")?);
            self.children.push(processes.start(name, &mut function, Signal::KILL, None)?);
        }
        Ok(Router { port, routes: built.routes })
    }
}

impl Built {
    /// The names of the functions that requests are routed to.
    fn routed(&self) -> impl Iterator<Item = &str> {
        let routes = self.routes.as_object().into_iter().flat_map(|table| table.values());
        routes.filter_map(Value::as_array).flatten().filter_map(|route| route["function"].as_str())
    }
}

impl Proxy {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        // To its end: hyper notices that a client has gone, and drops us, only when nothing is left to be read.
        let body = match body.collect().await {
            Ok(body) => Full::new(body.to_bytes()),
            Err(error) => return message(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let code = loop {
            let code = self.code.read().await;
            if !self.attended.load(Ordering::Relaxed) || code.sources == sources() {
                break code;
            }
            drop(code);
            // Until what was saved is noticed.
            sleep(LOOK).await;
        };
        let start = Instant::now();
        let answer = match &code.state {
            Err(fault) => message(StatusCode::SERVICE_UNAVAILABLE, fault),
            // Where API Gateway answers so, the router would wait for a function that there isn't.
            Ok(router) if !router.knows(&method, &path) => message(StatusCode::NOT_FOUND, "Not Found"),
            Ok(router) => router.answer(Request::from_parts(head, body)).await,
        };
        if self.attended.load(Ordering::Relaxed) {
            let (status, time) = (answer.status().as_u16(), start.elapsed().as_millis());
            drop(writeln!(io::stdout(), "{method} {path} {status} {time} ms"));
        }
        answer
    }
}

impl Router {
    /// Whether there is a function for it. The router itself answers a browser that asks for permission.
    fn knows(&self, method: &Method, path: &str) -> bool {
        let table = self.routes.as_object().into_iter().flatten();
        let mut routes = table.filter(|(pattern, _)| fits(pattern, path)).filter_map(|(_, it)| it.as_array());
        method == Method::OPTIONS
            || routes.any(|it| it.iter().any(|route| route["method"] == method.as_str()))
    }

    async fn answer(&self, request: Request<Full<hyper::body::Bytes>>) -> Response<AnswerBody> {
        let answer: std::result::Result<_, server::Error> = async {
            let (head, body) = server::pass_on(request, self.port).await?.into_parts();
            Ok((head, Vec::from(body.collect().await?.to_bytes())))
        }
        .await;
        let (mut head, mut body) = match answer {
            Ok(answer) => answer,
            Err(error) => return message(StatusCode::BAD_GATEWAY, &format!("the function is gone: {error}")),
        };
        let json = head.headers.get(CONTENT_TYPE).is_some_and(|it| it.as_bytes().ends_with(b"json"));
        if json && !body.is_empty() {
            // For the terminal that shows it. To JSON it means nothing.
            body.push(b'\n');
            head.headers.remove(CONTENT_LENGTH);
        }
        Response::from_parts(head, Either::Left(Full::new(body.into())))
    }
}

/// Whether a path is one of those that a pattern such as `/api/users/{id}` stands for.
fn fits(pattern: &str, path: &str) -> bool {
    pattern.split('/').count() == path.split('/').count()
        && pattern
            .split('/')
            .zip(path.split('/'))
            .all(|(pattern, part)| pattern == part || pattern.starts_with('{') && !part.is_empty())
}

/// An answer of ours, as API Gateway words its own.
fn message(status: StatusCode, message: &str) -> Response<AnswerBody> {
    let body = format!("{}\n", json!({ "message": message }));
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// What the compiler says of an error, and where.
fn one_line(error: &Value) -> String {
    let text = error["message"].as_str().unwrap_or_default();
    let spans = error["spans"].as_array();
    match spans.into_iter().flatten().find(|span| span["is_primary"] == true) {
        Some(span) => {
            format!("{}:{}: {text}", span["file_name"].as_str().unwrap_or_default(), span["line_start"])
        }
        None => text.to_owned(),
    }
}

/// The log of the functions and of their router.
pub(crate) fn log(folder: &Path) -> PathBuf {
    folder.join("functions.log")
}

fn append(log: &Path) -> Result<File> {
    File::options().append(true).open(log).context(format_args!("write {}", log.display()))
}

/// Copies what the functions log into the terminal and a file.
fn copy(mut from: impl Read, mut file: File) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        drop(file.write_all(&buffer[..length]));
        drop(io::stdout().write_all(&buffer[..length]));
    }
}

fn sources() -> Sources {
    let mut sources = Sources::new();
    let mut paths: Vec<PathBuf> = SOURCES.iter().map(|path| root().join(path)).collect();
    while let Some(path) = paths.pop() {
        if let Ok(entries) = fs::read_dir(&path) {
            paths.extend(entries.flatten().map(|entry| entry.path()));
        } else if path.extension().is_some_and(|it| EXTENSIONS.iter().any(|known| it == *known))
            && let Ok(changed) = path.metadata().and_then(|it| it.modified())
        {
            sources.insert(path, changed);
        }
    }
    sources
}
