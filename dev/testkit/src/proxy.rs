//! A TCP proxy in front of PostgreSQL that watches what a binary does on the wire, and makes a bad network.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Server, lock};

/// The request that a client sends first when it wants TLS; all else before TLS would be in the clear.
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A proxy in front of the test server, on a loopback port of its own.
///
/// A round trip is counted whenever a client sends after the server has spoken last, so it needs no look into the
/// bytes: segments and TLS records make no difference. Counts are up to date before the bytes are passed on, thus
/// before the answer that they led to.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

/// What a new connection meets.
#[derive(Clone, Copy, Debug, Default)]
pub enum Greeting {
    /// The server.
    #[default]
    Server,
    /// `N` to the wish for TLS, as from a server without TLS, and then nothing.
    NoTls,
    /// Nothing.
    Silence,
    /// The end.
    Hangup,
    /// A fatal error with this SQLSTATE, as from a server that lets nobody in; without TLS only.
    Fatal(&'static str),
}

/// What becomes of a statement; without TLS only, where the proxy can tell a statement from a login.
#[derive(Clone, Debug, Default)]
pub enum Fate {
    /// The server gets it, the client its answer.
    #[default]
    Pass,
    /// The server never gets it, and the client this error.
    Refused(ErrorResponse),
    /// The server gets it and nobody its answer: the connection is closed.
    AnswerLost,
    /// The server gets it, and the client this error in place of the answer.
    Replaced(ErrorResponse),
    /// The server never gets it, and nothing is heard of it.
    Swallowed,
    /// The server gets it and what was sent along; the client gets the answer to the first, and then the end of the
    /// connection.
    RestLost,
    /// The same, and then nothing.
    RestSwallowed,
    /// The server gets it; what becomes of its answer is decided then.
    Held(Hold),
}

/// Holds back the answer to a statement, so that a test can do something in between.
#[derive(Clone, Debug, Default)]
pub struct Hold(Arc<(Mutex<Held>, Condvar)>);

#[derive(Debug, Default)]
struct Held {
    answered: bool,
    decided: Option<Fate>,
}

impl Hold {
    /// Waits until the server has answered, and thus committed.
    ///
    /// # Panics
    /// After 20 seconds.
    pub fn wait_for_answer(&self) {
        let (held, changed) = &*self.0;
        let waited = changed.wait_timeout_while(lock(held), ANSWER_TIMEOUT, |held| !held.answered);
        assert!(waited.unwrap_or_else(PoisonError::into_inner).0.answered, "no statement was answered");
    }

    /// Decides what becomes of the answer.
    pub fn end(&self, fate: Fate) {
        lock(&self.0.0).decided = Some(fate);
        self.0.1.notify_all();
    }

    fn answered(&self) -> Fate {
        let (held, changed) = &*self.0;
        lock(held).answered = true;
        changed.notify_all();
        let undecided = |held: &mut Held| held.decided.is_none();
        let mut held = changed.wait_while(lock(held), undecided).unwrap_or_else(PoisonError::into_inner);
        held.decided.take().unwrap_or_default()
    }
}

/// For a statement of a test to be answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// An error as a server or a pooler reports it. After one that is fatal the proxy leaves the connection open, so that a
/// client that goes on using it is found out.
#[derive(Clone, Debug)]
pub struct ErrorResponse {
    severity: &'static str,
    sqlstate: &'static str,
    message: String,
    /// Whether the severity is told a second time, in a field that is not translated. Poolers don't.
    with_v: bool,
    table: Option<(&'static str, &'static str)>,
}

impl ErrorResponse {
    /// One that the connection survives.
    pub fn error(sqlstate: &'static str) -> Self {
        let message = "made by the test".to_owned();
        Self { severity: "ERROR", sqlstate, message, with_v: true, table: None }
    }

    /// One that ends the session.
    pub fn fatal(sqlstate: &'static str) -> Self {
        Self { severity: "FATAL", ..Self::error(sqlstate) }
    }

    /// One that ends all sessions.
    pub fn panic(sqlstate: &'static str) -> Self {
        Self { severity: "PANIC", ..Self::error(sqlstate) }
    }

    /// Without field V, as PgBouncer makes them.
    #[must_use]
    pub fn without_v(self) -> Self {
        Self { with_v: false, ..self }
    }

    /// With these words of the server's.
    #[must_use]
    pub fn message(self, message: &str) -> Self {
        Self { message: message.to_owned(), ..self }
    }

    /// About this constraint of this table; without a name the field is missing.
    #[must_use]
    pub fn about(self, table: &'static str, constraint: &'static str) -> Self {
        Self { table: Some((table, constraint)), ..self }
    }

    /// With the ReadyForQuery that follows unless it is fatal.
    fn bytes(&self) -> Vec<u8> {
        let Self { severity, sqlstate, message, with_v, table } = self;
        let mut fields = format!("S{severity}\0");
        if *with_v {
            fields += &format!("V{severity}\0");
        }
        fields += &format!("C{sqlstate}\0M{message}\0");
        let (table, constraint) = table.unwrap_or_default();
        for (kind, name) in [('t', table), ('n', constraint)] {
            if !name.is_empty() {
                fields += &format!("{kind}{name}\0");
            }
        }
        fields.push('\0');
        let size = u32::try_from(fields.len() + 4).expect("a short text");
        let end = if *severity == "ERROR" { READY.as_slice() } else { &[] };
        [b"E", size.to_be_bytes().as_slice(), fields.as_bytes(), end].concat()
    }
}

/// ReadyForQuery outside a transaction.
const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];

#[derive(Debug, Default)]
struct State {
    stopped: AtomicBool,
    seen: Mutex<Seen>,
    server_has_closed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    round_trips: usize,
    closed_by_server: usize,
    sent: Vec<u8>,
    links: Vec<Arc<Link>>,
    greeting: Greeting,
    next_greetings: VecDeque<Greeting>,
    delay: Duration,
    asleep: bool,
    lose_request: bool,
    lose_answer: bool,
    fate: Fate,
    next_fates: VecDeque<Fate>,
    holds: Vec<Hold>,
}

/// The two ends of a connection.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: Option<TcpStream>,
    silent: AtomicBool,
    /// What becomes of the statement under way.
    fate: Mutex<Fate>,
}

impl Link {
    fn ends(&self) -> impl Iterator<Item = &TcpStream> {
        [Some(&self.client), self.server.as_ref()].into_iter().flatten()
    }

    /// Fails where an end was faster: closed is closed.
    fn close(&self) {
        for end in self.ends() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Proxy {
    /// Passes everything on to the test server and back.
    #[expect(clippy::new_without_default, reason = "a default that opens a port would surprise")]
    pub fn new() -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").expect("a loopback port"))
    }

    /// The same on a port on which nothing has listened so far.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn at(port: u16) -> Self {
        Self::listen(TcpListener::bind(("127.0.0.1", port)).expect("a free port"))
    }

    /// Answers a client's wish for TLS with `N`, as a server without TLS does, and then says nothing.
    pub fn refusing_tls() -> Self {
        let proxy = Self::new();
        proxy.greet(Greeting::NoTls);
        proxy
    }

    /// The same for a listener made elsewhere.
    ///
    /// # Panics
    /// When it is none.
    pub fn listen(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("its address");
        let state = Arc::<State>::default();
        let acceptor = thread::spawn({
            let state = Arc::clone(&state);
            move || state.accept(&listener)
        });
        Self { address, state, acceptor: Some(acceptor) }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
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

    /// What new connections meet from now on.
    pub fn greet(&self, greeting: Greeting) {
        lock(&self.state.seen).greeting = greeting;
    }

    /// What the next connections meet, one each, before those after them meet what [`Proxy::greet`] says.
    pub fn greet_next(&self, greetings: impl IntoIterator<Item = Greeting>) {
        lock(&self.state.seen).next_greetings.extend(greetings);
    }

    /// Holds back all that passes, in each direction, for so long.
    pub fn delay(&self, delay: Duration) {
        lock(&self.state.seen).delay = delay;
    }

    /// The same, a little longer perhaps, and without a processor: for many connections at once.
    pub fn delay_asleep(&self, delay: Duration) {
        let mut seen = lock(&self.state.seen);
        (seen.delay, seen.asleep) = (delay, true);
    }

    /// Swallows what is sent on the connections that are open, in both directions: they stay open.
    pub fn silence(&self) {
        for link in &lock(&self.state.seen).links {
            link.silent.store(true, Ordering::SeqCst);
        }
    }

    /// Closes the connections that are open.
    pub fn close(&self) {
        for link in &lock(&self.state.seen).links {
            link.close();
        }
    }

    /// Resets the connections that are open.
    pub fn reset(&self) {
        for end in lock(&self.state.seen).links.iter().flat_map(|link| link.ends()) {
            // Dissolving a connection sends RST. Fails where there is none any more.
            let _ = rustix::net::connect_unspec(end);
        }
    }

    /// Closes the connection on which a client sends next, and passes nothing of that on.
    pub fn lose_next_request(&self) {
        lock(&self.state.seen).lose_request = true;
    }

    /// Closes the connection on which the server answers next, and passes nothing of that on. A server answers a
    /// statement after it has committed it.
    pub fn lose_next_answer(&self) {
        lock(&self.state.seen).lose_answer = true;
    }

    /// What becomes of the next statements, one each, over all connections, before [`Proxy::doom`] holds for those after
    /// them.
    pub fn doom_next(&self, fates: impl IntoIterator<Item = Fate>) {
        lock(&self.state.seen).next_fates.extend(fates);
    }

    /// What becomes of statements from now on.
    pub fn doom(&self, fate: Fate) {
        lock(&self.state.seen).fate = fate;
    }

    /// Holds back the answer to the next statement.
    pub fn hold_next_answer(&self) -> Hold {
        let hold = Hold::default();
        self.doom_next([Fate::Held(hold.clone())]);
        hold
    }

    /// Takes back all that was asked for and concerns what is still to come. What has happened to the connections
    /// that are open stays as it is.
    pub fn heal(&self) {
        let mut seen = lock(&self.state.seen);
        seen.greeting = Greeting::Server;
        seen.next_greetings.clear();
        seen.delay = Duration::ZERO;
        seen.lose_request = false;
        seen.lose_answer = false;
        seen.fate = Fate::Pass;
        seen.next_fates.clear();
    }

    /// Waits until the server has closed so many connections.
    pub fn wait_until_closed_by_server(&self, connections: usize) {
        let seen = lock(&self.state.seen);
        let open = |seen: &mut Seen| seen.closed_by_server < connections;
        drop(self.state.server_has_closed.wait_while(seen, open).unwrap_or_else(PoisonError::into_inner));
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
        // Wakes `accept`; more than once if the way there has just been mended.
        let woken = (0..5).any(|_| TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok());
        if !woken {
            return Vec::new();
        }
        acceptor.join().unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pumps = self.stop_accepting();
        self.close();
        for hold in &lock(&self.state.seen).holds {
            hold.end(Fate::AnswerLost);
        }
        for pump in pumps {
            let _ = pump.join();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
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
                let _ = state.serve(client);
            }));
        }
        pumps
    }

    fn serve(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        // Whoever sits between must not add a delay of its own.
        client.set_nodelay(true)?;
        let greeting = {
            let mut seen = lock(&self.seen);
            seen.next_greetings.pop_front().unwrap_or(seen.greeting)
        };
        let server = match greeting {
            Greeting::Server => {
                let server = Server::current();
                let server = TcpStream::connect((server.host.as_str(), server.port))?;
                server.set_nodelay(true)?;
                Some(server)
            }
            _ => None,
        };
        let link = Arc::new(Link { client, server, silent: AtomicBool::new(false), fate: Mutex::default() });
        {
            let mut seen = lock(&self.seen);
            seen.connections += 1;
            seen.links.push(Arc::clone(&link));
        }
        let served = match greeting {
            Greeting::Server => self.forward(&link),
            Greeting::NoTls => self.refuse_tls(&link.client),
            Greeting::Silence => self.swallow(&link.client),
            Greeting::Hangup => link.client.shutdown(Shutdown::Both),
            Greeting::Fatal(sqlstate) => fatal(&link.client, sqlstate),
        };
        // Lets go of the sockets.
        lock(&self.seen).links.retain(|open| !Arc::ptr_eq(open, &link));
        served
    }

    fn refuse_tls(&self, mut client: &TcpStream) -> std::io::Result<()> {
        let mut first = [0; SSL_REQUEST.len()];
        client.read_exact(&mut first)?;
        lock(&self.seen).sent.extend_from_slice(&first);
        if first == SSL_REQUEST {
            client.write_all(b"N")?;
        }
        self.swallow(client)
    }

    fn swallow(&self, mut client: &TcpStream) -> std::io::Result<()> {
        let mut rest = Vec::new();
        let end = client.read_to_end(&mut rest);
        lock(&self.seen).sent.extend(rest);
        end.map(|_| ())
    }

    fn forward(self: &Arc<Self>, link: &Arc<Link>) -> std::io::Result<()> {
        let Some(server) = &link.server else { return Ok(()) };
        let spoke = Arc::new(AtomicBool::new(true));
        let upwards = thread::spawn({
            let (state, link, spoke) = (Arc::clone(self), Arc::clone(link), Arc::clone(&spoke));
            move || {
                if let Some(server) = &link.server {
                    state.pump(&link, Direction::ToServer, &link.client, server, &spoke);
                }
            }
        });
        self.pump(link, Direction::ToClient, server, &link.client, &spoke);
        lock(&self.seen).closed_by_server += 1;
        self.server_has_closed.notify_all();
        upwards.join().map_err(|_| std::io::Error::other("the other direction panicked"))
    }

    fn held(&self, hold: &Hold) -> Fate {
        lock(&self.seen).holds.push(hold.clone());
        if self.stopped.load(Ordering::SeqCst) { Fate::AnswerLost } else { hold.answered() }
    }

    fn pump(
        &self,
        link: &Link,
        direction: Direction,
        mut from: &TcpStream,
        mut to: &TcpStream,
        server_spoke_last: &AtomicBool,
    ) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..length];
            let (lost, delay, asleep, fate) = {
                let mut seen = lock(&self.seen);
                let (lost, fate) = match direction {
                    Direction::ToServer => {
                        seen.sent.extend_from_slice(bytes);
                        seen.round_trips += usize::from(server_spoke_last.swap(false, Ordering::SeqCst));
                        let fate = if is_statement(bytes) { seen.next_fate() } else { Fate::Pass };
                        (&mut seen.lose_request, fate)
                    }
                    Direction::ToClient => {
                        server_spoke_last.store(true, Ordering::SeqCst);
                        (&mut seen.lose_answer, std::mem::take(&mut *lock(&link.fate)))
                    }
                };
                (std::mem::take(lost), seen.delay, seen.asleep, fate)
            };
            if lost {
                link.close();
                return;
            }
            wait(delay, asleep);
            match (direction, fate) {
                (_, Fate::Pass) => {}
                (Direction::ToServer, Fate::Swallowed) => continue,
                (Direction::ToServer, Fate::Refused(error)) => {
                    server_spoke_last.store(true, Ordering::SeqCst);
                    if from.write_all(&error.bytes()).is_err() {
                        break;
                    }
                    continue;
                }
                (Direction::ToServer, fate) => *lock(&link.fate) = fate,
                (Direction::ToClient, fate) => {
                    let mut answer = bytes.to_vec();
                    while !answer.ends_with(&READY) {
                        match from.read(&mut buffer) {
                            Ok(length @ 1..) => answer.extend_from_slice(&buffer[..length]),
                            _ => break,
                        }
                    }
                    let fate = if let Fate::Held(hold) = fate { self.held(&hold) } else { fate };
                    let ends = matches!(fate, Fate::RestLost);
                    let answer = match fate {
                        Fate::Replaced(error) => error.bytes(),
                        Fate::RestLost | Fate::RestSwallowed => {
                            let end = answer.windows(READY.len()).position(|window| window == READY);
                            answer.truncate(end.unwrap_or_default() + READY.len());
                            link.silent.store(true, Ordering::SeqCst);
                            answer
                        }
                        Fate::AnswerLost => {
                            link.close();
                            return;
                        }
                        _ => answer,
                    };
                    if to.write_all(&answer).is_err() {
                        break;
                    }
                    if ends {
                        link.close();
                        return;
                    }
                    continue;
                }
            }
            if !link.silent.load(Ordering::SeqCst) && to.write_all(bytes).is_err() {
                break;
            }
        }
        // The end of one direction is passed on like its bytes; the other may still have something to say.
        if !link.silent.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Write);
            let _ = from.shutdown(Shutdown::Read);
        }
    }
}

impl Seen {
    fn next_fate(&mut self) -> Fate {
        self.next_fates.pop_front().unwrap_or_else(|| self.fate.clone())
    }
}

/// Whether a client's message is Parse, Bind or Query, and thus neither TLS nor part of a login.
fn is_statement(message: &[u8]) -> bool {
    matches!(message.first(), Some(b'P' | b'B' | b'Q'))
}

/// Sleeping lets the processor sleep as well, and its waking takes up to a millisecond: delays as short as those of the
/// benchmark are spun.
fn wait(delay: Duration, asleep: bool) {
    if asleep || delay > Duration::from_millis(10) {
        return thread::sleep(delay);
    }
    let end = Instant::now() + delay;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Reads the StartupMessage and answers with an ErrorResponse.
fn fatal(mut client: &TcpStream, sqlstate: &'static str) -> std::io::Result<()> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - length.len()];
    client.read_exact(&mut startup)?;
    client.write_all(&ErrorResponse::fatal(sqlstate).bytes())?;
    client.shutdown(Shutdown::Both)
}

/// A fatal error.
pub(crate) fn error_response(sqlstate: &'static str, text: &str) -> Vec<u8> {
    ErrorResponse::fatal(sqlstate).message(text).bytes()
}
