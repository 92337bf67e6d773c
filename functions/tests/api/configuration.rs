//! How a binary reaches its database, by `DATABASE_URL` and `PGSSLROOTCERT`: always over verified TLS, except on
//! loopback, and without ever telling the password.

use std::{fs, net::TcpListener};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use testkit::{Answer, Database, Event, Function, Proxy, Server};

use crate::support::{
    Endpoint, assert_failure, assert_not_found, assert_success, endpoints, start_at, start_with, with_alice,
};

/// What a client sends first when it wants TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A valid certificate of a CA that has nothing to do with the test server.
pub(crate) const OTHER_CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/other-ca.pem");

/// An address of this machine that is not a loopback address, and can be connected to all the same.
const NOT_LOOPBACK: &str = "0.0.0.0";

#[test]
fn a_wrong_value_is_500_and_one_clear_sentence_without_the_password() {
    for (url, sentence) in [
        ("mysql://someone:hunter2@localhost/db", "DATABASE_URL must start with postgres://"),
        ("http://someone:hunter2@localhost/db", "DATABASE_URL must start with postgres://"),
        ("someone:hunter2@localhost/db", "DATABASE_URL must start with postgres://"),
        ("host=localhost user=someone password=hunter2", "DATABASE_URL must start with postgres://"),
        ("postgres://someone:hunter2@local@host/db", "DATABASE_URL holds more than one @"),
        ("postgres://someone:h@unter2@localhost/db", "DATABASE_URL holds more than one @"),
        (
            "postgres://someone:hunter2@localhost:port/db",
            "DATABASE_URL can't be read: invalid value for option `port`",
        ),
        (
            "postgres://someone:hunter2@localhost:99999/db",
            "DATABASE_URL can't be read: invalid value for option `port`",
        ),
        ("postgres://someone:hunter2", "DATABASE_URL"),
        ("postgres://someone:hunter2/db", "DATABASE_URL"),
        ("postgres://someone:pass?hunter2", "DATABASE_URL"),
        ("postgres://someone:pass?hunter2=x&y=z", "DATABASE_URL"),
        ("postgres://someone:pass/hunter2?x", "DATABASE_URL"),
        ("postgres://localhost/db?user=someone&password=hunter2&passwort=x", "DATABASE_URL"),
        ("postgres://someone:hunter2@/db", "DATABASE_URL names no host"),
        ("postgres://", "DATABASE_URL names no host"),
        ("postgres://someone:hunter2@localhost/db?sslmode=maybe", "DATABASE_URL has an unknown sslmode"),
        ("postgres://someone:hunter2@localhost/db?sslmode=", "DATABASE_URL has an unknown sslmode"),
        (
            "postgres://someone:hunter2@localhost/db?pgbouncer=true",
            "DATABASE_URL can't be read: unknown option `pgbouncer`",
        ),
        ("postgres://someone:hunter2@localhost/db?connect_timeout=soon", "DATABASE_URL"),
        ("postgres://someone:hunter2@localhost/db?sslrootcert=/nowhere/ca.pem", "can't read the file"),
        (
            concat!("postgres://someone:hunter2@localhost/db?sslrootcert=", env!("CARGO_MANIFEST_DIR")),
            "can't read the file",
        ),
        (
            concat!(
                "postgres://someone:hunter2@localhost/db?sslrootcert=",
                env!("CARGO_MANIFEST_DIR"),
                "/Cargo.toml"
            ),
            "no PEM certificates in the file",
        ),
    ] {
        assert_wrong(&start_at("get-user", url), url, sentence);
    }
}

#[test]
fn a_wrong_root_certificate_is_500_and_one_clear_sentence() {
    let url = "postgres://someone:hunter2@localhost/db?sslmode=require";
    for path in ["/nowhere/ca.pem", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")] {
        assert_wrong(&start_with("get-user", url, &[("PGSSLROOTCERT", path)]), path, "PGSSLROOTCERT");
    }
}

#[test]
fn every_endpoint_is_500_with_a_wrong_value() {
    for Endpoint { binary, event, .. } in endpoints() {
        let record = assert_failure(&start_at(binary, "nonsense").invoke(event), 500);
        assert!(record.to_string().contains("DATABASE_URL"), "{record}");
    }
}

#[test]
fn an_input_error_is_told_even_then() {
    assert_not_found(&start_at("get-user", "nonsense").invoke(Event::get("/api/users/0")));
}

fn assert_wrong(get: &Function, value: &str, sentence: &str) {
    let answer = get.invoke(Event::get("/api/users/1"));
    let record = assert_failure(&answer, 500);
    assert!(record.to_string().contains(sentence), "{value}: {record}");
    let log = get.log().join("\n");
    for part in ["hunter2", "unter2", "hunter"] {
        assert!(!log.contains(part) && !answer.body.contains(part), "{value}: {log}\n{answer:?}");
    }
}

#[test]
fn a_wrong_password_is_503_and_not_told() {
    let database = Database::new();
    let url = database.url_of_role("correct horse").replace("correct%20horse", "hunter2");
    let get = start_at("get-user", &url);
    let record = assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    assert!(record.to_string().contains("28P01"), "{record}");
    assert!(!get.log().join("\n").contains("hunter2"));
}

#[test]
fn where_nobody_listens_is_told_and_not_the_password() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let get = start_at("get-user", &format!("postgres://someone:hunter2@{nobody}/db"));
    let record = assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    let message = record["fields"]["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("can't connect to {nobody}/db: ")), "{message}");
    assert!(message.contains("Connection refused"), "{message}");
    assert!(!get.log().join("\n").contains("hunter2"));
}

#[test]
fn pguser_and_pgpassword_stand_in_for_what_the_url_does_not_say() {
    let database = Database::new();
    let url = database.url_of_role("correct horse");
    let user = database.name();
    for (credentials, user, password) in [
        ("", user, "correct horse"),
        (&format!("{user}@"), "nobody", "correct horse"),
        (&format!("{user}:correct%20horse@"), "nobody", "hunter2"),
    ] {
        let url = url.replace(&format!("{}:correct%20horse@", database.name()), credentials);
        let get = start_with("get-user", &url, &[("PGUSER", user), ("PGPASSWORD", password)]);
        assert_not_found(&get.invoke(Event::get("/api/users/1")));
    }
}

#[test]
fn a_database_that_does_not_exist_is_500() {
    let database = Database::new();
    let url = database.url().replace(database.name(), "test_no_such_database");
    let record = assert_failure(&start_at("get-user", &url).invoke(Event::get("/api/users/1")), 500);
    assert!(record.to_string().contains("3D000"), "{record}");
}

#[test]
fn a_password_may_hold_any_character_and_a_role_needs_no_more_than_the_table() {
    let database = Database::new();
    let url = database.url_of_role("p@ss:w/rd?#%&=+ 'é🦀\"");
    for Endpoint { binary, event, .. } in endpoints() {
        let answer = start_at(binary, &url).invoke(event);
        assert!(answer.status < 300, "{binary}: {answer:?}");
    }
}

#[test]
fn a_question_mark_in_the_password_starts_no_options() {
    let database = Database::new();
    let url = database.url_of_role("p?sslmode=x").replace("p%3Fsslmode%3Dx", "p?sslmode=x");
    assert_not_found(&start_at("get-user", &url).invoke(Event::get("/api/users/1")));
}

#[test]
fn on_loopback_the_url_may_do_without_tls() {
    let credentials = &Server::current().credentials;
    for host_and_options in [
        "localhost:PORT/DB",
        "localhost:PORT/DB?sslmode=disable",
        "localhost:PORT/DB?sslmode=prefer",
        "localhost:PORT/DB?sslnegotiation=postgres",
        "127.0.0.1:PORT/DB",
        "[::1]:PORT/DB?hostaddr=127.0.0.1",
        "localhost:PORT,127.0.0.2:PORT/DB",
    ] {
        let database = Database::new();
        let proxy = Proxy::new();
        let target =
            host_and_options.replace("PORT", &proxy.port().to_string()).replace("DB", database.name());
        let url = format!("postgres://{credentials}@{target}");
        let (answer, sent) = ask_by_way_of(proxy, &url, &[]);
        assert_not_found(&answer);
        assert!(contains(&sent, database.name()), "{target}: not in the clear");
    }
}

#[test]
fn on_loopback_the_url_may_ask_for_tls_which_is_then_verified() {
    for mode in ["require", "verify-ca", "verify-full"] {
        let database = Database::new();
        let proxy = Proxy::new();
        let url = tls_url(
            &proxy,
            &database,
            "localhost",
            &format!("sslmode={mode}&sslrootcert={}", encoded(&root_cert())),
        );
        let (answer, sent) = ask_by_way_of(proxy, &url, &[]);
        assert_not_found(&answer);
        assert_private(&sent, &database);

        // A CA that did not sign the server's certificate.
        let proxy = Proxy::new();
        let url = tls_url(
            &proxy,
            &database,
            "localhost",
            &format!("sslmode={mode}&sslrootcert={}", encoded(OTHER_CA)),
        );
        let (answer, sent) = ask_by_way_of(proxy, &url, &[]);
        assert_failure(&answer, 503);
        assert_private(&sent, &database);

        // The system's CAs, which did not either.
        let proxy = Proxy::new();
        let url = tls_url(&proxy, &database, "localhost", &format!("sslmode={mode}"));
        let (answer, sent) = ask_by_way_of(proxy, &url, &[]);
        assert_failure(&answer, 503);
        assert_private(&sent, &database);
    }
}

#[test]
fn on_loopback_direct_negotiation_asks_for_tls_too() {
    let (database, proxy) = (Database::new(), Proxy::new());
    let url = tls_url(&proxy, &database, "localhost", "sslnegotiation=direct");
    let (_, sent) = ask_by_way_of(proxy, &url, &[]);
    assert_eq!(sent.first(), Some(&22), "no handshake of TLS");
}

#[test]
fn off_loopback_tls_is_required_whatever_the_url_says() {
    let Server { credentials, .. } = Server::current();
    let database = Database::new();
    for host_and_options in [
        "0.0.0.0:PORT/DB",
        "0.0.0.0:PORT/DB?sslmode=disable",
        "0.0.0.0:PORT/DB?sslmode=allow",
        "0.0.0.0:PORT/DB?sslmode=prefer",
        "0.0.0.0:PORT/DB?sslmode=require",
        "0.0.0.0:PORT/DB?sslmode=verify-ca",
        "0.0.0.0:PORT/DB?sslmode=verify-full",
        "0.0.0.0:PORT/DB?sslmode=require&sslmode=disable",
        "0.0.0.0:PORT/DB?ssl%6Dode=disable",
        // Not a literal loopback address either: who knows what it resolves to.
        "0x7f.1:PORT/DB?sslmode=disable",
        "localhost.example.com:PORT/DB?hostaddr=127.0.0.1&sslmode=disable",
        // The name says loopback, the address does not.
        "localhost:PORT/DB?hostaddr=0.0.0.0&sslmode=disable",
        // One host of several is enough.
        "0.0.0.0:PORT,localhost:PORT/DB?sslmode=disable",
        "localhost:PORT,0.0.0.0:PORT/DB?sslmode=disable",
        "localhost:PORT/DB?host=0.0.0.0&port=PORT&sslmode=disable",
    ] {
        for proxy in [Proxy::refusing_tls(), Proxy::new()] {
            let target =
                host_and_options.replace("PORT", &proxy.port().to_string()).replace("DB", database.name());
            // Without the right CA, so that verification fails where TLS is to be had.
            let (answer, sent) = ask_by_way_of(proxy, &format!("postgres://{credentials}@{target}"), &[]);
            assert!(answer.status == 503 || answer.status == 500, "{target}: {answer:?}");
            assert!(
                !contains(&sent, database.name()),
                "{target}: the database's name went over in the clear"
            );
            if answer.status == 503 {
                assert!(sent.starts_with(&SSL_REQUEST) || sent.is_empty(), "{target}: {sent:?}");
            }
        }
    }
}

#[test]
fn the_certificate_must_be_for_the_host_in_the_url() {
    let database = Database::new();
    for options in ["sslmode=verify-full", "sslmode=verify-ca", "sslmode=require", "sslmode=disable"] {
        let proxy = Proxy::new();
        let url = tls_url(
            &proxy,
            &database,
            NOT_LOOPBACK,
            &format!("{options}&sslrootcert={}", encoded(&root_cert())),
        );
        let (answer, sent) = ask_by_way_of(proxy, &url, &[]);
        assert_failure(&answer, 503);
        assert_private(&sent, &database);
    }
}

#[test]
fn a_server_without_tls_is_told_nothing() {
    let database = Database::new();
    for (host, options) in [
        ("localhost", "sslmode=verify-full"),
        ("localhost", "sslmode=require"),
        (NOT_LOOPBACK, "sslmode=disable"),
        (NOT_LOOPBACK, "sslmode=prefer"),
    ] {
        let proxy = Proxy::refusing_tls();
        let url =
            tls_url(&proxy, &database, host, &format!("{options}&sslrootcert={}", encoded(&root_cert())));
        let (answer, sent) = ask_by_way_of(proxy, &url, &[]);
        assert_failure(&answer, 503);
        // It may have asked more than once, during init and for the request.
        assert!(!sent.is_empty());
        assert_eq!(sent, SSL_REQUEST.repeat(sent.len() / SSL_REQUEST.len()), "{host} {options}");
    }
}

#[test]
fn pgsslrootcert_does_what_sslrootcert_does() {
    let database = Database::new();
    for (root_cert, status) in [(root_cert().as_str(), 404), (OTHER_CA, 503)] {
        let proxy = Proxy::new();
        let url = tls_url(&proxy, &database, "localhost", "sslmode=verify-full");
        let (answer, sent) = ask_by_way_of(proxy, &url, &[("PGSSLROOTCERT", root_cert)]);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_private(&sent, &database);
    }
}

#[test]
fn an_empty_pgsslrootcert_counts_as_none() {
    let database = Database::new();
    let get = start_with("get-user", &database.url(), &[("PGSSLROOTCERT", "")]);
    assert_not_found(&get.invoke(Event::get("/api/users/1")));
}

#[test]
fn all_certificates_of_a_bundle_are_trusted() {
    let bundle = format!("{}/bundle-of-two.pem", env!("CARGO_TARGET_TMPDIR"));
    let certificates = [OTHER_CA, &root_cert()].map(|path| fs::read_to_string(path).expect("a certificate"));
    fs::write(&bundle, certificates.concat()).expect("writing the bundle");

    let database = Database::new();
    let proxy = Proxy::new();
    let url = tls_url(
        &proxy,
        &database,
        "localhost",
        &format!("sslmode=verify-full&sslrootcert={}", encoded(&bundle)),
    );
    assert_not_found(&ask_by_way_of(proxy, &url, &[]).0);
}

#[test]
fn postgresql_is_understood_like_postgres() {
    let database = with_alice();
    let url = database.url().replace("postgres://", "postgresql://");
    let answer = start_at("get-user", &url).invoke(Event::get("/api/users/1"));
    assert_success(&answer, 200, &json!({ "id": 1, "name": "Alice", "age": 30 }));
}

/// The test server's CA. These tests need one: without TLS on the server they could not fail.
fn root_cert() -> String {
    Server::current().root_cert().expect("TEST_DATABASE_URL has sslmode=verify-full and sslrootcert=")
}

/// A path as a value in a URL.
fn encoded(path: &str) -> String {
    utf8_percent_encode(path, NON_ALPHANUMERIC).to_string()
}

fn tls_url(proxy: &Proxy, database: &Database, host: &str, options: &str) -> String {
    let credentials = &Server::current().credentials;
    format!("postgres://{credentials}@{host}:{}/{}?{options}", proxy.port(), database.name())
}

/// The answer to a request for user 1, and all that the binary sent towards the server.
fn ask_by_way_of(proxy: Proxy, url: &str, env: &[(&str, &str)]) -> (Answer, Vec<u8>) {
    let get = start_with("get-user", url, env);
    let answer = get.invoke(Event::get("/api/users/1"));
    drop(get);
    (answer, proxy.into_sent())
}

/// What was sent begins with the wish for TLS, and the name of the database, which comes next, was not readable.
fn assert_private(sent: &[u8], database: &Database) {
    assert!(sent.starts_with(&SSL_REQUEST), "{:?}", &sent[..sent.len().min(16)]);
    assert!(!contains(sent, database.name()));
}

fn contains(sent: &[u8], text: &str) -> bool {
    sent.windows(text.len()).any(|window| window == text.as_bytes())
}
