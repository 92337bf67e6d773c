//! PgBouncer in transaction mode, in front of the test server.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use shared::roles::Access;

use crate::{
    Proxy, Server,
    database::{PASSWORD, role},
};

/// A PgBouncer of one test's own, which knows the superuser and the roles, and gives each transaction any of its two
/// connections to the server.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    child: Child,
    folder: PathBuf,
}

impl PgBouncer {
    /// Starts the program at `PGBOUNCER`, or the installed one.
    ///
    /// # Panics
    /// When there is none, with what to install.
    #[expect(clippy::new_without_default, reason = "a default that starts a process would surprise")]
    pub fn new() -> Self {
        Self::to(Server::current().port, "")
    }

    /// The same that resets a connection to the server after each transaction.
    ///
    /// # Panics
    /// As [`PgBouncer::new`].
    pub fn resetting() -> Self {
        Self::to(Server::current().port, "server_reset_query_always = 1\n")
    }

    /// The same with a proxy between it and the server.
    ///
    /// # Panics
    /// As [`PgBouncer::new`].
    pub fn via(proxy: &Proxy) -> Self {
        Self::to(proxy.port(), "")
    }

    fn to(server_port: u16, settings: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let folder = std::env::temp_dir().join(format!("pgbouncer-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for its configuration");
        let Server { credentials, host, .. } = Server::current();
        let (user, password) = credentials.split_once(':').expect("TEST_DATABASE_URL holds a password");
        let password = percent_encoding::percent_decode_str(password).decode_utf8_lossy();
        let write = |name: &str, content: String| {
            let path = folder.join(name);
            std::fs::write(&path, content).expect("its configuration");
            path
        };
        let roles = Access::ALL.map(|access| format!("\"{}\" \"{PASSWORD}\"\n", role(access)));
        let users = write("users", format!("\"{user}\" \"{password}\"\n{}", roles.concat()));
        // It tries again at once to reach a server that it has lost, not after 15 seconds.
        write(
            CONFIG,
            format!(
                "[databases]\n* = host={host} port={server_port}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\nmax_db_connections = 2\n\
                 server_tls_sslmode = disable\nserver_login_retry = 0\n{settings}",
                users.display()
            ),
        );
        let child = start(&folder, port);
        Self { port, child, folder }
    }

    /// Ends it as a crash does: nobody is told.
    ///
    /// # Panics
    /// When it can't be ended.
    pub fn kill(&mut self) {
        self.child.kill().expect("ending PgBouncer");
        self.child.wait().expect("its end");
    }

    /// Starts it anew after [`PgBouncer::kill`], on the same port.
    ///
    /// # Panics
    /// As [`PgBouncer::new`].
    pub fn restart(&mut self) {
        self.child = start(&self.folder, self.port);
    }

    /// The port it listens on, without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The file in its folder with its configuration.
const CONFIG: &str = "pgbouncer.ini";

/// Starts the program, and waits until it listens.
fn start(folder: &Path, port: u16) -> Child {
    let program = std::env::var_os("PGBOUNCER").unwrap_or_else(|| "/usr/sbin/pgbouncer".into());
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        // It refuses to run as root.
        command.args(["-u", "nobody"]);
    }
    let mut child = command
        .arg(folder.join(CONFIG))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("PgBouncer can't be started ({error}): install it (Debian's package pgbouncer)")
        });
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = child.try_wait().expect("its state");
        assert!(ended.is_none(), "PgBouncer has ended: {ended:?}");
        thread::sleep(Duration::from_millis(10));
    }
    child
}
