//! What became of a write: what an answer says of it holds, whatever has happened between us and the database.

use std::{
    thread,
    time::{Duration, Instant},
};

use testkit::{Database, ErrorResponse, Event, Fate, Function, Greeting, PgBouncer, Proxy, role};

use crate::support::{
    access_of, assert_failure, assert_unknown, count, endpoints, rows, start, start_at, user, with_alice,
};

/// In which time a caller is promised an answer, and what it is if the function has to start first.
const WARM: Duration = Duration::from_millis(8_500);
const COLD: Duration = Duration::from_millis(10_500);

fn post() -> Event {
    Event::post("/api/users").json(&user("Bob", 41))
}

fn put() -> Event {
    Event::put("/api/users/1").json(&user("Bob", 41))
}

fn delete() -> Event {
    Event::delete("/api/users/1")
}

/// The operations that change a user.
fn changes() -> [(&'static str, Event); 2] {
    [("update-user", put()), ("delete-user", delete())]
}

/// Alice, as only a test's own database has her.
fn tag_of_alice(database: &Database) -> String {
    let answer = start("get-user", database).invoke(Event::get("/api/users/1"));
    answer.header("etag").expect("an ETag").to_owned()
}

/// An endpoint, connected through a proxy that can tell statements.
fn start_via(binary: &str, database: &Database, proxy: &Proxy) -> Function {
    let function = start_at(binary, &database.plain_url_via(proxy));
    function.wait_for_init();
    function
}

fn bob() -> (Option<String>, Option<i32>) {
    (Some("Bob".to_owned()), Some(41))
}

/// How often Bob is there.
fn bobs(database: &Database) -> usize {
    rows(database).into_iter().filter(|(_, name, age)| (name.clone(), *age) == bob()).count()
}

/// After these a statement may have been applied, and the connection is of no use any more.
fn unknown() -> [(&'static str, ErrorResponse); 8] {
    [
        ("a failed fdatasync", ErrorResponse::panic("58030")),
        ("a panic without V", ErrorResponse::panic("XX000").without_v()),
        ("a panic that looks like a time limit", ErrorResponse::panic("57014")),
        ("statement completion unknown", ErrorResponse::error("40003")),
        ("an internal error", ErrorResponse::error("XX000")),
        ("a connection failure", ErrorResponse::fatal("08006")),
        ("a connection failure without FATAL", ErrorResponse::error("08006")),
        ("a pooler's", ErrorResponse::fatal("08P01").without_v()),
    ]
}

#[test]
fn after_an_error_that_leaves_the_outcome_open_a_write_is_done_once_on_a_fresh_connection() {
    for (what, error) in unknown() {
        for applied in [true, false] {
            let fate = |error| if applied { Fate::Replaced(error) } else { Fate::Refused(error) };
            for endpoint in endpoints() {
                let binary = endpoint.binary;
                let (database, proxy) = (with_alice(), Proxy::new());
                let function = start_via(binary, &database, &proxy);
                proxy.doom_next([fate(error.clone())]);
                let answer = function.invoke(endpoint.event.clone());
                assert_eq!(answer.status, endpoint.success, "{binary}, {what}: {answer:?}");
                assert_eq!(proxy.connections(), 2, "{binary}, {what}");
                assert_eq!(count(&database, endpoint.table), endpoint.rows_left(), "{binary}, {what}");
            }
        }
    }
}

#[test]
fn an_error_that_leaves_the_outcome_open_twice_is_503_never_500() {
    for (what, error) in unknown() {
        let (database, proxy) = (with_alice(), Proxy::new());
        proxy.doom(Fate::Refused(error));
        let record =
            assert_failure(&start_via("get-user", &database, &proxy).invoke(Event::get("/api/users/1")), 503);
        assert_eq!(record["fields"]["attempts"], 2, "{what}: {record}");
    }
}

#[test]
fn a_post_that_may_be_stored_and_can_not_be_asked_for_is_to_be_repeated_only_with_a_key() {
    let database = with_alice();
    let errors = unknown().map(|(what, error)| (what, Fate::Replaced(error)));
    for (what, fate) in errors.into_iter().chain([("an answer that is lost", Fate::AnswerLost)]) {
        let proxy = Proxy::new();
        let create = start_via("create-user", &database, &proxy);
        let before = bobs(&database);
        for (event, safe) in
            [(post(), false), (post().header("idempotency-key", &what.replace(' ', "-")), true)]
        {
            proxy.doom_next([fate.clone()]);
            proxy.greet(Greeting::Hangup);
            let answer = create.invoke(event.clone());
            proxy.greet(Greeting::Server);
            if safe {
                assert_failure(&answer, 503);
                assert_eq!(create.invoke(event).status, 201, "{what}");
            } else {
                assert_unknown(&answer);
                // The connection that the next round loses an answer on.
                create.invoke(Event::post("/api/users").json(&user("Carol", 1)));
            }
        }
        assert_eq!(bobs(&database), before + 2, "{what}: each was stored, once");
    }
}

#[test]
fn a_conditional_write_that_may_be_done_and_is_now_refused_does_not_ask_to_be_repeated() {
    let errors = unknown().map(|(what, error)| (what, Fate::Replaced(error)));
    for (what, fate) in errors.into_iter().chain([("an answer that is lost", Fate::AnswerLost)]) {
        for (binary, event) in changes() {
            for (header, value) in [("if-match", None), ("if-none-match", Some("\"x\""))] {
                let (database, proxy) = (with_alice(), Proxy::new());
                let tag = tag_of_alice(&database);
                let function = start_via(binary, &database, &proxy);
                proxy.doom_next([fate.clone()]);
                let answer = function.invoke(event.clone().header(header, value.unwrap_or(&tag)));
                match (binary, header) {
                    // Nothing speaks against doing this one again.
                    ("update-user", "if-none-match") => assert_eq!(answer.status, 200, "{what}: {answer:?}"),
                    _ => assert_eq!(assert_unknown(&answer)["fields"]["attempts"], 2, "{what}"),
                }
                let left: Vec<_> = rows(&database).into_iter().map(|(_, name, age)| (name, age)).collect();
                assert_eq!(left, if binary == "update-user" { vec![bob()] } else { vec![] }, "{what}");
            }
        }
    }
}

#[test]
fn a_conditional_write_that_may_be_done_and_can_not_be_tried_again_does_not_ask_to_be_repeated() {
    for (binary, event) in changes() {
        let (database, proxy) = (with_alice(), Proxy::new());
        let event = event.header("if-match", &tag_of_alice(&database));
        let function = start_via(binary, &database, &proxy);
        proxy.doom_next([Fate::AnswerLost]);
        proxy.greet(Greeting::Hangup);
        assert_unknown(&function.invoke(event.clone()));
        // What certainly was not applied may be repeated.
        let record = assert_failure(&function.invoke(event), 503);
        assert!(
            record["fields"]["message"].as_str().is_some_and(|it| it.starts_with("can't connect")),
            "{record}"
        );
    }
}

/// After these a statement was certainly not applied; the first five end the connection.
fn not_applied() -> [(&'static str, ErrorResponse); 10] {
    [
        ("an administrator", ErrorResponse::fatal("57P01")),
        ("an administrator, told by a pooler", ErrorResponse::fatal("57P01").without_v()),
        ("an idle session", ErrorResponse::fatal("57P05")),
        ("a failover", ErrorResponse::error("25006")),
        ("an expired credential", ErrorResponse::fatal("28P01")),
        ("a serialization failure", ErrorResponse::error("40001")),
        ("a deadlock", ErrorResponse::error("40P01")),
        ("Aurora DSQL's conflict over data", ErrorResponse::error("OC000")),
        ("Aurora DSQL's conflict over the schema", ErrorResponse::error("OC001")),
        (
            "such a conflict in the message only",
            ErrorResponse::error("XX000").message("change conflicts (OC001)"),
        ),
    ]
}

#[test]
fn after_an_error_that_means_not_applied_the_next_attempt_says_how_it_was() {
    for (number, (what, error)) in not_applied().into_iter().enumerate() {
        let connections = if number < 5 { 2 } else { 1 };
        for (binary, event) in changes() {
            let (database, proxy) = (Database::new(), Proxy::new());
            let function = start_via(binary, &database, &proxy);
            proxy.doom_next([Fate::Refused(error.clone())]);
            assert_eq!(function.invoke(event.clone()).status, 404, "{binary}, {what}: it was never there");
            assert_eq!(proxy.connections(), connections, "{binary}, {what}");

            database.execute("INSERT INTO users (id, name, age) VALUES (1, 'Alice', 30)");
            proxy.doom_next([Fate::Refused(error.clone())]);
            let answer = function.invoke(event.clone().header("if-match", "\"x\""));
            assert_eq!(answer.status, 412, "{binary}, {what}: {answer:?}");
            let tag = tag_of_alice(&database);
            proxy.doom_next([Fate::Refused(error.clone())]);
            assert_eq!(function.invoke(event.header("if-match", &tag)).status, 200, "{binary}, {what}");
        }
    }
}

#[test]
fn conflicts_are_tried_again_on_the_same_connection_until_they_end() {
    for (what, error) in not_applied().into_iter().skip(5) {
        for (binary, event) in [("create-user", post()), ("update-user", put()), ("delete-user", delete())] {
            let (database, proxy) = (with_alice(), Proxy::new());
            let function = start_via(binary, &database, &proxy);
            proxy.doom_next([(); 5].map(|()| Fate::Refused(error.clone())));
            let (round_trips, answer) = proxy.round_trips_of(|| function.invoke(event));
            assert!(answer.status < 300, "{binary}, {what}: {answer:?}");
            assert_eq!((round_trips, proxy.connections()), (6, 1), "{binary}, {what}");
        }
    }
}

#[test]
fn a_conflict_that_does_not_end_is_503_in_time_and_nothing_is_written() {
    let (database, proxy) = (with_alice(), Proxy::new());
    let create = start_via("create-user", &database, &proxy);
    proxy.doom(Fate::Refused(ErrorResponse::error("40001")));
    let start = Instant::now();
    let record = assert_failure(&create.invoke(post()), 503);
    assert!(start.elapsed() < WARM, "{:?}", start.elapsed());
    assert_eq!(record["fields"]["sqlstate"], "40001", "{record}");
    assert!(record["fields"]["attempts"].as_u64() > Some(5), "{record}");
    assert_eq!(rows(&database).len(), 1);
}

#[test]
fn writers_of_one_row_at_repeatable_read_all_succeed_as_they_would_on_aurora_dsql() {
    const WRITERS: i32 = 16;
    const ROUNDS: i32 = 60;
    let database = with_alice();
    let (role, name) = (role(access_of("update-user")), database.name());
    database.execute(&format!(
        "ALTER ROLE {role} IN DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    ));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let update = start("update-user", &database);
            update.wait_for_init();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let event = Event::put("/api/users/1").json(&user(&format!("{writer} {round}"), 41));
                    let answer = update.invoke(event);
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
    });
}

#[test]
fn a_server_without_room_is_not_asked_twice() {
    for sqlstate in ["53000", "53100", "53200", "53300", "53400"] {
        let (database, proxy) = (with_alice(), Proxy::new());
        let get = start_via("get-user", &database, &proxy);
        proxy.doom_next([Fate::Refused(ErrorResponse::error(sqlstate))]);
        let (round_trips, answer) = proxy.round_trips_of(|| get.invoke(Event::get("/api/users/1")));
        let record = assert_failure(&answer, 503);
        assert_eq!((round_trips, &record["fields"]["attempts"]), (1, &1.into()), "{sqlstate}: {record}");
        assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
        assert_eq!(proxy.connections(), 2, "{sqlstate}: whoever has no room gets one connection back");
    }
}

#[test]
fn a_twin_is_recognised_by_the_table_or_where_the_server_names_none() {
    for (error, status) in [
        (ErrorResponse::error("23505").about("idempotency_keys", "idempotency_keys_pkey"), 201),
        (ErrorResponse::error("23505"), 201),
        (ErrorResponse::error("23505").about("users", "users_name_key"), 500),
    ] {
        let (database, proxy) = (Database::new(), Proxy::new());
        let create = start_via("create-user", &database, &proxy);
        proxy.doom_next([Fate::Refused(error.clone())]);
        assert_eq!(create.invoke(post()).status, status, "{error:?}");
    }
}

#[test]
fn what_somebody_else_writes_between_two_attempts_of_a_put_is_overwritten() {
    let (database, proxy) = (with_alice(), Proxy::new());
    let update = start_via("update-user", &database, &proxy);
    let hold = proxy.hold_next_answer();
    let pending = update.start_invoke(put());
    hold.wait_for_answer();
    // Somebody else reads what we have written, and writes with If-Match.
    let tag =
        start("get-user", &database).invoke(Event::get("/api/users/1")).header("etag").map(str::to_owned);
    let theirs =
        Event::put("/api/users/1").json(&user("Carol", 52)).header("if-match", &tag.expect("an ETag"));
    assert_eq!(start("update-user", &database).invoke(theirs).status, 200);
    hold.end(Fate::AnswerLost);
    assert_eq!(pending.wait().status, 200);
    assert_eq!(bobs(&database), 1, "the last write wins, and ours came last");
}

#[test]
fn what_somebody_else_writes_between_two_attempts_of_a_conditional_put_stays() {
    let (database, proxy) = (with_alice(), Proxy::new());
    let tag = tag_of_alice(&database);
    let update = start_via("update-user", &database, &proxy);
    let hold = proxy.hold_next_answer();
    let pending = update.start_invoke(put().header("if-match", &tag));
    hold.wait_for_answer();
    database.execute("UPDATE users SET name = 'Carol', age = 52");
    hold.end(Fate::AnswerLost);
    assert_unknown(&pending.wait());
    assert_eq!(rows(&database), [(1, Some("Carol".to_owned()), Some(52))]);
}

#[test]
fn a_caller_gets_an_answer_in_the_promised_time_also_of_a_function_that_has_to_start() {
    let (database, proxy) = (with_alice(), Proxy::new());
    // A connect takes nearly all of its time, and then nothing is heard any more.
    proxy.delay(Duration::from_millis(180));
    proxy.doom(Fate::Swallowed);
    let start = Instant::now();
    let get = start_at("get-user", &database.plain_url_via(&proxy));
    assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    assert!(start.elapsed() < COLD, "cold: {:?}", start.elapsed());
    let start = Instant::now();
    assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    assert!(start.elapsed() < WARM, "warm: {:?}", start.elapsed());
}

/// The endpoints that write, each with an event that changes nothing of what counts, and what is left of Alice and Bob.
fn writers() -> [(&'static str, Event, Event, usize); 3] {
    let other = "/api/users/9";
    [
        ("create-user", Event::post("/api/users").json(&user("Carol", 52)), post(), 2),
        ("update-user", Event::put(other).json(&user("Carol", 52)), put(), 1),
        ("delete-user", Event::delete(other), delete(), 0),
    ]
}

/// How many users there are but Carol.
fn left(database: &Database) -> usize {
    rows(database).iter().filter(|(_, name, _)| name.as_deref() != Some("Carol")).count()
}

#[test]
fn a_pooler_whose_server_is_lost_in_the_middle_of_a_statement_costs_no_write_and_doubles_none() {
    for (binary, before, event, expected) in writers() {
        for lose in [Proxy::lose_next_request, Proxy::lose_next_answer] {
            let (database, proxy) = (with_alice(), Proxy::new());
            let bouncer = PgBouncer::via(&proxy);
            let function = start_at(binary, &database.plain_url_at(bouncer.port()));
            // The pooler connects to its server for the first statement.
            function.invoke(before.clone());
            lose(&proxy);
            let answer = function.invoke(event.clone());
            assert!(answer.status < 300, "{binary}: {answer:?}");
            assert_eq!(left(&database), expected, "{binary}");
        }
    }
}

#[test]
fn a_pooler_that_is_killed_in_the_middle_of_a_statement_costs_no_write_and_doubles_none() {
    for (binary, before, event, expected) in writers() {
        let database = with_alice();
        let mut bouncer = PgBouncer::new();
        let function = start_at(binary, &database.plain_url_at(bouncer.port()));
        function.invoke(before);
        let mut client = database.client();
        let mut locked = client.transaction().expect("a transaction");
        locked.batch_execute("LOCK TABLE users IN SHARE MODE").expect("a lock");
        let pending = function.start_invoke(event);
        database.wait_for_locks(1);
        bouncer.kill();
        bouncer.restart();
        locked.rollback().expect("no lock");
        let answer = pending.wait();
        assert!(answer.status < 300, "{binary}: {answer:?}");
        assert_eq!(left(&database), expected, "{binary}");
    }
}
