//! A TCP proxy in front of PostgreSQL that watches what a binary does on the wire.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::{Server, lock};

/// The request that a client sends first when it wants TLS; all else before TLS would be in the clear.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A proxy in front of the test server, on a loopback port of its own.
///
/// A round trip is counted whenever a client sends after the server has spoken last, so it needs no look into the
/// bytes: segments and TLS records make no difference. Counts are up to date before the bytes are passed on, thus
/// before the answer that they led to.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

#[derive(Debug)]
struct State {
    refuses_tls: bool,
    stopped: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    round_trips: usize,
    sent: Vec<u8>,
    streams: Vec<TcpStream>,
}

impl Proxy {
    /// Passes everything on to the test server and back.
    #[expect(clippy::new_without_default, reason = "a default that opens a port would surprise")]
    pub fn new() -> Self {
        Self::start(false)
    }

    /// Answers a client's wish for TLS with `N`, as a server without TLS does, and then says nothing.
    pub fn refusing_tls() -> Self {
        Self::start(true)
    }

    fn start(refuses_tls: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("its number").port();
        let state = Arc::new(State { refuses_tls, stopped: AtomicBool::new(false), seen: Mutex::default() });
        let acceptor = thread::spawn({
            let state = Arc::clone(&state);
            move || state.accept(&listener)
        });
        Self { port, state, acceptor: Some(acceptor) }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections clients have opened.
    pub fn connections(&self) -> usize {
        lock(&self.state.seen).connections
    }

    /// How many round trips there were, over all connections, from the first byte on.
    pub fn round_trips(&self) -> usize {
        lock(&self.state.seen).round_trips
    }

    /// How many round trips it takes to do something.
    pub fn round_trips_of<T>(&self, action: impl FnOnce() -> T) -> (usize, T) {
        let before = self.round_trips();
        let result = action();
        (self.round_trips() - before, result)
    }

    /// Every byte that clients sent until they closed their connections, in order of arrival. Waits for that: end
    /// the client first.
    pub fn into_sent(mut self) -> Vec<u8> {
        for pump in self.stop_accepting() {
            pump.join().expect("passing bytes on");
        }
        std::mem::take(&mut lock(&self.state.seen).sent)
    }

    fn stop_accepting(&mut self) -> Vec<JoinHandle<()>> {
        let Some(acceptor) = self.acceptor.take() else { return Vec::new() };
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes `accept`. If it fails the listener is gone already.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        acceptor.join().unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pumps = self.stop_accepting();
        for stream in &lock(&self.state.seen).streams {
            // Fails where the peer was faster: closed is closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for pump in pumps {
            let _ = pump.join();
        }
    }
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener) -> Vec<JoinHandle<()>> {
        let mut pumps = Vec::new();
        while let Ok((client, _)) = listener.accept() {
            if self.stopped.load(Ordering::SeqCst) {
                break;
            }
            let state = Arc::clone(self);
            pumps.push(thread::spawn(move || {
                // An error ends the connection, which the client sees; the counts stay right.
                let _ = if state.refuses_tls { state.refuse_tls(client) } else { state.forward(client) };
            }));
        }
        pumps
    }

    fn refuse_tls(&self, mut client: TcpStream) -> std::io::Result<()> {
        self.opened(&[&client])?;
        let mut first = [0; SSL_REQUEST.len()];
        client.read_exact(&mut first)?;
        lock(&self.seen).sent.extend_from_slice(&first);
        if first == SSL_REQUEST {
            client.write_all(b"N")?;
        }
        let mut rest = Vec::new();
        let end = client.read_to_end(&mut rest);
        lock(&self.seen).sent.extend(rest);
        end.map(|_| ())
    }

    fn forward(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let server = Server::current();
        let server = TcpStream::connect((server.host.as_str(), server.port))?;
        // Whoever sits between must not add a delay of its own.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        self.opened(&[&client, &server])?;
        let server_spoke_last = Arc::new(AtomicBool::new(true));

        let upwards = thread::spawn({
            let (state, spoke) = (Arc::clone(self), Arc::clone(&server_spoke_last));
            let (client, server) = (client.try_clone()?, server.try_clone()?);
            move || {
                pump(client, server, |bytes| {
                    let mut seen = lock(&state.seen);
                    seen.sent.extend_from_slice(bytes);
                    if spoke.swap(false, Ordering::SeqCst) {
                        seen.round_trips += 1;
                    }
                });
            }
        });
        pump(server, client, |_| server_spoke_last.store(true, Ordering::SeqCst));
        upwards.join().map_err(|_| std::io::Error::other("the other direction panicked"))
    }

    fn opened(&self, streams: &[&TcpStream]) -> std::io::Result<()> {
        let mut seen = lock(&self.seen);
        seen.connections += 1;
        for stream in streams {
            seen.streams.push(stream.try_clone()?);
        }
        Ok(())
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut observe: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        observe(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The end of one direction is passed on like its bytes; the other may still have something to say.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
