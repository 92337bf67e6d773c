//! Every warm request is exactly one round trip to PostgreSQL, counted on the wire.

use shared::roles::Access;
use testkit::{Database, Event, Function, Proxy};

use crate::support::{
    Endpoint, assert_failure, assert_not_found, endpoints, start_at, start_with, user, with_id, writers,
};

#[test]
fn every_warm_request_is_one_round_trip_under_tls() {
    each_is_one_round_trip(Database::url_via);
}

#[test]
fn every_warm_request_is_one_round_trip_without_tls() {
    each_is_one_round_trip(Database::plain_url_via);
}

fn each_is_one_round_trip(url: fn(&Database, &Proxy) -> String) {
    let database = Database::new();
    database.execute("INSERT INTO users (name, age) SELECT 'User', 30 FROM generate_series(1, 2000)");
    for Endpoint { binary, event, success, access, .. } in endpoints() {
        let proxy = Proxy::new();
        let function = start_at(binary, &url(&database, &proxy));
        function.wait_for_init();
        assert_eq!(proxy.connections(), 1, "{binary} connects while it starts");

        one_round_trip(&proxy, &function, event.clone(), success);
        // The same again, which finds nothing where it was deleted.
        one_round_trip(&proxy, &function, event, if access == Access::Delete { 404 } else { success });
        one_round_trip_each_for_other_requests(&proxy, &function, binary);
        assert_eq!(proxy.connections(), 1, "{binary} keeps its connection");
    }
}

fn one_round_trip_each_for_other_requests(proxy: &Proxy, function: &Function, binary: &str) {
    match binary {
        "list-users" => {
            for query in ["limit=1", "limit=1000&after=1000", "after=9223372036854775807"] {
                one_round_trip(proxy, function, Event::get("/api/users").query(query), 200);
            }
        }
        "create-user" => {
            let event = Event::post("/api/users").json(&user(&"🦀".repeat(100), 150));
            one_round_trip(proxy, function, event, 201);
        }
        _ => {
            for (of, event) in with_id("9223372036854775807") {
                if of == binary {
                    one_round_trip(proxy, function, event, 404);
                }
            }
        }
    }
}

fn one_round_trip(proxy: &Proxy, function: &Function, event: Event, status: u16) {
    let (round_trips, answer) = proxy.round_trips_of(|| function.invoke(event));
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(round_trips, 1, "{answer:?}");
}

#[test]
fn an_input_error_is_no_round_trip() {
    let database = Database::new();
    let wrong = with_id("0")
        .into_iter()
        .map(|(binary, event)| (binary, event, 404))
        .chain(writers().into_iter().map(|(binary, event)| (binary, event.json(&user("", 30)), 400)))
        .chain([("list-users", Event::get("/api/users").query("limit=0"), 400)]);
    for (binary, event, status) in wrong {
        let proxy = Proxy::new();
        let function = start_at(binary, &database.url_via(&proxy));
        function.wait_for_init();
        let (round_trips, answer) = proxy.round_trips_of(|| function.invoke(event));
        assert_eq!((answer.status, round_trips), (status, 0), "{binary}: {answer:?}");
    }
}

#[test]
fn many_requests_share_one_connection() {
    let database = Database::new();
    let proxy = Proxy::new();
    let create = start_at("create-user", &database.url_via(&proxy));
    create.wait_for_init();
    let (round_trips, ()) = proxy.round_trips_of(|| {
        for _ in 0..50 {
            assert_eq!(create.invoke(Event::post("/api/users").json(&user("Alice", 30))).status, 201);
        }
    });
    assert_eq!((proxy.connections(), round_trips), (1, 50));
}

#[test]
fn a_request_is_one_unnamed_statement_and_nothing_else() {
    let database = Database::new();
    for Endpoint { binary, event, .. } in endpoints() {
        let proxy = Proxy::new();
        let function = start_at(binary, &database.plain_url_via(&proxy));
        for _ in 0..2 {
            assert!(function.invoke(event.clone()).status < 500);
        }
        drop(function);

        let sent = proxy.into_sent();
        let messages = messages(&sent);
        let last_of_login = messages.iter().rposition(|(kind, _)| *kind == b'p').expect("a login");
        let statements = &messages[last_of_login + 1..];
        let kinds: String = statements.iter().map(|(kind, _)| char::from(*kind)).collect();
        // Parse, Bind, Describe, Execute, Sync.
        assert_eq!(kinds, "PBDESPBDES", "{binary}");
        for (kind, content) in statements {
            if *kind == b'P' {
                assert_eq!(content[0], 0, "{binary} gives its statement a name");
            }
        }
    }
}

/// The kinds and contents of what a client sent without TLS, after its StartupMessage.
fn messages(mut sent: &[u8]) -> Vec<(u8, &[u8])> {
    let mut messages = Vec::new();
    let length = |of: &[u8]| u32::from_be_bytes([of[0], of[1], of[2], of[3]]) as usize;
    sent = &sent[length(sent)..];
    while let [kind, rest @ ..] = sent {
        let (message, after) = rest.split_at(length(rest));
        messages.push((*kind, &message[4..]));
        sent = after;
    }
    messages
}

/// How many round trips it takes to connect with verified TLS and SCRAM.
fn round_trips_to_connect(options: &str) -> usize {
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/layer/openssl.cnf");
    let database = Database::new();
    let proxy = Proxy::new();
    let get = start_with(
        "get-user",
        &format!("{}{options}", database.url_via(&proxy)),
        &[("OPENSSL_CONF", settings)],
    );
    get.wait_for_init();
    let to_connect = proxy.round_trips();
    assert_not_found(&get.invoke(Event::get("/api/users/1")));
    assert_eq!((proxy.connections(), proxy.round_trips()), (1, to_connect + 1));
    to_connect
}

#[test]
fn connecting_is_the_wish_for_tls_then_tls_once_then_scram() {
    assert_eq!(round_trips_to_connect(""), 5);
}

#[test]
fn direct_negotiation_saves_the_wish_for_tls_where_the_server_knows_it_and_is_503_elsewhere() {
    let database = Database::new();
    let version = database.client().query_one("SELECT current_setting('server_version_num')::int", &[]);
    if version.expect("the server's version").get::<_, i32>(0) >= 170_000 {
        assert_eq!(round_trips_to_connect("&sslnegotiation=direct"), 4);
    } else {
        let get = start_at("get-user", &format!("{}&sslnegotiation=direct", database.url()));
        assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    }
}
