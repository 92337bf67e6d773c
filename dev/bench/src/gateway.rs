//! HTTP in front of environments, and a load for it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::Event;

use crate::host::{Environment, head};

/// The clients that ask at the same time.
const CLIENTS: usize = 8;

/// The answers per second that clients get who ask again and again for a user, from `environments` by way of a gateway.
pub(crate) fn throughput(environments: Vec<Environment>, path: &str, time: Duration) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("its address").port();
    let idle = (Mutex::new(environments), Condvar::new());
    thread::scope(|scope| {
        let clients = scope.spawn(|| load(port, path, time));
        for _ in 0..CLIENTS {
            let (client, _) = listener.accept().expect("a client");
            let idle = &idle;
            scope.spawn(move || serve(client, idle));
        }
        clients.join().expect("the clients")
    })
}

/// Answers a client's requests until it closes the connection.
fn serve(mut client: TcpStream, (environments, returned): &(Mutex<Vec<Environment>>, Condvar)) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut buffer = Vec::new();
    loop {
        let (head, _) = message(&mut client, &mut buffer)?;
        let path = head.split(' ').nth(1)?;
        let event = Value::from(Event::get(path)).to_string();
        let mut environment = {
            let idle = environments.lock().unwrap_or_else(PoisonError::into_inner);
            let mut idle =
                returned.wait_while(idle, |idle| idle.is_empty()).unwrap_or_else(PoisonError::into_inner);
            idle.pop()?
        };
        let (_, answer) = environment.invoke(&event);
        environments.lock().unwrap_or_else(PoisonError::into_inner).push(environment);
        returned.notify_one();
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        let body = answer["body"].as_str()?;
        let reply = format!(
            "HTTP/1.1 {} OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            answer["statusCode"],
            body.len()
        );
        client.write_all(reply.as_bytes()).ok()?;
    }
}

/// Answers per second of whoever listens on this port.
pub(crate) fn load(port: u16, path: &str, time: Duration) -> f64 {
    let start = Instant::now();
    let answers: u32 = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::new(port);
                    let mut answers = 0;
                    while start.elapsed() < time {
                        client.get(path);
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    f64::from(answers) / start.elapsed().as_secs_f64()
}

/// An HTTP client that keeps its connection if it may.
pub(crate) struct Client {
    port: u16,
    stream: Option<TcpStream>,
}

impl Client {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    /// Asks for a user, and returns how long the answer took.
    pub(crate) fn get(&mut self, path: &str) -> Duration {
        let start = Instant::now();
        let mut stream = self.stream.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            stream
        });
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sending a request");
        let (head, body) = message(&mut stream, &mut Vec::new()).expect("an answer");
        let elapsed = start.elapsed();
        assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("Alice"), "{head}{body}");
        if !head.to_ascii_lowercase().contains("connection: close") {
            self.stream = Some(stream);
        }
        elapsed
    }
}

/// Reads a whole message; nothing at the end of the connection.
fn message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, String)> {
    loop {
        if let Some((head, length)) = head(buffer)
            && buffer.len() >= head.len() + length
        {
            let body = String::from_utf8_lossy(&buffer[head.len()..head.len() + length]).into_owned();
            buffer.drain(..head.len() + length);
            return Some((head, body));
        }
        let mut chunk = [0; 16 * 1024];
        match stream.read(&mut chunk) {
            Ok(length @ 1..) => buffer.extend_from_slice(&chunk[..length]),
            _ => return None,
        }
    }
}
