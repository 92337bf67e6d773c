//! `DATABASE_POOLER=none`: each connection prepares its function's statements once.

use shared::roles::Access;
use testkit::{Database, ErrorResponse, Event, Fate, Function, PgBouncer, Proxy};

use crate::{
    faults::terminate_backends,
    support::{Endpoint, assert_failure, endpoints, start_with, user, with_alice},
};

/// An endpoint that prepares, connected through a proxy that can tell statements.
fn start_via(binary: &str, database: &Database, proxy: &Proxy) -> Function {
    start_at(binary, &database.plain_url_via(proxy))
}

fn start_at(binary: &str, url: &str) -> Function {
    let function = start_with(binary, url, &[("DATABASE_POOLER", "none")]);
    function.wait_for_init();
    function
}

fn get() -> Event {
    Event::get("/api/users/1")
}

/// How often a text is in what a client has sent.
fn times(sent: &[u8], text: &str) -> usize {
    sent.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

#[test]
fn a_statement_is_sent_with_its_first_request_and_its_preparation_and_not_again() {
    for (pooler, expected) in [("none", 2), ("transaction", 5), ("", 5)] {
        for Endpoint { binary, event, access, table, .. } in endpoints() {
            let (database, proxy) = (with_alice(), Proxy::new());
            let url = database.plain_url_via(&proxy);
            let function = start_with(binary, &url, &[("DATABASE_POOLER", pooler)]);
            function.wait_for_init();
            for _ in 0..5 {
                let (round_trips, answer) = proxy.round_trips_of(|| function.invoke(event.clone()));
                assert!(answer.status < 300 || access == Access::Delete, "{binary}: {answer:?}");
                assert_eq!(round_trips, 1, "{binary} with {pooler:?}");
            }
            drop(function);
            let verb = match access {
                Access::Read => "FROM",
                Access::Create => "INSERT INTO",
                Access::Update => "UPDATE",
                Access::Delete => "DELETE FROM",
            };
            let text = format!("{verb} {table} ");
            assert_eq!(times(&proxy.into_sent(), &text), expected, "{binary} with {pooler:?}");
        }
    }
}

#[test]
fn both_statements_of_a_write_are_prepared_at_their_first_use() {
    let (database, proxy) = (with_alice(), Proxy::new());
    let update = start_via("update-user", &database, &proxy);
    for _ in 0..3 {
        let plain = Event::put("/api/users/1").json(&user("Bob", 41));
        for event in [plain.clone(), plain.header("if-match", "*")] {
            let (round_trips, answer) = proxy.round_trips_of(|| update.invoke(event));
            assert_eq!((round_trips, answer.status), (1, 200), "{answer:?}");
        }
    }
    drop(update);
    assert_eq!(times(&proxy.into_sent(), "UPDATE users SET"), 4);
}

#[test]
fn a_table_that_changes_under_a_running_function_costs_one_repetition_at_most() {
    for (change, round_trips) in [
        ("ALTER TABLE users ADD COLUMN email TEXT", 1),
        ("ALTER TABLE users ALTER COLUMN name TYPE TEXT", 2),
        ("ANALYZE users", 1),
    ] {
        let (database, proxy) = (with_alice(), Proxy::new());
        let function = start_via("get-user", &database, &proxy);
        for _ in 0..2 {
            assert_eq!(function.invoke(get()).status, 200);
        }
        database.execute(change);
        for expected in [round_trips, 1] {
            let (needed, answer) = proxy.round_trips_of(|| function.invoke(get()));
            assert_eq!((needed, answer.status), (expected, 200), "{change}: {answer:?}");
        }
        assert_eq!(proxy.connections(), 1, "{change}");
    }
}

#[test]
fn a_prepared_statement_that_the_server_does_not_take_is_not_applied_and_sent_once_more_unprepared() {
    for sqlstate in ["26000", "0A000"] {
        for endpoint in endpoints() {
            let (binary, event) = (endpoint.binary, &endpoint.event);
            let (database, proxy) = (with_alice(), Proxy::new());
            let function = start_via(binary, &database, &proxy);
            function.invoke(event.clone());
            database.execute(&format!("DELETE FROM {}", endpoint.table));
            let refused = || Fate::Refused(ErrorResponse::error(sqlstate));
            proxy.doom_next([refused()]);
            let answer = function.invoke(event.clone());
            match endpoint.access {
                // Nothing may have been applied before, so a DELETE that finds no row has not deleted it.
                _ if endpoint.has_id() => assert_eq!(answer.status, 404, "{binary}: {answer:?}"),
                Access::Read => assert_eq!(answer.body, "[]", "{binary}"),
                _ => assert_eq!(answer.status, endpoint.success, "{binary}: {answer:?}"),
            }
            // Unprepared, it is a defect of the program.
            proxy.doom_next([refused(), refused()]);
            let record = assert_failure(&function.invoke(event.clone()), 500);
            assert_eq!(record["fields"]["attempts"], 2, "{record}");
            assert_eq!(proxy.connections(), 1, "{binary}");
        }
    }
}

#[test]
fn a_session_that_is_reset_after_each_transaction_costs_no_request() {
    let database = with_alice();
    let bouncer = PgBouncer::resetting();
    for Endpoint { binary, event, access, .. } in endpoints() {
        let function = start_at(binary, &database.plain_url_at(bouncer.port()));
        for n in 0..3 {
            let answer = function.invoke(event.clone());
            assert!(answer.status < 300 || access == Access::Delete && n > 0, "{binary}: {answer:?}");
        }
    }
}

#[test]
fn a_preparation_that_fails_is_no_failure_of_the_request() {
    for fate in [Fate::RestLost, Fate::RestSwallowed] {
        let (database, proxy) = (with_alice(), Proxy::new());
        let update = start_via("update-user", &database, &proxy);
        let put = |name| Event::put("/api/users/1").json(&user(name, 41));
        proxy.doom_next([fate.clone()]);
        assert_eq!(update.invoke(put("Bob")).status, 200, "{fate:?}");
        let (round_trips, answer) = proxy.round_trips_of(|| update.invoke(put("Carol")));
        assert_eq!((answer.status, proxy.connections()), (200, 2), "{fate:?}");
        assert!(round_trips > 1, "it connects anew");
    }
}

#[test]
fn a_plan_that_was_made_for_a_small_table_does_not_read_all_of_a_large_one() {
    let database = Database::new();
    database.execute(
        "ALTER TABLE users SET (autovacuum_enabled = off);
         INSERT INTO users (name, age) SELECT 'Alice', 30 FROM generate_series(1, 5);
         ANALYZE users",
    );
    let functions = [("get-user", get()), ("list-users", Event::get("/api/users").query("limit=3"))];
    let functions = functions.map(|(binary, event)| (start_at(binary, &database.url()), event));
    for (function, event) in &functions {
        for _ in 0..10 {
            assert_eq!(function.invoke(event.clone()).status, 200);
        }
    }
    database.execute("INSERT INTO users (name, age) SELECT 'Bob', 41 FROM generate_series(1, 300000)");
    let rows_read = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'users'";
    let rows_read = || database.client().query_one(rows_read, &[]).expect("counting").get::<_, i64>(0);
    let before = rows_read();
    for (function, event) in &functions {
        assert_eq!(function.invoke(event.clone()).status, 200);
    }
    // A session tells its counts when it ends.
    terminate_backends(&database);
    assert!(rows_read() - before < 1000, "{} rows were read in the order of the table", rows_read() - before);
}
