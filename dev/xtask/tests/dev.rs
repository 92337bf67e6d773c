//! `cargo xtask dev`, end to end: the real command, its own PostgreSQL, `cargo lambda watch`, real HTTP.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running `cargo xtask dev` with an empty database.
struct Dev {
    child: Child,
    stdout: BufReader<ChildStdout>,
    folder: PathBuf,
    port: u16,
    documentation_port: u16,
    database_port: u16,
}

impl Dev {
    fn start(name: &str) -> Self {
        Self::start_in(root(), name)
    }

    /// Returns when the command of this project has announced itself.
    fn start_in(project: &Path, name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["dev", "--fresh", "--port", &port.to_string(), "--data"])
            .arg(&folder)
            // As Cargo does for those that it runs.
            .env("CARGO_MANIFEST_DIR", project.join("dev/xtask"))
            .env("CARGO_TARGET_DIR", target())
            .env_remove("DATABASE_URL")
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut dev = Self { child, stdout, folder, port, documentation_port: 0, database_port: 0 };
        let mut lines = (&mut dev.stdout).lines().map_while(Result::ok);
        let mut after = |start: &str| lines.find_map(|line| line.strip_prefix(start).map(str::to_owned));
        let documentation = after("Documentation: ");
        let database = after("Database: psql ");
        let announced = lines.any(|line| line.ends_with("Ctrl-C stops everything."));
        let (Some(documentation), Some(database), true) = (documentation, database, announced) else {
            panic!("it ended without an announcement: {}", dev.stderr());
        };
        let port = documentation.strip_prefix("http://localhost:").expect(&documentation);
        dev.documentation_port = port.parse().unwrap();
        let (_, address) = database.rsplit_once("@127.0.0.1:").unwrap();
        dev.database_port = address.strip_suffix("/mydb").unwrap().parse().unwrap();
        dev
    }

    /// Asks the documentation's server.
    fn documentation(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        received(send(self.documentation_port, method, path, body))
    }

    /// Asks the API.
    fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (status, _, body) = received(send(self.port, method, path, body));
        (status, body)
    }

    /// The process of a function.
    fn function(&self, name: &str) -> Pid {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let is = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end() == name;
        Pid::from_raw(children.split_whitespace().find(is).unwrap().parse().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The lines that the command has printed since its announcement, when it has ended.
    fn lines(&mut self) -> Vec<String> {
        (&mut self.stdout).lines().map(Result::unwrap).collect()
    }

    /// Waits for the command's end and checks that nothing of it listens any more.
    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        for port in [self.port, self.documentation_port, self.database_port] {
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// Where Cargo builds what is tested.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Sends a request, whose answer is the last thing on its connection.
fn send(port: u16, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

/// The status, the other lines of the head and the body of the answer.
fn received(mut stream: TcpStream) -> (u16, String, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (first, head) = head.split_once("\r\n").unwrap();
    (first.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
}

#[test]
fn the_sessions_in_the_documents_are_what_happens_and_ctrl_c_stops_everything() {
    let documents = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let mut seen = Vec::new();
    for document in documents.chain([root().join("README.md")]) {
        let commands = commands_of(&fs::read_to_string(&document).unwrap());
        if commands.is_empty() {
            continue;
        }
        let name = document.file_stem().unwrap().to_str().unwrap();
        let dev = Dev::start(name);
        for ((command, expected), found) in commands.iter().zip(output_of(&commands, &dev)) {
            assert!(fits(&found, expected), "{name}: {command}\n{found}\ninstead of\n{expected}");
        }
        dev.signal(Signal::INT);
        let (status, stderr) = dev.end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        seen.push(name.to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["README", "guide", "reliability"]);
}

/// The commands in a document's sessions, each with the output that it tells.
fn commands_of(document: &str) -> Vec<(String, String)> {
    let blocks = document.split("```console\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    blocks
        .flat_map(|block| {
            let lines = format!("\n{block}\n");
            let commands = lines.split("\n$ ").skip(1).map(|text| {
                let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("# "));
                let text: String = lines.collect();
                // A command goes on after a backslash; what follows is its output.
                let end = text.match_indices('\n').find(|(at, _)| !text[..*at].ends_with('\\'));
                let (command, output) = text.split_at(end.map_or(text.len(), |(at, _)| at));
                (command.to_owned(), output.trim().to_owned())
            });
            commands.collect::<Vec<_>>()
        })
        .collect()
}

/// Whether this is the output that was told, in which an ellipsis at a line's end stands for the rest of it.
fn fits(found: &str, told: &str) -> bool {
    found.lines().count() == told.lines().count()
        && found.lines().zip(told.lines()).all(|(found, told)| match told.strip_suffix('…') {
            Some(start) => found.starts_with(start),
            None => found == told,
        })
}

/// What the commands print here. One shell runs them all, for the sake of the variables.
fn output_of(commands: &[(String, String)], dev: &Dev) -> Vec<String> {
    let mut shell = Command::new("sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir(root())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    for (command, _) in commands {
        let command = command.replace(":5000/", &format!(":{}/", dev.port));
        let command = command.replace(":5432/", &format!(":{}/", dev.database_port));
        writeln!(stdin, "{command}\nprintf '\\0'").unwrap();
    }
    drop(stdin);
    let output = String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap();
    let output: Vec<_> = output.split('\0').map(|text| text.trim().to_owned()).collect();
    assert_eq!(output.len(), commands.len() + 1, "{output:#?}");
    output
}

#[test]
fn the_documentation_is_served_for_this_page_alone_and_its_requests_reach_the_api() {
    let dev = Dev::start("documentation");

    for file in ["", "scalar.js", "scalar-license.txt", "contract.js", "openapi.yaml"] {
        let (status, head, _) = dev.documentation("GET", &format!("/{file}"), "");
        assert_eq!(status, 200, "{file}");
        // A browser keeps to it, whatever the page would like to load or send; `cargo xtask check contract` has one.
        assert!(head.contains("content-security-policy: default-src 'self'"), "{file}: {head}");
    }
    assert_eq!(dev.documentation("GET", "/../Cargo.toml", "").0, 404);
    // Its requests are shown with the API's own address.
    let (_, _, contract) = dev.documentation("GET", "/contract.js", "");
    assert!(contract.contains(&format!("const api = \"http://localhost:{}\"", dev.port)), "{contract}");

    let (status, head, body) = dev.documentation("POST", "/api/users", r#"{"name": "Zoë", "age": 30}"#);
    assert_eq!((status, body.trim_end()), (201, r#"{"id":1,"name":"Zoë","age":30}"#));
    assert!(head.contains("location: users/1\r\n") && head.contains("etag: "), "{head}");
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

#[test]
fn while_the_code_does_not_compile_or_run_requests_are_refused_and_none_is_carried_out_later() {
    let project = copy_of_the_project("saved");
    let mut dev = Dev::start_in(&project, "saved/data");
    let handler = project.join("functions/src/bin/delete-user.rs");
    let code = fs::read_to_string(&handler).unwrap();
    let (status, user) = dev.api("POST", "/api/users", r#"{"name": "Zoë", "age": 30}"#);
    assert_eq!((status, user.as_str()), (201, "{\"id\":1,\"name\":\"Zoë\",\"age\":30}\n"));

    fs::write(&handler, format!("{code}const BROKEN: u8 = \"no number\";\n")).unwrap();
    let (status, refusal) = dev.api("DELETE", "/api/users/1?x=secret", "");
    let place = format!("functions/src/bin/delete-user.rs:{}", code.lines().count() + 1);
    let told = format!("{{\"message\":\"the code does not compile: {place}: mismatched types\"}}\n");
    assert_eq!((status, &refusal), (503, &told));
    assert_eq!(dev.api("GET", "/api/users/1", ""), (503, told));

    // The mended code is built while somebody asks for a deletion and gives up.
    fs::write(&handler, &code).unwrap();
    drop(send(dev.port, "DELETE", "/api/users/1", ""));
    assert_eq!(dev.api("GET", "/api/users/1", ""), (200, user.clone()));

    // A function that ends is told, too, until something is saved.
    kill_process(dev.function("get-user"), Signal::KILL).unwrap();
    let refused = || dev.api("PUT", "/api/users/0", "").0 == 503;
    while !refused() {}
    let (status, refusal) = dev.api("DELETE", "/api/users/1", "");
    assert!(status == 503 && refusal.contains("get-user ended unexpectedly (signal: 9"), "{refusal}");
    fs::write(&handler, &code).unwrap();
    assert_eq!(dev.api("GET", "/api/users/1", ""), (200, user));
    assert_eq!(dev.api("DELETE", "/api/users/1", "").0, 200);
    assert_eq!(dev.api("GET", "/api/users", "").0, 200);
    assert_eq!(dev.api("GET", "/nowhere", ""), (404, "{\"message\":\"Not Found\"}\n".to_owned()));

    dev.signal(Signal::INT);
    let lines = dev.lines();
    let (status, stderr) = dev.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stderr.matches("mismatched types").count(), 1, "{stderr}");
    let requests: Vec<_> =
        lines.iter().filter_map(|line| line.strip_suffix(" ms")?.rsplit_once(' ')).collect();
    let requests: Vec<_> = requests
        .iter()
        .map(|(request, time)| {
            time.parse::<u32>().expect(time);
            *request
        })
        .filter(|request| !request.starts_with("PUT"))
        .collect();
    assert_eq!(
        requests,
        [
            "POST /api/users 201",
            "DELETE /api/users/1 503",
            "GET /api/users/1 503",
            "GET /api/users/1 200",
            "DELETE /api/users/1 503",
            "GET /api/users/1 200",
            "DELETE /api/users/1 200",
            "GET /api/users 200",
            "GET /nowhere 404",
        ]
    );
}

#[test]
fn the_database_keeps_its_port_from_start_to_start() {
    // Nobody may have the usual one the first time; it is as good if somebody has.
    let usual = TcpListener::bind(("127.0.0.1", 5433));
    let dev = Dev::start("port");
    let port = dev.database_port;
    assert_ne!(port, 5433);
    drop(usual);
    dev.signal(Signal::INT);
    dev.end();

    let dev = Dev::start("port");
    assert_eq!(dev.database_port, port);
    dev.signal(Signal::INT);
    dev.end();
}

#[test]
fn migrate_says_which_database_it_tried_and_not_the_password() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("migrate")
        .env("DATABASE_URL", format!("postgres://someone:hunter2@{nobody}/db"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(told.contains(&format!("Migrating {nobody}/db.")), "{told}");
    assert!(told.contains(&format!("can't connect to {nobody}/db: ")), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

/// What it takes to build the functions, to be changed while others use the original. For Cargo it is as new as that:
/// their target folder is the same, and nothing is built anew but what is changed.
fn copy_of_the_project(name: &str) -> PathBuf {
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).join("project");
    let _ = fs::remove_dir_all(&project);
    fs::create_dir_all(&project).unwrap();
    let mut copy = Command::new("cp");
    copy.args(["-Rp", ".cargo", "Cargo.lock", "Cargo.toml", "dev", "functions", "openapi.yaml", "shared"]);
    assert!(copy.arg(&project).current_dir(root()).status().unwrap().success());
    project
}
