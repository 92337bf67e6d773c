//! Lambda's side of the Runtime API for one environment, as lean as can be: one thread, which waits for the process and
//! for nothing else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process::Tree;

/// A process that says nothing for so many seconds has failed.
const PATIENCE: usize = 30;

/// A running execution environment; dropped, it is killed.
pub(crate) struct Environment {
    name: String,
    child: Child,
    log: PathBuf,
    listener: TcpListener,
    connections: BTreeMap<usize, Connection>,
    /// How many there were; their numbers.
    accepted: usize,
    /// The connection that asks for the next invocation.
    asking: Option<usize>,
    invocations: u32,
    started: Instant,
}

struct Connection {
    stream: TcpStream,
    /// What was read and is not a whole request yet.
    buffer: Vec<u8>,
}

struct Request {
    connection: usize,
    line: String,
    body: Vec<u8>,
}

impl Environment {
    /// Starts `command` with what Lambda would set.
    pub(crate) fn start(name: &str, mut command: Command) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("its address").port();
        let log = std::env::temp_dir().join(format!("bench-{}-{port}.log", std::process::id()));
        let file = File::create(&log).expect("a log");
        command
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_NAME", "function")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_FORMAT", "JSON")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/function")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0123456789abcdef")
            .env("AWS_LAMBDA_RUNTIME_API", format!("127.0.0.1:{port}"))
            .env("AWS_REGION", "eu-central-1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log"))
            .stderr(file);
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
            listener,
            connections: BTreeMap::new(),
            accepted: 0,
            asking: None,
            invocations: 0,
            started,
        }
    }

    /// Waits until the init phase is over, and tells how long it took.
    pub(crate) fn init(&mut self) -> Duration {
        self.wait_for_asking();
        self.started.elapsed()
    }

    /// The process and what it has started.
    pub(crate) fn tree(&self) -> Tree {
        Tree(self.child.id())
    }

    /// Hands over an event and returns the result, and the time between.
    pub(crate) fn invoke(&mut self, event: &str) -> (Duration, Vec<u8>) {
        self.wait_for_asking();
        let asking = self.asking.take().expect("a process that asks");
        let next = self.next(event);
        let start = Instant::now();
        self.reply(asking, &next);
        let request = self.request();
        let elapsed = start.elapsed();
        self.accept(&request);
        (elapsed, request.body)
    }

    /// Results per second of a process that has an event whenever it asks for one, as often at once as it likes.
    pub(crate) fn rate(mut self, event: &str, time: Duration) -> f64 {
        self.wait_for_asking();
        let (start, mut results, mut asking) = (Instant::now(), 0, self.asking.take());
        while start.elapsed() < time {
            match asking.take() {
                Some(connection) => {
                    let next = self.next(event);
                    self.reply(connection, &next);
                }
                None => {
                    let request = self.request();
                    if request.line.contains("/invocation/next ") {
                        asking = Some(request.connection);
                    } else {
                        self.accept(&request);
                        results += 1;
                    }
                }
            }
        }
        f64::from(results) / start.elapsed().as_secs_f64()
    }

    /// The invocation that a process gets which asks for one.
    fn next(&mut self, event: &str) -> String {
        self.invocations += 1;
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
        format!(
            "HTTP/1.1 200 OK\r\n\
             Content-Type: application/json\r\n\
             Content-Length: {}\r\n\
             Lambda-Runtime-Aws-Request-Id: 6bc28136-xmpl-4365-b021-{:012x}\r\n\
             Lambda-Runtime-Deadline-Ms: {}\r\n\
             Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-central-1:123456789012:function:function\r\n\
             Lambda-Runtime-Trace-Id: Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=0\r\n\
             \r\n{event}",
            event.len(),
            self.invocations,
            deadline.as_millis() + 10_000,
        )
    }

    /// Takes a result.
    fn accept(&mut self, request: &Request) {
        if !request.line.contains("/response ") {
            self.fail(&format!("{}{}", request.line, String::from_utf8_lossy(&request.body)));
        }
        self.reply(
            request.connection,
            "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"status\":\"OK\"}",
        );
    }

    /// Ends the process as Lambda does, and returns what it has logged.
    pub(crate) fn end(mut self) -> String {
        self.wait_for_asking();
        // Fails where it has ended by itself, which `wait` sees.
        let _ = kill(Tree(self.child.id()).pid(), Signal::SIGTERM);
        self.child.wait().expect("its end");
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_for_asking(&mut self) {
        while self.asking.is_none() {
            let request = self.request();
            if !request.line.contains("/invocation/next ") {
                self.fail(&format!("{}{}", request.line, String::from_utf8_lossy(&request.body)));
            }
            self.asking = Some(request.connection);
        }
    }

    fn reply(&mut self, connection: usize, reply: &str) {
        let written = self.connections.get_mut(&connection).map(|it| it.stream.write_all(reply.as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            self.fail("it does not listen");
        }
    }

    /// The next request on any connection.
    fn request(&mut self) -> Request {
        let mut silence = 0;
        loop {
            let mut ends: Vec<_> = self
                .connections
                .values()
                .map(|it| it.stream.as_fd())
                .chain([self.listener.as_fd()])
                .map(|end| PollFd::new(end, PollFlags::POLLIN))
                .collect();
            let silent = poll(&mut ends, PollTimeout::from(1000_u16)) == Ok(0);
            let ready: Vec<bool> = ends.iter().map(|end| end.any() == Some(true)).collect();
            silence = if silent { silence + 1 } else { 0 };
            if silent && !matches!(self.child.try_wait(), Ok(None)) {
                self.fail("it has ended");
            }
            if silence == PATIENCE {
                self.fail("nothing came for 30 seconds");
            }
            let new = ready.last() == Some(&true);
            let readable: Vec<usize> =
                self.connections.keys().zip(ready).filter(|(_, ready)| *ready).map(|(it, _)| *it).collect();
            if new {
                let (stream, _) = self.listener.accept().expect("a connection");
                stream.set_nodelay(true).expect("no delay");
                self.accepted += 1;
                self.connections.insert(self.accepted, Connection { stream, buffer: Vec::new() });
            }
            for number in readable {
                let Some(Connection { stream, buffer }) = self.connections.get_mut(&number) else { continue };
                let mut chunk = [0; 16 * 1024];
                match stream.read(&mut chunk) {
                    Ok(length @ 1..) => buffer.extend_from_slice(&chunk[..length]),
                    _ => {
                        self.connections.remove(&number);
                        continue;
                    }
                }
                if let Some((line, body)) = take_request(buffer) {
                    return Request { connection: number, line, body };
                }
            }
        }
    }

    fn fail(&self, what: &str) -> ! {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        panic!("{}: {what}\nIts log:\n{log}", self.name);
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}

/// Takes a whole request from the buffer: its first line and its body.
fn take_request(buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let (head, length) = head(buffer)?;
    if buffer.len() < head.len() + length {
        return None;
    }
    let line = head.split_inclusive("\r\n").next().unwrap_or_default().to_owned();
    let body = buffer[head.len()..head.len() + length].to_vec();
    buffer.drain(..head.len() + length);
    Some((line, body))
}

/// The head of a message, with its blank line, and the length of its body.
pub(crate) fn head(buffer: &[u8]) -> Option<(String, usize)> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Some((head, length.unwrap_or(0)))
}

impl Tree {
    /// The id of its root.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.0.cast_signed())
    }
}
