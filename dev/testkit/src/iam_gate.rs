//! The front door of Aurora DSQL, and of RDS with IAM authentication: TLS, and a token in place of a password.

use std::io::{Error, Result};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use percent_encoding::percent_decode_str;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;
use crate::database::PASSWORD;
use crate::proxy::{SSL_REQUEST, error_response};
use crate::token::{self, CREDENTIALS, Purpose};
use crate::{Database, Proxy, Server, lock};

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

    fn host(self) -> &'static str {
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
    fn purpose<'a>(self, user: &'a str, host: &'a str) -> Purpose<'a> {
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
const ADMIN: &str = "admin";

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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a listener for the runtime");
        let port = listener.local_addr().expect("its address").port();
        let host = match service {
            Service::Dsql => service.host().to_owned(),
            Service::Rds => format!("{}:{port}", service.host()),
        };
        let (certificate, acceptor) = Certificate::new(&[service.host()], &TLS13);
        let state = Arc::new(State {
            service,
            host,
            certificate,
            acceptor: acceptor.into(),
            proxy: Proxy::new(),
            seen: Mutex::default(),
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

        let startup = Startup::read(&mut client).await?;
        let user = startup.get("user").unwrap_or_default();
        // AuthenticationCleartextPassword
        client.write_all(&message(b'R', &3_u32.to_be_bytes())).await?;
        let (_, password) = read_message(&mut client).await?;
        let token = String::from_utf8_lossy(password.strip_suffix(b"\0").unwrap_or(&password)).into_owned();
        if !self.admits(user, token) {
            let (sqlstate, text) = self.service.refusal(user);
            client.write_all(&error_response(sqlstate, &text)).await?;
            return client.shutdown().await;
        }

        let Server { host, .. } = Server::current();
        let mut server = TcpStream::connect((host.as_str(), self.proxy.port())).await?;
        server.set_nodelay(true)?;
        startup.log_in(&mut server).await.inspect_err(|error| self.note(format!("{user}: {error}")))?;
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

    fn admits(&self, user: &str, token: String) -> bool {
        let purpose = self.service.purpose(user, &self.host);
        let right = token::check(&token, &purpose, SystemTime::now());
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

/// A StartupMessage: its parameters.
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

    /// Logs in to the test server, with SCRAM, and reads up to its AuthenticationOk.
    async fn log_in(&self, server: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
        let credentials = percent_decode_str(&Server::current().credentials).decode_utf8_lossy();
        let (superuser, password) = credentials.split_once(':').ok_or_else(|| Error::other("no password"))?;
        let is_admin = self.get("user") == Some(ADMIN);
        let password = if is_admin { password } else { PASSWORD };
        // The version of the protocol, 3.0.
        let mut content = 0x0003_0000_u32.to_be_bytes().to_vec();
        for (name, value) in &self.0 {
            let value = if is_admin && name == "user" { superuser } else { value };
            content.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        content.push(0);
        server.write_all(&with_length(&content)).await?;

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
