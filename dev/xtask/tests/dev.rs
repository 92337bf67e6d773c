//! `cargo xtask dev`, end to end: the real command, its own PostgreSQL, `cargo lambda watch`, real HTTP.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A running `cargo xtask dev` with an empty database.
struct Dev {
    child: Child,
    folder: PathBuf,
    port: u16,
    database_port: u16,
}

impl Dev {
    /// Returns when the command has announced itself.
    fn start(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["dev", "--fresh", "--port", &port.to_string(), "--data"])
            .arg(&folder)
            .env_remove("DATABASE_URL")
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut dev = Self { child, folder, port, database_port: 0 };
        let stdout = BufReader::new(dev.child.stdout.as_mut().unwrap());
        let mut lines = stdout.lines().map_while(Result::ok);
        let database = lines.find_map(|line| line.strip_prefix("Database: ").map(str::to_owned));
        let announced = lines.any(|line| line.ends_with("Ctrl-C stops everything."));
        let Some(database) = database.filter(|_| announced) else {
            panic!("it ended without an announcement: {}", dev.stderr());
        };
        let (_, address) = database.rsplit_once("@127.0.0.1:").unwrap();
        dev.database_port = address.strip_suffix("/mydb").unwrap().parse().unwrap();
        dev
    }

    fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the command's end and checks that nothing of it listens any more.
    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        for port in [self.port, self.database_port] {
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} still answers");
        }
        (status, self.stderr())
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }
}

impl Drop for Dev {
    /// A failed test leaves nothing running either.
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::TERM);
            self.child.wait().unwrap();
        }
    }
}

#[test]
fn the_guides_requests_work_and_ctrl_c_stops_everything() {
    let dev = Dev::start("guide");

    assert_eq!(dev.request("GET", "/api/users", ""), (200, json!([])));
    let alice = json!({"id": 1, "name": "Alice", "age": 30});
    assert_eq!(dev.request("POST", "/api/users", r#"{"name": "Alice", "age": 30}"#), (201, alice.clone()));
    assert_eq!(dev.request("GET", "/api/users", ""), (200, json!([alice])));
    assert_eq!(dev.request("GET", "/api/users/1", ""), (200, alice));
    let updated = json!({"id": 1, "name": "Alice Updated", "age": 31});
    assert_eq!(dev.request("PUT", "/api/users/1", r#"{"name": "Alice Updated", "age": 31}"#), (200, updated));
    assert_eq!(dev.request("DELETE", "/api/users/1", ""), (200, json!({"message": "User 1 deleted"})));
    let (status, body) = dev.request("GET", "/api/users/1", "");
    assert_eq!((status, &body["error"]), (404, &json!("User not found")));

    dev.signal(Signal::INT);
    let (status, stderr) = dev.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

#[test]
fn the_end_of_postgresql_ends_everything_and_is_told() {
    let dev = Dev::start("crash");

    let file = fs::read_to_string(dev.folder.join("postgres/postmaster.pid")).unwrap();
    let postmaster = Pid::from_raw(file.lines().next().unwrap().parse().unwrap()).unwrap();
    kill_process(postmaster, Signal::KILL).unwrap();

    let (status, stderr) = dev.end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("error: PostgreSQL ended unexpectedly"), "{stderr}");
}
