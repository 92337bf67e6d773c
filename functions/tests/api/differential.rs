//! The guide's Flask app and ours, side by side: whoever wrote a client against the one can use the other.
//!
//! `tests/flask` holds the guide's `app.py` to the letter, and its `db.py` with the connection taken from the
//! environment.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::{Value, json};
use testkit::{Database, Event, Function};

use crate::{
    support::{Endpoint, endpoints, start, user},
    wiring::{documents, read},
};

const FLASK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/flask");

#[test]
fn the_guides_requests_get_the_guides_answers() {
    let (guides, ours) = (Database::empty(), Database::new());
    guides.execute("CREATE TABLE users (id SERIAL PRIMARY KEY, name VARCHAR(100), age INT)");
    for database in [&guides, &ours] {
        // Rows of other programs.
        database.execute(
            "INSERT INTO users (name, age) VALUES (NULL, 30), ('Bob', NULL), (NULL, NULL), (E' \\t', -5)",
        );
    }
    let (flask, ours) = (Flask::start(&guides), Ours::start(&ours));
    for (method, path, body) in requests() {
        assert_same(&flask, &ours, method, &path, body.as_ref());
    }
}

#[test]
fn both_can_serve_the_same_table_at_the_same_time() {
    let database = Database::new();
    let (flask, ours) = (Flask::start(&database), Ours::start(&database));

    assert_eq!(flask.ask("POST", "/api/users", Some(&user("Alice", 30))).json()["id"], 1);
    assert_eq!(ours.ask("POST", "/api/users", Some(&user("Bob", 41))).json()["id"], 2);
    assert_eq!(flask.ask("PUT", "/api/users/2", Some(&user("Robert", 42))).status, 200);
    assert_eq!(ours.ask("PUT", "/api/users/1", Some(&user("Alice Updated", 31))).status, 200);
    for path in ["/api/users", "/api/users/1", "/api/users/2"] {
        assert_same(&flask, &ours, "GET", path, None);
    }
    assert_eq!(flask.ask("DELETE", "/api/users/1", None).status, 200);
    assert_eq!(ours.ask("DELETE", "/api/users/1", None).status, 404);
    assert_same(&flask, &ours, "GET", "/api/users", None);
}

#[test]
fn the_differences_are_those_that_readme_tells() {
    let (guides, ours) = (Database::empty(), Database::new());
    guides.execute("CREATE TABLE users (id SERIAL PRIMARY KEY, name VARCHAR(100), age INT)");
    let (flask, ours) = (Flask::start(&guides), Ours::start(&ours));
    let documents: String = documents().iter().map(|path| read(path)).collect();

    let utf16: Vec<u8> = r#"{"name":"Alice","age":30}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let large = format!(r#"{{"name":"Alice","age":30{}}}"#, " ".repeat(16 * 1024));
    let (json, mut told) = ("application/json", Vec::new());
    for (word, content_type, body, status) in [
        ("UTF-16", json, utf16.as_slice(), 400),
        ("16 KiB", json, large.as_bytes(), 413),
        ("`application/*+json`", "application/vnd.api+json", br#"{"name":"Alice","age":30}"#, 415),
        ("`NaN`", json, br#"{"name":"Alice","age":30,"more":NaN}"#, 400),
        ("repeated", json, br#"{"name":"Alice","name":"Bob","age":30}"#, 400),
        ("`-0`", json, br#"{"name":"Alice","age":-0}"#, 400),
        ("`30.0`", json, br#"{"name":"Alice","age":30.0}"#, 400),
        ("`\"30\"`", json, br#"{"name":"Alice","age":"30"}"#, 400),
        ("`null`", json, br#"{"name":"Alice","age":null}"#, 400),
        ("`-5`", json, br#"{"name":"Alice","age":-5}"#, 400),
        ("blank", json, br#"{"name":" ","age":30}"#, 400),
        ("control character", json, br#"{"name":"A\tB","age":30}"#, 400),
    ] {
        assert_eq!(flask.send("POST", "/api/users", content_type, body).status, 201, "{word}");
        let answer = ours.send("POST", "/api/users", content_type, body);
        assert_eq!(answer.status, status, "{word}: {answer:?}");
        told.push(word);
    }

    // A missing member of a PUT turns NULL there.
    assert_eq!(flask.send("PUT", "/api/users/1", json, br#"{"age":30}"#).status, 200);
    assert_eq!(ours.send("PUT", "/api/users/1", json, br#"{"age":30}"#).status, 400);
    // Leading zeros are none there.
    assert_eq!(flask.ask("GET", "/api/users/01", None).status, 200);
    assert_eq!(ours.ask("GET", "/api/users/01", None).status, 404);
    // There, HEAD comes with GET; here, no route has it.
    assert_eq!(flask.ask("HEAD", "/api/users", None).status, 200);
    told.extend(["`HEAD`", "leading zeros", "1,000"]);
    told.retain(|word| !documents.contains(word));
    assert_eq!(told, [""; 0], "no document tells of them");
}

#[test]
fn a_byte_order_mark_and_unknown_parameters_are_no_difference() {
    let (guides, ours) = (Database::empty(), Database::new());
    guides.execute("CREATE TABLE users (id SERIAL PRIMARY KEY, name VARCHAR(100), age INT)");
    let (flask, ours) = (Flask::start(&guides), Ours::start(&ours));
    let body = "\u{feff}{\"name\":\"Alice\",\"age\":30}";
    let expected = flask.send("POST", "/api/users", "application/json", body.as_bytes());
    let answer = ours.send("POST", "/api/users", "application/json", body.as_bytes());
    assert_eq!((answer.status, answer.json()), (expected.status, expected.json()));
    for path in ["/api/users?_=17", "/api/users?utm_source=x&utm_source=y", "/api/users/1?_=17"] {
        assert_same(&flask, &ours, "GET", path, None);
    }
}

fn requests() -> Vec<(&'static str, String, Option<Value>)> {
    let mut requests = vec![("GET", "/api/users".to_owned(), None)];
    let long = "🦀".repeat(100);
    for body in [
        user("Alice", 30),
        user("Zoë 李 العربية 👩‍🔬", 0),
        user(&long, 150),
        user("O'Brien \"the\" \\ %s %(name)s ; DROP TABLE users;--", 41),
        user(" spaces stay  ", 41),
        json!({ "id": 4711, "name": "Bob", "age": 41 }),
        json!({ "name": "Bob", "age": 41, "email": "bob@example.com", "more": { "name": [null, 1.5] } }),
    ] {
        requests.push(("POST", "/api/users".to_owned(), Some(body)));
    }
    requests.push(("GET", "/api/users".to_owned(), None));
    for id in ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"] {
        requests.push(("GET", format!("/api/users/{id}"), None));
    }
    for (id, body) in [
        ("5", user("Alice Updated", 31)),
        ("5", user("Alice Updated", 31)),
        ("6", json!({ "id": 6, "name": "Zoë", "age": 1 })),
        ("7", json!({ "id": 8, "name": "Eve", "age": 2, "more": [] })),
        ("1", user("Somebody", 30)),
        ("999", user("Nobody", 30)),
        ("2147483648", user("Nobody", 30)),
    ] {
        requests.push(("PUT", format!("/api/users/{id}"), Some(body)));
        requests.push(("GET", format!("/api/users/{id}"), None));
    }
    // No user has them, or no route: 404 either way.
    for id in [
        "999",
        "0",
        "-1",
        "+1",
        "1.0",
        "abc",
        "1e3",
        "2147483648",
        "9223372036854775807",
        "99999999999999999999",
        "%20",
    ] {
        requests.push(("GET", format!("/api/users/{id}"), None));
        requests.push(("PUT", format!("/api/users/{id}"), Some(user("Nobody", 30))));
        requests.push(("DELETE", format!("/api/users/{id}"), None));
    }
    for id in ["2", "2", "11", "4"] {
        requests.push(("DELETE", format!("/api/users/{id}"), None));
        requests.push(("GET", format!("/api/users/{id}"), None));
    }
    // The id of a deleted user is not given again.
    requests.push(("POST", "/api/users".to_owned(), Some(user("Carol", 52))));
    requests.push(("GET", "/api/users".to_owned(), None));
    requests
}

fn assert_same(flask: &Flask, ours: &Ours, method: &str, path: &str, body: Option<&Value>) {
    let (expected, answer) = (flask.ask(method, path, body), ours.ask(method, path, body));
    assert_eq!(answer.status, expected.status, "{method} {path} {body:?}: {expected:?} {answer:?}");
    if expected.status < 300 {
        assert_eq!(answer.content_type, expected.content_type, "{method} {path}");
        assert_eq!(in_order(answer.json()), in_order(expected.json()), "{method} {path} {body:?}");
    } else if expected.content_type == "application/json" {
        // Ours says more. Where Flask itself answers, it does so in HTML.
        assert_eq!(answer.json()["error"], expected.json()["error"], "{method} {path} {body:?}");
    }
}

/// The guide's list comes in no particular order.
fn in_order(mut body: Value) -> Value {
    if let Some(users) = body.as_array_mut() {
        users.sort_by_key(|user| user["id"].as_i64());
    }
    body
}

#[derive(Debug)]
struct Reply {
    status: u16,
    content_type: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

struct Ours {
    functions: Vec<(Endpoint, Function)>,
}

impl Ours {
    fn start(database: &Database) -> Self {
        let functions = endpoints().into_iter().map(|it| (start(it.binary, database), it));
        Self { functions: functions.map(|(function, it)| (it, function)).collect() }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.invoke(method, path, |event| body.into_iter().fold(event, Event::json))
    }

    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Reply {
        self.invoke(method, path, |event| event.header("content-type", content_type).bytes(body))
    }

    fn invoke(&self, method: &str, path: &str, with_body: impl FnOnce(Event) -> Event) -> Reply {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let event = Event::new(method, path);
        let found = self.functions.iter().find(|(it, _)| it.event.route() == event.route());
        let (_, function) = found.unwrap_or_else(|| panic!("no route {}", event.route()));
        let answer = function.invoke(with_body(if query.is_empty() { event } else { event.query(query) }));
        let content_type = answer.header("content-type").unwrap_or_default().to_owned();
        Reply { status: answer.status, content_type, body: answer.body }
    }
}

/// The guide's app on a port of its own, ended when dropped.
struct Flask {
    process: Child,
    port: u16,
}

impl Flask {
    fn start(database: &Database) -> Self {
        const RUN: &str = "\
            from app import app\n\
            from werkzeug.serving import make_server\n\
            server = make_server('127.0.0.1', 0, app)\n\
            print(server.port, flush=True)\n\
            server.serve_forever()";
        let mut process = Command::new("python3")
            .args(["-c", RUN])
            .current_dir(FLASK)
            .env("DATABASE_URL", database.url())
            .env("PYTHONPATH", installed())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // A line per request, and why it failed if it did: cargo shows it with a failed test only.
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 was there to install Flask");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("its stdout");
        BufReader::new(stdout).read_line(&mut line).expect("the port");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the guide's app did not start in {FLASK}"));
        Self { process, port }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let body = body.map(Value::to_string).unwrap_or_default();
        let content_type = if body.is_empty() { "" } else { "application/json" };
        self.send(method, path, content_type, body.as_bytes())
    }

    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the guide's app listens");
        let content_type = match content_type {
            "" => String::new(),
            some => format!("Content-Type: {some}\r\n"),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{content_type}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).expect("sending");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("receiving");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (known, value) = line.split_once(": ")?;
                known.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        Reply {
            status: head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"),
            content_type: header("content-type").unwrap_or_default(),
            body: body.to_owned(),
        }
    }
}

impl Drop for Flask {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder with Flask and psycopg2, installed below the target folder when they are not there yet.
fn installed() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
        let (folder, partial) = (tools.join("flask"), tools.join(format!("flask-{}", std::process::id())));
        let requirements = fs::read(format!("{FLASK}/requirements.txt")).expect("requirements.txt");
        // Written last and moved with the rest: what stands there was installed completely.
        let stamp = "requirements.txt";
        if fs::read(folder.join(stamp)).is_ok_and(|installed| installed == requirements) {
            return folder;
        }
        let pip = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(format!("{FLASK}/requirements.txt"))
            .arg("--target")
            .arg(&partial)
            .output();
        let pip = pip.unwrap_or_else(|error| panic!("this test needs python3 with pip, for Flask: {error}"));
        assert!(
            pip.status.success(),
            "this test needs python3 with pip, for Flask: {}",
            String::from_utf8_lossy(&pip.stderr)
        );
        fs::write(partial.join(stamp), &requirements).expect("stamping the installation");
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("removing an older installation");
        }
        fs::rename(&partial, &folder).expect("moving the installation into place");
        folder
    })
}
