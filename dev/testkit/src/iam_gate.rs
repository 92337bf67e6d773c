//! The front door of Aurora DSQL, and of RDS with IAM authentication: TLS, and a token in place of a password.

use std::{
    collections::HashMap,
    io::{Error, Result},
    net::TcpListener,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use percent_encoding::percent_decode_str;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rustls::version::TLS13;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional, split},
    net::TcpStream,
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Database, Proxy, Server,
    account::{Account, Admission},
    certificate::Certificate,
    database::PASSWORD,
    lock,
    proxy::{SSL_REQUEST, error_response},
    token::{self, CREDENTIALS, Purpose},
};

/// Whose door it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Aurora DSQL.
    Dsql,
    /// RDS, Aurora, RDS Proxy.
    Rds,
}

impl Service {
    /// The value of `DATABASE_AUTH`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dsql => "dsql",
            Self::Rds => "rds",
        }
    }

    /// A name that its certificate is for.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::Dsql => "abcdefghij0123456789abcdef.dsql.eu-central-1.on.aws",
            Self::Rds => "db.abcdefghijkl.eu-central-1.rds.amazonaws.com",
        }
    }

    /// How template.yaml begins a connection.
    fn negotiation(self) -> &'static str {
        match self {
            Self::Dsql => "&sslnegotiation=direct",
            Self::Rds => "",
        }
    }

    /// What `user` has to sign in order to connect to `host` at `port`.
    pub(crate) fn purpose<'a>(self, user: &'a str, host: &'a str) -> Purpose<'a> {
        match self {
            Self::Dsql if user == ADMIN => {
                Purpose { service: "dsql", host, action: vec![("Action", "DbConnectAdmin")] }
            }
            Self::Dsql => Purpose { service: "dsql", host, action: vec![("Action", "DbConnect")] },
            Self::Rds => {
                Purpose { service: "rds-db", host, action: vec![("Action", "connect"), ("DBUser", user)] }
            }
        }
    }

    /// As each answers a token that is not right.
    fn refusal(self, user: &str) -> (&'static str, String) {
        match self {
            Self::Dsql => ("28P01", format!("IAM authentication failed for user \"{user}\"")),
            Self::Rds => ("28000", format!("PAM authentication failed for user \"{user}\"")),
        }
    }
}

/// The owner of all in Aurora DSQL. Here, the superuser of the test server has this part.
pub(crate) const ADMIN: &str = "admin";

/// The first byte of TLS (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// A door to the test server, on a loopback port of its own. It knows one right token per moment and user, logs in with
/// the password in its place, and passes on what follows.
pub struct IamGate {
    // Dropped first: its tasks use the rest.
    _runtime: Runtime,
    port: u16,
    state: Arc<State>,
}

struct State {
    service: Service,
    /// As it stands in a token.
    host: String,
    certificate: Certificate,
    acceptor: TlsAcceptor,
    proxy: Proxy,
    seen: Mutex<Seen>,
    /// Whose policies decide; without one the token alone does.
    account: Option<Account>,
}

#[derive(Debug, Default)]
struct Seen {
    tokens: Vec<String>,
    problems: Vec<String>,
    expired: usize,
    statements: Vec<String>,
}

impl IamGate {
    /// Opens the door.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(service: Service) -> Self {
        Self::open(service, "127.0.0.1:0", &[service.host()], None)
    }

    /// Opens the door of the databases of an account, at a loopback port.
    ///
    /// # Panics
    /// When that fails.
    pub fn of_account(service: Service, port: u16, account: Account) -> Self {
        let names = ["*.dsql.eu-central-1.on.aws", Service::Rds.host()];
        Self::open(service, &format!("127.0.0.1:{port}"), &names, Some(account))
    }

    /// The PEM file of the authority of its certificate.
    pub fn authority(&self) -> &Path {
        self.state.certificate.path()
    }

    fn open(service: Service, address: &str, names: &[&str], account: Option<Account>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = TcpListener::bind(address).expect("a loopback port");
        listener.set_nonblocking(true).expect("a listener for the runtime");
        let port = listener.local_addr().expect("its address").port();
        let host = match service {
            Service::Dsql => service.host().to_owned(),
            Service::Rds => format!("{}:{port}", service.host()),
        };
        let (certificate, acceptor) = Certificate::new(names, &TLS13);
        let state = Arc::new(State {
            service,
            host,
            certificate,
            acceptor: acceptor.into(),
            proxy: Proxy::new(),
            seen: Mutex::default(),
            account,
        });
        runtime.spawn({
            let state = Arc::clone(&state);
            async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((client, _)) = listener.accept().await {
                    // An error ends the connection, which the client sees.
                    tokio::spawn(Arc::clone(&state).serve(client));
                }
            }
        });
        Self { _runtime: runtime, port, state }
    }

    /// What a function needs to connect as `user`: all of its environment, but `AWS_REGION`.
    pub fn env(&self, database: &Database, user: &str) -> Vec<(&'static str, String)> {
        let service = self.state.service;
        let url = format!(
            "postgres://{}:{}/{}?hostaddr=127.0.0.1{}",
            service.host(),
            self.port,
            database.name(),
            service.negotiation()
        );
        let mut env = vec![
            ("DATABASE_URL", url),
            ("DATABASE_AUTH", service.name().to_owned()),
            ("PGUSER", user.to_owned()),
            ("PGSSLROOTCERT", self.state.certificate.path().display().to_string()),
            ("SSL_CERT_FILE", "/dev/null".to_owned()),
            (
                "OPENSSL_CONF",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/layer/openssl.cnf").to_owned(),
            ),
        ];
        env.extend(CREDENTIALS.map(|(name, value)| (name, value.to_owned())));
        env
    }

    /// What must never be told: the tokens that were seen, and what they were signed with.
    pub fn secrets(&self) -> Vec<String> {
        let [_, secrets @ ..] = CREDENTIALS;
        let signatures =
            self.tokens().into_iter().filter_map(|token| Some(token.rsplit_once('=')?.1.to_owned()));
        signatures.chain(secrets.map(|(_, value)| value.to_owned())).collect()
    }

    /// Between the door and the server: what passes here has a right token.
    pub fn proxy(&self) -> &Proxy {
        &self.state.proxy
    }

    /// The tokens that have arrived, right or wrong.
    pub fn tokens(&self) -> Vec<String> {
        lock(&self.state.seen).tokens.clone()
    }

    /// Takes so many of the next tokens for expired.
    pub fn expire_next(&self, tokens: usize) {
        lock(&self.state.seen).expired = tokens;
    }

    /// The statements that only this service understands, in order.
    pub fn own_statements(&self) -> Vec<String> {
        lock(&self.state.seen).statements.clone()
    }
}

impl Drop for IamGate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("at the gate: {:#?}", lock(&self.state.seen).problems);
        }
    }
}

impl State {
    async fn serve(self: Arc<Self>, mut client: TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        let mut first = [0];
        client.peek(&mut first).await?;
        let direct = self.service == Service::Dsql && first == [TLS_HANDSHAKE];
        if !direct {
            let mut request = [0; SSL_REQUEST.len()];
            client.read_exact(&mut request).await?;
            if request != SSL_REQUEST {
                return Err(Error::other("a client without TLS"));
            }
            client.write_all(b"S").await?;
        }
        let mut client = self.acceptor.accept(client).await?;

        let mut startup = Startup::read(&mut client).await?;
        let user = startup.get("user").unwrap_or_default();
        // AuthenticationCleartextPassword
        client.write_all(&message(b'R', &3_u32.to_be_bytes())).await?;
        let (_, password) = read_message(&mut client).await?;
        let token = String::from_utf8_lossy(password.strip_suffix(b"\0").unwrap_or(&password)).into_owned();
        let admission = match &self.account {
            Some(account) => self.asks(account, user, token).await,
            None => self.admits(user, token).then_some(Admission::default()),
        };
        let Some(admission) = admission else {
            let (sqlstate, text) = self.service.refusal(user);
            client.write_all(&error_response(sqlstate, &text)).await?;
            return client.shutdown().await;
        };

        if let Some(database) = admission.database {
            startup.set("database", database);
        }
        let mut server = if let Some((port, door)) = admission.by_way_of {
            startup.by_way_of(port, door).await?
        } else {
            let mut server = self.server().await?;
            startup.log_in(&mut server).await.inspect_err(|error| self.note(format!("login: {error}")))?;
            server
        };
        // AuthenticationOk
        client.write_all(&message(b'R', &0_u32.to_be_bytes())).await?;

        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (split(client), server.split());
        let upwards = async {
            loop {
                let (kind, mut content) = read_message(&mut from_client).await?;
                if kind == b'Q' {
                    self.translate(&mut content, startup.get("database").unwrap_or_default());
                }
                to_server.write_all(&message(kind, &content)).await?;
            }
        };
        tokio::select! {
            end = upwards => end,
            end = copy(&mut from_server, &mut to_client) => end.map(|_| ()),
        }?;
        to_client.shutdown().await
    }

    async fn server(&self) -> Result<TcpStream> {
        let Server { host, .. } = Server::current();
        let server = TcpStream::connect((host.as_str(), self.proxy.port())).await?;
        server.set_nodelay(true)?;
        Ok(server)
    }

    async fn asks(&self, account: &Account, user: &str, token: String) -> Option<Admission> {
        let (account, service, name) = (account.clone(), self.service, user.to_owned());
        let host = self.host.clone();
        let answer = tokio::task::spawn_blocking(move || account.admits(service, &host, &name, &token)).await;
        match answer.expect("an answer") {
            Ok(admission) => Some(admission),
            Err(problem) => {
                println!("{user} is refused: {problem}");
                None
            }
        }
    }

    fn admits(&self, user: &str, token: String) -> bool {
        let purpose = self.service.purpose(user, &self.host);
        let right = token::check(&token, &purpose, CREDENTIALS, SystemTime::now());
        let expired = {
            let mut seen = lock(&self.seen);
            seen.tokens.push(token);
            let expired = seen.expired > 0;
            seen.expired -= usize::from(expired);
            expired
        };
        let right = right.map_err(|problem| self.note(format!("{user}: {problem}")));
        right.is_ok() && !expired
    }

    /// A client is not told what is wrong; who reads of a failed test is.
    fn note(&self, problem: String) {
        lock(&self.seen).problems.push(problem);
    }

    /// Puts what PostgreSQL understands in the place of what only this service does.
    fn translate(&self, query: &mut Vec<u8>, database: &str) {
        let Ok(sql) = std::str::from_utf8(query) else { return };
        let translated = match self.service {
            Service::Dsql => sql
                .strip_prefix("AWS IAM GRANT ")
                .and_then(|grant| grant.split_once(" TO "))
                .map(|(role, arn)| {
                    let arn = arn.trim_end_matches(['\0', ';']);
                    format!(
                        "INSERT INTO sys.iam_pg_role_mappings (arn, pg_role_name) VALUES ({arn}, '{role}')\0"
                    )
                }),
            // The test server has no such role, and shall have none that outlives the test.
            Service::Rds => {
                sql.contains("rds_iam").then(|| sql.replace("rds_iam", &format!("{database}_rds_iam")))
            }
        };
        if let Some(translated) = translated {
            lock(&self.seen).statements.push(sql.trim_end_matches('\0').to_owned());
            *query = translated.into_bytes();
        }
    }
}

/// Behind a proxy: logs in whoever has a ticket, each of which is good for once.
#[derive(Default)]
pub(crate) struct Door {
    tickets: Mutex<HashMap<String, Startup>>,
    made: AtomicU64,
}

impl Door {
    /// Opens the door at a loopback port.
    ///
    /// # Errors
    /// If the port can't be had.
    pub(crate) async fn serve(self: Arc<Self>, port: u16) -> Result<()> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(Arc::clone(&self).pass(client));
        }
    }

    fn ticket(&self, startup: Startup) -> String {
        let ticket = format!("ticket{}", self.made.fetch_add(1, Ordering::Relaxed));
        lock(&self.tickets).insert(ticket.clone(), startup);
        ticket
    }

    async fn pass(self: Arc<Self>, mut client: TcpStream) -> Result<()> {
        let asked = Startup::read(&mut client).await?;
        let startup = lock(&self.tickets).remove(asked.get("database").unwrap_or_default());
        let startup = startup.ok_or_else(|| Error::other("no ticket"))?;
        let Server { host, port, .. } = Server::current();
        let mut server = TcpStream::connect((host.as_str(), *port)).await?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        startup.log_in(&mut server).await.inspect_err(|error| println!("behind the proxy: {error}"))?;
        // AuthenticationOk
        client.write_all(&message(b'R', &0_u32.to_be_bytes())).await?;
        copy_bidirectional(&mut client, &mut server).await.map(|_| ())
    }
}

/// A StartupMessage: its parameters.
#[derive(Clone)]
struct Startup(Vec<(String, String)>);

impl Startup {
    async fn read(client: &mut (impl AsyncRead + Unpin)) -> Result<Self> {
        let length = client.read_u32().await?;
        let mut content = vec![0; (length as usize).saturating_sub(4)];
        client.read_exact(&mut content).await?;
        let words: Vec<_> = content[4..]
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let pairs = words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        Ok(Self(pairs.filter(|(name, _)| !name.is_empty()).collect()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value));
    }

    fn message(&self) -> Vec<u8> {
        // The version of the protocol, 3.0.
        let mut content = 0x0003_0000_u32.to_be_bytes().to_vec();
        for (name, value) in &self.0 {
            content.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        content.push(0);
        with_length(&content)
    }

    /// Goes through a proxy that knows one user and passes on nothing but the database's name: that becomes a ticket,
    /// for which the door behind the proxy logs in. Reads up to the proxy's AuthenticationOk.
    async fn by_way_of(&self, port: u16, door: Arc<Door>) -> Result<TcpStream> {
        let ticket = door.ticket(self.clone());
        let mut proxy = TcpStream::connect(("127.0.0.1", port)).await?;
        proxy.set_nodelay(true)?;
        let asked = Self(vec![("user".to_owned(), "proxy".to_owned()), ("database".to_owned(), ticket)]);
        proxy.write_all(&asked.message()).await?;
        let (kind, content) = read_message(&mut proxy).await?;
        let greeted = (kind, content.as_slice()) == (b'R', &[0; 4]);
        greeted.then_some(proxy).ok_or_else(|| Error::other("the proxy does not greet"))
    }

    /// Logs in to the test server, with SCRAM, and reads up to its AuthenticationOk.
    async fn log_in(&self, server: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
        let credentials = percent_decode_str(&Server::current().credentials).decode_utf8_lossy();
        let (superuser, password) = credentials.split_once(':').ok_or_else(|| Error::other("no password"))?;
        let is_admin = self.get("user") == Some(ADMIN);
        let password = if is_admin { password } else { PASSWORD };
        let mut asked = Self(self.0.clone());
        if is_admin {
            asked.set("user", superuser.to_owned());
        }
        server.write_all(&asked.message()).await?;

        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let (kind, content) = read_message(server).await?;
            let (code, data) = content.split_at_checked(4).ok_or_else(|| Error::other("a short message"))?;
            let reply = match (kind, code) {
                (b'R', [0, 0, 0, 0]) => return Ok(()),
                (b'R', [0, 0, 0, 10]) => {
                    let first = scram.message();
                    let length = u32::try_from(first.len()).map_err(Error::other)?.to_be_bytes();
                    [SCRAM_SHA_256.as_bytes(), b"\0", &length, first].concat()
                }
                (b'R', [0, 0, 0, 11]) => {
                    scram.update(data)?;
                    scram.message().to_vec()
                }
                (b'R', [0, 0, 0, 12]) => {
                    scram.finish(data)?;
                    continue;
                }
                // Another method of authentication, or an error.
                _ => return Err(Error::other(format!("{:?}", String::from_utf8_lossy(&content)))),
            };
            server.write_all(&message(b'p', &reply)).await?;
        }
    }
}

async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> Result<(u8, Vec<u8>)> {
    let kind = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut content = vec![0; (length as usize).saturating_sub(4)];
    from.read_exact(&mut content).await?;
    Ok((kind, content))
}

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind], with_length(content).as_slice()].concat()
}

fn with_length(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).expect("a message of less than 4 GiB");
    [&length.to_be_bytes(), content].concat()
}
