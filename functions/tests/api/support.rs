//! What the tests share.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use shared::roles::Access;
use testkit::{Answer, Database, Event, Function, as_role};

/// An endpoint, and what the tests that concern several of them have to know of it.
pub(crate) struct Endpoint {
    /// Its binary.
    pub(crate) binary: &'static str,
    /// An event that gets its success where there is what [`SEED`] has stored.
    pub(crate) event: Event,
    /// The status of that success.
    pub(crate) success: u16,
    /// What its database role may do.
    pub(crate) access: Access,
    /// The table that it is about.
    pub(crate) table: &'static str,
}

/// Every endpoint: what the tests of errors, faults, roles, round trips and so on derive from.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let (users, bob) = ("users", user("Bob", 41));
    [
        ("list-users", Event::get("/api/users").query("limit=100"), 200, Access::Read, users),
        ("create-user", Event::post("/api/users").json(&bob), 201, Access::Create, users),
        ("get-user", Event::get("/api/users/1"), 200, Access::Read, users),
        ("update-user", Event::put("/api/users/1").json(&bob), 200, Access::Update, users),
        // Last: the others need the user.
        ("delete-user", Event::delete("/api/users/1"), 200, Access::Delete, users),
    ]
    .map(|(binary, event, success, access, table)| Endpoint { binary, event, success, access, table })
    .into()
}

/// Those that are about users.
pub(crate) fn of_users() -> impl Iterator<Item = Endpoint> {
    endpoints().into_iter().filter(|it| it.table == "users")
}

/// A row in each table.
pub(crate) const SEED: &str = "INSERT INTO users (name, age) VALUES ('Alice', 30)";

impl Endpoint {
    /// Whether an id is in its path.
    pub(crate) fn has_id(&self) -> bool {
        self.event.route().ends_with("/{id}")
    }

    /// Whether it takes a body.
    pub(crate) fn has_body(&self) -> bool {
        Value::from(self.event.clone()).get("body").is_some()
    }

    pub(crate) fn writes(&self) -> bool {
        self.access != Access::Read
    }

    /// How many rows its table has after its success, where there was one before.
    pub(crate) fn rows_left(&self) -> i64 {
        match self.access {
            Access::Create => 2,
            Access::Read | Access::Update => 1,
            Access::Delete => 0,
        }
    }
}

/// The endpoints that take a user in the body, each with an event that has none.
pub(crate) fn writers() -> Vec<(&'static str, Event)> {
    of_users().filter(Endpoint::has_body).map(|it| (it.binary, it.event.without_body())).collect()
}

/// The endpoints with the id of a user in the path, each with an event that has this one.
pub(crate) fn with_id(id: &str) -> Vec<(&'static str, Event)> {
    of_users().filter(Endpoint::has_id).map(|it| (it.binary, it.event.with_id(id))).collect()
}

/// What the database role may do that an endpoint connects as.
pub(crate) fn access_of(binary: &str) -> Access {
    let found = endpoints().into_iter().find(|it| it.binary == binary);
    found.unwrap_or_else(|| panic!("{binary} is no endpoint")).access
}

/// Where a binary is: in the folder `BOOTSTRAPS` as `sam build` has made it, if that is set, else where Cargo has built
/// it.
#[expect(clippy::disallowed_methods, reason = "not the product's configuration")]
pub(crate) fn path_of(binary: &str) -> PathBuf {
    match std::env::var_os("BOOTSTRAPS") {
        Some(folder) => PathBuf::from(folder).join(pascal_case(binary)).join("bootstrap"),
        None => Path::new(env!("CARGO_BIN_EXE_migrate")).with_file_name(binary),
    }
}

/// `create-user` is `CreateUser`.
pub(crate) fn pascal_case(binary: &str) -> String {
    binary.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// An endpoint on a database.
pub(crate) fn start(binary: &str, database: &Database) -> Function {
    start_at(binary, &database.url())
}

/// An endpoint with a `DATABASE_URL`. In place of the test server's superuser it connects as the role with its access.
pub(crate) fn start_at(binary: &str, url: &str) -> Function {
    start_with(binary, url, &[])
}

/// The same with more of an environment.
pub(crate) fn start_with(binary: &str, url: &str, env: &[(&str, &str)]) -> Function {
    let url = as_role(access_of(binary), url);
    // What `sam build` has made has another name.
    let own = [("AWS_LAMBDA_FUNCTION_NAME", binary), ("DATABASE_URL", url.as_str())];
    Function::start(path_of(binary), &[&own, env].concat())
}

/// A binary whose database is down: nothing listens on port 1, and connecting to loopback is refused at once.
pub(crate) fn start_with_database_down(binary: &str) -> Function {
    start_at(binary, "postgres://someone:hunter2@127.0.0.1:1/somewhere")
}

/// A database with user 1.
pub(crate) fn with_alice() -> Database {
    let database = Database::new();
    database.execute(SEED);
    database
}

/// The tables of all endpoints, separated by commas.
pub(crate) fn tables() -> String {
    let tables: BTreeSet<_> = endpoints().into_iter().map(|it| it.table).collect();
    Vec::from_iter(tables).join(", ")
}

/// Makes a database what [`with_alice`] gives.
pub(crate) fn reset(database: &Database) {
    database.execute(&format!("TRUNCATE {} RESTART IDENTITY; {SEED}", tables()));
}

/// How many rows a table has.
pub(crate) fn count(database: &Database, table: &str) -> i64 {
    let count = database.client().query_one(&format!("SELECT count(*) FROM {table}"), &[]);
    count.expect("counting").get(0)
}

/// The members that a client sends.
pub(crate) fn user(name: &str, age: i32) -> Value {
    json!({ "name": name, "age": age })
}

/// All rows, in the order of their ids.
pub(crate) fn rows(database: &Database) -> Vec<(i64, Option<String>, Option<i32>)> {
    let rows = database.client().query("SELECT id::bigint, name, age FROM users ORDER BY users.id", &[]);
    rows.expect("reading users").iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// What a reference in an answer means to the client that has asked for this URL (RFC 3986, section 5.2); without dots
/// in paths.
pub(crate) fn resolved(url: &str, reference: &str) -> String {
    let path = url.split('?').next().unwrap_or_default();
    let (scheme, rest) = path.split_once("://").expect("an absolute URL");
    let (host, _) = rest.split_once('/').expect("a path");
    match reference {
        "" => url.to_owned(),
        absolute if absolute.contains("://") => absolute.to_owned(),
        query if query.starts_with('?') => format!("{path}{query}"),
        absolute if absolute.starts_with('/') => format!("{scheme}://{host}{absolute}"),
        relative => format!("{}/{relative}", path.rsplit_once('/').expect("a path").0),
    }
}

/// A success: status, type, and body to the letter.
pub(crate) fn assert_success(answer: &Answer, status: u16, body: &Value) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert_eq!(answer.json(), *body);
}

/// A problem document (RFC 9457) with this status and the guide's member `error`.
pub(crate) fn assert_problem(answer: &Answer, status: u16, title: &str, error: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let body = answer.json();
    assert_eq!(body["type"], "about:blank", "{body}");
    assert_eq!(body["title"], title, "{body}");
    assert_eq!(body["status"], status, "{body}");
    assert_eq!(body["error"], error, "{body}");
    assert_eq!(answer.header("retry-after"), None, "{answer:?}");
    assert_eq!(body.get("requestId"), None, "{body}");
}

/// 404, without a word more.
pub(crate) fn assert_not_found(answer: &Answer) {
    assert_problem(answer, 404, "Not Found", "User not found");
    assert_eq!(
        answer.json(),
        json!({ "type": "about:blank", "title": "Not Found", "status": 404, "error": "User not found" })
    );
}

/// 400 that names these members of the body, and no others.
pub(crate) fn assert_faults(answer: &Answer, error: &str, pointers: &[&str]) {
    assert_problem(answer, 400, "Bad Request", error);
    let body = answer.json();
    let errors = body["errors"].as_array().unwrap_or_else(|| panic!("no errors in {body}"));
    let mut found: Vec<_> =
        errors.iter().map(|error| error["pointer"].as_str().unwrap_or_default()).collect();
    found.sort_unstable();
    assert_eq!(found, pointers, "{body}");
    for error in errors {
        assert!(error["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
    }
}

/// 500, or 503 that asks to be repeated: nothing but the request id in the body, and the failure logged once, under the
/// same id. Returns the record.
pub(crate) fn assert_failure(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.header("retry-after"), (status == 503).then_some("1"), "{answer:?}");
    assert_told_nothing_but_the_id(answer, status)
}

/// 503 that does not ask to be repeated, but to look what became of the write. Returns the record.
pub(crate) fn assert_unknown(answer: &Answer) -> Value {
    assert_eq!(answer.header("retry-after"), None, "{answer:?}");
    let record = assert_told_nothing_but_the_id(answer, 503);
    let text = answer.json()["error"].as_str().unwrap_or_default().to_owned();
    assert!(text.starts_with("It is not known whether the user was "), "{text}");
    assert!(text.contains(": look before trying again"), "{text}");
    record
}

fn assert_told_nothing_but_the_id(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let body = answer.json();
    let title = if status == 503 { "Service Unavailable" } else { "Internal Server Error" };
    assert_eq!(body["type"], "about:blank");
    assert_eq!(body["title"], title);
    assert_eq!(body["status"], status);
    assert_eq!(body["requestId"], answer.request_id);
    let error = body["error"].as_str().unwrap_or_else(|| panic!("no error in {body}"));
    let members: Vec<_> = body.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    assert_eq!(members.len(), 5, "{body}");
    for secret in [
        "127.0.0.1",
        "localhost",
        "refused",
        "connect",
        "postgres",
        "sql",
        "select",
        "insert",
        "column",
        "relation",
        "users",
        "os error",
        "db error",
        "tls",
        "certificate",
        "password",
        "authentication",
        "hunter2",
    ] {
        assert!(!error.to_lowercase().contains(secret), "{secret} in {body}");
    }
    only_record(answer)
}

/// The only line that was logged for an answer, which is a JSON record with the request's id.
pub(crate) fn only_record(answer: &Answer) -> Value {
    let [line] = answer.log.as_slice() else { panic!("not exactly one line: {:#?}", answer.log) };
    assert!(line.contains(&answer.request_id), "no {} in {line}", answer.request_id);
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the record {line}"))
}
