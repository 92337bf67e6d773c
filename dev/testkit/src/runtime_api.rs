//! Lambda's side of the Runtime API, for one process: hands out invocations and takes their results.

use std::{
    collections::{HashMap, VecDeque},
    io::{BufRead, BufReader, PipeReader, PipeWriter, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use crate::{http::HttpRequest, lock};

/// How much longer than Lambda the host waits for a result.
const PATIENCE: Duration = Duration::from_secs(20);

const PREFIX: &str = "/2018-06-01/runtime/";

/// What a process made of an invocation, with the lines that it logged meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Posted {
    pub(crate) body: String,
    pub(crate) is_error: bool,
    pub(crate) log: Vec<String>,
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum NoResult {
    /// `POST /runtime/init/error`
    InitError(String),
    Exited(String),
    TimedOut,
}

#[derive(Debug)]
pub(crate) struct RuntimeApi {
    address: SocketAddr,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
    pub(crate) log: Log,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(String, String)>,
    results: HashMap<String, Posted>,
    /// The process has finished its init phase: it has asked for an invocation.
    initialized: bool,
    /// How many lines were logged before the running invocation began.
    logged_before: usize,
    init_error: Option<String>,
    exited: Option<String>,
    stopped: bool,
}

impl RuntimeApi {
    /// Listens; `pipe` is where the process writes its log, and `timeout` becomes each invocation's deadline.
    pub(crate) fn start(timeout: Duration, pipe: (PipeReader, PipeWriter)) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let api = Arc::new(Self {
            address: listener.local_addr().expect("its address"),
            timeout,
            state: Mutex::default(),
            changed: Condvar::new(),
            log: Log::start(pipe),
        });
        thread::spawn({
            let api = Arc::clone(&api);
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if lock(&api.state).stopped {
                        break;
                    }
                    let api = Arc::clone(&api);
                    // An I/O error means that the process is gone, which is noticed elsewhere.
                    thread::spawn(move || api.serve(stream));
                }
            }
        });
        api
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn enqueue(&self, id: &str, event: String) {
        lock(&self.state).waiting.push_back((id.to_owned(), event));
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self, id: &str) -> Result<Posted, NoResult> {
        let state = self.wait_until(|state| {
            state.results.contains_key(id) || state.exited.is_some() || state.init_error.is_some()
        });
        if let Some(posted) = state.results.get(id) {
            Ok(posted.clone())
        } else if let Some(error) = &state.init_error {
            Err(NoResult::InitError(error.clone()))
        } else if let Some(status) = &state.exited {
            Err(NoResult::Exited(status.clone()))
        } else {
            Err(NoResult::TimedOut)
        }
    }

    /// Waits for the end of the init phase.
    pub(crate) fn wait_for_init(&self) -> bool {
        self.wait_until(|state| state.initialized || state.exited.is_some()).initialized
    }

    /// The process has ended.
    pub(crate) fn exited(&self, status: String) {
        lock(&self.state).exited = Some(status);
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
        // Wakes `accept`. If it fails the listener is gone already.
        drop(TcpStream::connect(self.address));
        self.log.stop();
    }

    fn wait_until(&self, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed
            .wait_timeout_while(lock(&self.state), self.timeout + PATIENCE, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut writer = stream.try_clone().ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let request = HttpRequest::read(&mut reader)?;
            let path =
                request.path.strip_prefix(PREFIX).unwrap_or_else(|| panic!("unknown path {}", request.path));
            let reply = match (request.method.as_str(), path.split('/').collect::<Vec<_>>().as_slice()) {
                ("GET", ["invocation", "next"]) => self.next()?,
                ("POST", ["invocation", id, "response"]) => self.posted(id, request.body, false),
                ("POST", ["invocation", id, "error"]) => self.posted(id, request.body, true),
                ("POST", ["init", "error"]) => {
                    lock(&self.state).init_error = Some(request.body);
                    self.changed.notify_all();
                    accepted()
                }
                (method, _) => panic!("the Runtime API has no {method} {path}"),
            };
            writer.write_all(reply.as_bytes()).ok()?;
        }
    }

    /// The next invocation, once there is one; nothing once the process has ended.
    fn next(&self) -> Option<String> {
        lock(&self.state).initialized = true;
        self.changed.notify_all();
        let (id, event) = loop {
            let mut state =
                self.wait_until(|state| !state.waiting.is_empty() || state.stopped || state.exited.is_some());
            if state.stopped || state.exited.is_some() {
                return None;
            }
            if let Some(next) = state.waiting.pop_front() {
                break next;
            }
        };
        let logged_before = self.log.lines().len();
        lock(&self.state).logged_before = logged_before;
        let deadline = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()? + self.timeout;
        Some(format!(
            "HTTP/1.1 200 OK\r\n\
             Content-Type: application/json\r\n\
             Content-Length: {}\r\n\
             Lambda-Runtime-Aws-Request-Id: {id}\r\n\
             Lambda-Runtime-Deadline-Ms: {}\r\n\
             Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-central-1:123456789012:function:under-test\r\n\
             Lambda-Runtime-Trace-Id: Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=0\r\n\
             \r\n{event}",
            event.len(),
            deadline.as_millis(),
        ))
    }

    fn posted(&self, id: &str, body: String, is_error: bool) -> String {
        let mut log = self.log.lines();
        let mut state = lock(&self.state);
        let log = log.split_off(state.logged_before);
        let earlier = state.results.insert(id.to_owned(), Posted { body, is_error, log });
        assert!(earlier.is_none(), "invocation {id} was answered twice");
        self.changed.notify_all();
        accepted()
    }
}

fn accepted() -> String {
    "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"status\":\"OK\"}"
        .to_owned()
}

/// Everything that the process writes to stdout and stderr, which share a pipe so that the order is kept.
///
/// A process writes its log before it posts a result, but reading the pipe is asynchronous. So the host writes a
/// marker into the same pipe: once it has come out, everything written earlier has too.
#[derive(Debug)]
pub(crate) struct Log {
    writer: Mutex<Option<(PipeWriter, usize)>>,
    read: Arc<(Mutex<LogRead>, Condvar)>,
}

#[derive(Debug, Default)]
struct LogRead {
    lines: Vec<String>,
    markers: usize,
}

const MARKER: &str = "\0marker";

impl Log {
    fn start((reader, writer): (PipeReader, PipeWriter)) -> Self {
        let read = Arc::<(Mutex<LogRead>, Condvar)>::default();
        thread::spawn({
            let read = Arc::clone(&read);
            move || {
                for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    let mut state = lock(&read.0);
                    if line == MARKER {
                        state.markers += 1;
                        read.1.notify_all();
                    } else if !line.is_empty() {
                        state.lines.push(line);
                    }
                }
            }
        });
        Self { writer: Mutex::new(Some((writer, 0))), read }
    }

    /// All lines that were written before this call.
    pub(crate) fn lines(&self) -> Vec<String> {
        let marker = {
            let mut writer = lock(&self.writer);
            let Some((writer, markers)) = writer.as_mut() else { return lock(&self.read.0).lines.clone() };
            *markers += 1;
            // A newline first: the process may have left its line unfinished.
            writer.write_all(format!("\n{MARKER}\n").as_bytes()).expect("writing a marker");
            *markers
        };
        let read = self.read.1.wait_while(lock(&self.read.0), |read| read.markers < marker);
        read.unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    fn stop(&self) {
        lock(&self.writer).take();
    }
}
