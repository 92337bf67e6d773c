//! Where CloudFormation waits for the answer of a custom resource: an HTTPS address that takes a PUT.

use std::{
    collections::VecDeque,
    io::{BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::{ServerConnection, StreamOwned, version::TLS12};

use crate::{certificate::Certificate, http::HttpRequest, lock};

/// Longer than CloudFormation waits.
const PATIENCE: Duration = Duration::from_secs(180);

/// A receiver of one test's own, on a loopback port.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    certificate: Certificate,
    statuses: Arc<Mutex<Option<VecDeque<u16>>>>,
    received: mpsc::Receiver<HttpRequest>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Listens, and answers 200 to all that comes.
    ///
    /// # Panics
    /// When that fails.
    #[expect(clippy::new_without_default, reason = "a default that opens a port would surprise")]
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        // The older of the two versions that our OpenSSL is built for.
        let (certificate, tls) = Certificate::new(&["localhost"], &TLS12);
        let statuses = Arc::new(Mutex::new(Some(VecDeque::new())));
        let (sender, received) = mpsc::channel();
        let acceptor = thread::spawn({
            let statuses = Arc::clone(&statuses);
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    // None: the end.
                    let Some(status) = lock(&statuses).as_mut().map(|next| next.pop_front().unwrap_or(200))
                    else {
                        break;
                    };
                    // One request each. An error is the client's to see.
                    let tls = ServerConnection::new(Arc::clone(&tls)).expect("a server's settings");
                    let mut stream = StreamOwned::new(tls, stream);
                    let Some(request) = HttpRequest::read(&mut BufReader::new(&mut stream)) else { continue };
                    let _ = sender.send(request);
                    let answer =
                        format!("HTTP/1.1 {status} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes());
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        });
        Self { address, certificate, statuses, received, acceptor: Some(acceptor) }
    }

    /// The address of something, as S3 signs it.
    pub fn url(&self, path_and_query: &str) -> String {
        format!("https://localhost:{}{path_and_query}", self.address.port())
    }

    /// The variable that makes a process trust this receiver's certificate instead of the system's authorities.
    pub fn env(&self) -> (&'static str, String) {
        ("SSL_CERT_FILE", self.certificate.path().display().to_string())
    }

    /// Answers the next requests with these statuses.
    pub fn answer_next(&self, next: impl IntoIterator<Item = u16>) {
        if let Some(statuses) = lock(&self.statuses).as_mut() {
            statuses.extend(next);
        }
    }

    /// The next request, once it has come.
    ///
    /// # Panics
    /// After three minutes.
    pub fn next(&self) -> HttpRequest {
        self.received.recv_timeout(PATIENCE).expect("a request")
    }

    /// Whether more has come.
    pub fn is_empty(&self) -> bool {
        matches!(self.received.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        lock(&self.statuses).take();
        // Wakes `accept`. If it fails the listener is gone already.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
