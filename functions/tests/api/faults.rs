//! What the network and the server can do to a request, and what becomes of it: nothing is lost, nothing is doubled.

use std::{sync::mpsc, thread};

use serde_json::Value;
use shared::roles::Access;
use testkit::{Database, Event, FullPort, Function, Greeting, Network, PgBouncer, Proxy, as_role};

use crate::support::{Endpoint, assert_failure, count, endpoints, reset, rows, start_at, user, with_alice};

fn post_bob() -> Event {
    Event::post("/api/users").json(&user("Bob", 41))
}

/// A binary on a database, connected.
fn started(binary: &str, database: &Database) -> Function {
    let function = start_at(binary, &database.url());
    function.wait_for_init();
    function
}

/// Ends all connections to a database from the server's side, and waits until they are gone.
pub(crate) fn terminate_backends(database: &Database) -> i64 {
    let others = "SELECT count(*) FROM (SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()) AS ended";
    database.client().query_one(others, &[]).expect("ending connections").get(0)
}

#[test]
fn a_backend_terminated_while_the_process_is_frozen_costs_no_request_and_no_statement() {
    let database = with_alice();
    for Endpoint { binary, event, success, .. } in endpoints() {
        let proxy = Proxy::new();
        let function = start_at(binary, &database.url_via(&proxy));
        function.wait_for_init();
        let (to_connect, _) = (proxy.round_trips(), function.freeze());
        assert_eq!(terminate_backends(&database), 1);

        let answer = function.start_invoke(event);
        function.thaw();
        assert_eq!(answer.wait().status, success, "{binary}");
        assert_eq!(proxy.connections(), 2);
        assert_eq!(
            proxy.round_trips(),
            2 * to_connect + 1,
            "{binary} sends nothing on the closed connection"
        );
    }
    assert_eq!(rows(&database).len(), 1, "one created, one deleted");
}

#[test]
fn a_connection_that_is_reset_while_the_process_is_frozen_costs_no_request() {
    let database = with_alice();
    for Endpoint { binary, event, success, .. } in endpoints() {
        let proxy = Proxy::new();
        let function = start_at(binary, &database.url_via(&proxy));
        function.wait_for_init();
        function.freeze();
        proxy.reset();
        let answer = function.start_invoke(event);
        function.thaw();
        assert_eq!(answer.wait().status, success, "{binary}");
    }
    assert_eq!(rows(&database).len(), 1);
}

#[test]
fn a_socket_black_holed_while_frozen_costs_one_attempt_and_no_request() {
    thread::scope(|scope| {
        for endpoint in endpoints() {
            // One after the other would take 3 seconds each.
            let database = with_alice();
            scope.spawn(move || {
                let binary = endpoint.binary;
                let proxy = Proxy::new();
                let function = start_at(binary, &database.url_via(&proxy));
                function.wait_for_init();
                function.freeze();
                proxy.silence();
                let answer = function.start_invoke(endpoint.event.clone());
                function.thaw();
                assert_eq!(answer.wait().status, endpoint.success, "{binary}");
                assert_eq!(proxy.connections(), 2);
                assert_eq!(count(&database, endpoint.table), endpoint.rows_left(), "{binary}");
            });
        }
    });
}

#[test]
fn an_insert_whose_answer_is_lost_after_the_commit_is_201_and_one_row() {
    let database = Database::new();
    let proxy = Proxy::new();
    let create = start_at("create-user", &database.url_via(&proxy));
    create.wait_for_init();
    proxy.lose_next_answer();
    let answer = create.invoke(post_bob());
    assert_eq!(answer.status, 201);
    assert_eq!(proxy.connections(), 2);
    let [(id, name, age)] = &rows(&database)[..] else { panic!("{:?}", rows(&database)) };
    assert_eq!((name.as_deref(), *age), (Some("Bob"), Some(41)));
    assert_eq!(answer.json()["id"], *id);
}

#[test]
fn an_insert_whose_connection_is_closed_before_it_is_forwarded_is_201_and_one_row() {
    let database = Database::new();
    let proxy = Proxy::new();
    let create = start_at("create-user", &database.url_via(&proxy));
    create.wait_for_init();
    proxy.lose_next_request();
    assert_eq!(create.invoke(post_bob()).status, 201);
    assert_eq!(rows(&database).len(), 1);
}

#[test]
fn a_delete_whose_answer_is_lost_is_200_although_the_repetition_finds_no_row() {
    let database = with_alice();
    let proxy = Proxy::new();
    let delete = start_at("delete-user", &database.url_via(&proxy));
    delete.wait_for_init();
    proxy.lose_next_answer();
    assert_eq!(delete.invoke(Event::delete("/api/users/1")).status, 200);
    assert_eq!(delete.invoke(Event::delete("/api/users/1")).status, 404);
}

#[test]
fn a_delete_that_was_never_forwarded_and_finds_no_row_on_a_fresh_connection_is_200_as_well() {
    // Nobody can tell whether it was this delete or another one; the user is gone, as was asked for.
    let database = Database::new();
    let proxy = Proxy::new();
    let delete = start_at("delete-user", &database.url_via(&proxy));
    delete.wait_for_init();
    proxy.lose_next_request();
    assert_eq!(delete.invoke(Event::delete("/api/users/1")).status, 200);
}

#[test]
fn a_put_whose_answer_is_lost_is_200_and_applied() {
    let database = with_alice();
    let proxy = Proxy::new();
    let update = start_at("update-user", &database.url_via(&proxy));
    update.wait_for_init();
    proxy.lose_next_answer();
    assert_eq!(update.invoke(Event::put("/api/users/1").json(&user("Bob", 41))).status, 200);
    assert_eq!(rows(&database), [(1, Some("Bob".to_owned()), Some(41))]);
}

#[test]
fn a_conditional_put_that_was_never_forwarded_is_repeated() {
    let database = with_alice();
    let proxy = Proxy::new();
    let tag = start_at("get-user", &database.url()).invoke(Event::get("/api/users/1"));
    let tag = tag.header("etag").expect("an ETag");
    let update = start_at("update-user", &database.url_via(&proxy));
    update.wait_for_init();
    proxy.lose_next_request();
    let event = Event::put("/api/users/1").json(&user("Bob", 41)).header("if-match", tag);
    assert_eq!(update.invoke(event).status, 200);
}

#[test]
fn a_server_that_accepts_and_stays_silent_is_503_after_one_connect_also_during_init() {
    let database = with_alice();
    let proxy = Proxy::new();
    proxy.greet(Greeting::Silence);
    let get = start_at("get-user", &database.url_via(&proxy));
    get.wait_for_init();
    assert_eq!(proxy.connections(), 1);
    let record = assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    assert_eq!(proxy.connections(), 2);
    assert_eq!(record["fields"]["attempts"], 1, "{record}");

    proxy.greet(Greeting::Server);
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
}

#[test]
fn a_server_that_is_down_at_cold_start_is_503_until_it_comes_up() {
    let database = with_alice();
    let proxy = Proxy::new();
    let (url, port) = (database.url_via(&proxy), proxy.port());
    drop(proxy);
    let get = start_at("get-user", &url);
    get.wait_for_init();
    let record = assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    assert_eq!(record["fields"]["attempts"], 3, "{record}");

    let _proxy = Proxy::at(port);
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
}

#[test]
fn a_statement_without_an_answer_is_503_and_the_next_request_does_not_wait_behind_it() {
    let database = with_alice();
    let proxy = Proxy::new();
    // A role without time limits: its statements end with ours.
    let update = start_at("update-user", &database.role_url_via(&proxy));
    let mut client = database.client();
    let mut locked = client.transaction().expect("a transaction");
    locked.execute("SELECT FROM users WHERE id = 1 FOR UPDATE", &[]).expect("a lock");
    let record = assert_failure(&update.invoke(Event::put("/api/users/1").json(&user("Bob", 41))), 503);
    assert_eq!(record["fields"]["attempts"], 2, "{record}");
    // Each attempt has waited for 3 seconds.
    assert!(record["fields"]["elapsed_ms"].as_u64() >= Some(6_000), "{record}");
    // Another row is not locked, and what still waits for the lock is on connections that were given up.
    assert_eq!(update.invoke(Event::put("/api/users/2").json(&user("Bob", 41))).status, 404);
    assert_eq!(proxy.connections(), 3);
}

#[test]
fn a_server_that_has_become_read_only_is_left_for_the_one_that_the_name_leads_to_now() {
    let database = with_alice();
    for Endpoint { binary, event, success, .. } in endpoints().into_iter().filter(Endpoint::writes) {
        let read_only = |on| {
            database.execute(&format!(
                "ALTER DATABASE {} SET default_transaction_read_only = {on}",
                database.name()
            ))
        };
        let proxy = Proxy::new();
        read_only("on");
        let function = start_at(binary, &database.url_via(&proxy));
        function.wait_for_init();
        let mut client = database.client();
        client.batch_execute("SET default_transaction_read_only = off").expect("writing again");
        client
            .batch_execute(&format!("ALTER DATABASE {} RESET default_transaction_read_only", database.name()))
            .expect("writing again");
        assert_eq!(function.invoke(event).status, success, "{binary}");
        assert_eq!(proxy.connections(), 2);
    }
}

#[test]
fn a_server_that_stays_read_only_is_503() {
    let database = with_alice();
    database.execute(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name()));
    let record = assert_failure(&start_at("create-user", &database.url()).invoke(post_bob()), 503);
    assert_eq!(record["fields"]["sqlstate"], "25006", "{record}");
    assert_eq!(record["fields"]["attempts"], 2, "{record}");
}

#[test]
fn of_several_hosts_the_one_that_answers_is_taken() {
    let database = with_alice();
    let gone = Proxy::new();
    let proxy = Proxy::new();
    let url =
        database.url_via(&proxy).replace("@localhost:", &format!("@localhost:{},localhost:", gone.port()));
    let get = start_at("get-user", &url);
    get.wait_for_init();
    assert_eq!(proxy.connections(), 0);
    drop(gone);
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn of_several_hosts_one_that_does_not_answer_leaves_time_for_the_next() {
    let database = with_alice();
    let full = FullPort::new();
    let hosts = format!("@localhost:{},localhost:", full.port());
    let get = start_at("get-user", &database.url().replace("@localhost:", &hosts));
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
}

#[test]
fn too_many_connections_are_503_and_tried_three_times() {
    let database = with_alice();
    let url = database.url_of_role("hunter2");
    database.execute(&format!("ALTER ROLE {} CONNECTION LIMIT 0", database.name()));
    let get = start_at("get-user", &url);
    let record = assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    assert_eq!(record["fields"]["sqlstate"], "53300", "{record}");
    assert_eq!(record["fields"]["attempts"], 3, "{record}");
    database.execute(&format!("ALTER ROLE {} CONNECTION LIMIT -1", database.name()));
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
}

#[test]
fn a_server_that_is_starting_is_503_until_it_has_started() {
    let database = with_alice();
    let proxy = Proxy::new();
    proxy.greet(Greeting::Fatal("57P03"));
    let get = start_at("get-user", &database.plain_url_via(&proxy));
    let record = assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
    assert_eq!(record["fields"]["sqlstate"], "57P03", "{record}");
    // Two that are refused, and the third try of one request gets through.
    proxy.greet_next([Greeting::Fatal("57P03"), Greeting::Fatal("57P03")]);
    proxy.greet(Greeting::Server);
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
}

#[test]
fn a_refused_credential_is_made_anew_once() {
    let database = with_alice();
    let proxy = Proxy::new();
    let get = start_at("get-user", &database.plain_url_via(&proxy));
    get.wait_for_init();
    for sqlstate in ["28P01", "28000"] {
        proxy.close();
        proxy.greet_next([Greeting::Fatal(sqlstate)]);
        assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
        proxy.close();
        proxy.greet_next([Greeting::Fatal(sqlstate), Greeting::Fatal(sqlstate)]);
        let record = assert_failure(&get.invoke(Event::get("/api/users/1")), 503);
        assert_eq!(record["fields"]["sqlstate"], sqlstate, "{record}");
    }
}

#[test]
fn an_idle_session_that_the_server_has_ended_costs_no_request() {
    let database = with_alice();
    let proxy = Proxy::new();
    let url = database.role_url_via(&proxy);
    database.execute(&format!("ALTER ROLE {} SET idle_session_timeout = '50ms'", database.name()));
    let get = start_at("get-user", &url);
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
    let closed = proxy.connections();
    proxy.wait_until_closed_by_server(closed);
    assert_eq!(get.invoke(Event::get("/api/users/1")).status, 200);
    assert_eq!(proxy.connections(), closed + 1);
}

#[test]
fn the_servers_own_time_limits_are_503_and_keep_the_connection() {
    for (limit, sqlstate) in [("lock_timeout", "55P03"), ("statement_timeout", "57014")] {
        let database = with_alice();
        let proxy = Proxy::new();
        let url = database.role_url_via(&proxy);
        database.execute(&format!("ALTER ROLE {} SET {limit} = '100ms'", database.name()));
        let update = start_at("update-user", &url);
        let event = Event::put("/api/users/1").json(&user("Bob", 41));
        let mut client = database.client();
        let mut locked = client.transaction().expect("a transaction");
        locked.execute("SELECT FROM users WHERE id = 1 FOR UPDATE", &[]).expect("a lock");
        let record = assert_failure(&update.invoke(event.clone()), 503);
        assert_eq!(record["fields"]["sqlstate"], sqlstate, "{record}");
        assert_eq!(record["fields"]["attempts"], 1, "{record}");
        locked.rollback().expect("no lock");
        assert_eq!(update.invoke(event).status, 200);
        assert_eq!(proxy.connections(), 1);
    }
}

/// A constraint that raises 40001 when the first `times` transactions on a table commit.
fn conflicts_at_commit(database: &Database, table: &str, times: i32) {
    database.execute(&format!(
        "CREATE SEQUENCE commits;
         CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
             IF nextval('commits') <= {times} THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END IF;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER conflict AFTER INSERT OR UPDATE OR DELETE ON {table}
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION conflict()"
    ));
}

#[test]
fn a_conflict_at_commit_is_repeated_twice_on_the_same_connection() {
    for endpoint in endpoints().into_iter().filter(Endpoint::writes) {
        let (binary, table) = (endpoint.binary, endpoint.table);
        let database = with_alice();
        conflicts_at_commit(&database, table, 2);
        let proxy = Proxy::new();
        let function = start_at(binary, &database.url_via(&proxy));
        function.wait_for_init();
        let (round_trips, answer) = proxy.round_trips_of(|| function.invoke(endpoint.event.clone()));
        assert_eq!(answer.status, endpoint.success, "{binary}");
        assert_eq!((round_trips, proxy.connections()), (3, 1));
        assert_eq!(count(&database, table), endpoint.rows_left(), "{binary}");
    }
}

#[test]
fn a_statement_that_was_given_up_is_not_delivered_when_the_network_heals() {
    let Some(network) = Network::new() else { return };
    let database = with_alice();
    let proxy = Proxy::listen(network.listen());
    let url = format!("{}&hostaddr={}", database.url_via(&proxy), network.address());
    let update = start_at("update-user", &url);
    let put = |name| Event::put("/api/users/1").json(&user(name, 41));
    assert_eq!(update.invoke(put("Before")).status, 200);

    network.cut();
    assert_failure(&update.invoke(put("Given up")), 503);
    // With data for a socket that was closed, the kernel would go on trying, and a write that was answered as failed
    // would arrive after later ones.
    let left = network.sockets_to(proxy.port());
    network.mend();
    assert_eq!(left, 0, "nothing may be left that could be delivered");
    // The cable takes a moment to be ready.
    let healed = (0..5).any(|_| update.invoke(put("After")).status == 200);
    assert!(healed, "the next requests succeed");
    assert_eq!(rows(&database), [(1, Some("After".to_owned()), Some(41))]);
}

#[test]
fn all_endpoints_work_through_pgbouncer_in_transaction_mode() {
    let database = with_alice();
    let bouncer = PgBouncer::new();
    let url = database.plain_url_at(bouncer.port());
    // More environments than the pooler has connections to the server, each with several requests.
    let functions: Vec<_> = endpoints().iter().map(|it| start_at(it.binary, &url)).collect();
    for _ in 0..3 {
        reset(&database);
        for (function, Endpoint { binary, event, success, .. }) in functions.iter().zip(endpoints()) {
            assert_eq!(function.invoke(event).status, success, "{binary}");
        }
    }
}

/// A binary over the same start-up code whose handler panics when it is asked to.
pub(crate) fn start_panicking(database: &Database, env: &[(&str, &str)]) -> Function {
    let binary =
        std::path::Path::new(env!("CARGO_BIN_EXE_get-user")).with_file_name("examples").join("panic");
    let url = as_role(Access::Read, &database.url());
    Function::start(binary, &[&[("DATABASE_URL", url.as_str())], env].concat())
}

#[test]
fn a_panic_of_a_handler_is_500_with_our_body_and_the_next_request_works() {
    let database = with_alice();
    let function = start_panicking(&database, &[]);
    for _ in 0..2 {
        let answer = function.invoke(Event::get("/").query("panic"));
        let record = assert_failure(&answer, 500);
        let message = record["fields"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("examples/panic.rs"), "{record}");
        assert!(!record.to_string().contains("a user's secret"), "{record}");
        assert_eq!(function.invoke(Event::get("/")).status, 200);
    }
}

#[test]
fn the_message_of_a_panic_is_told_where_neither_lambda_nor_a_release_is() {
    let database = with_alice();
    let function = start_panicking(&database, &[("AWS_LAMBDA_LOG_FORMAT", "")]);
    assert_eq!(function.invoke(Event::get("/").query("panic")).status, 500);
    let log = function.log().join("\n");
    assert_eq!(log.contains("a user's secret"), cfg!(debug_assertions), "{log}");
}

#[test]
fn parallel_puts_and_deletes_of_one_user_agree_with_what_is_left() {
    let database = with_alice();
    let put = Event::put("/api/users/1").json(&user("Bob", 41));
    // One after the other: fifty processes that connect at once would be a test of this machine.
    let functions: Vec<_> =
        (0..50).map(|n| started(if n % 2 == 0 { "update-user" } else { "delete-user" }, &database)).collect();
    let pending: Vec<_> = functions
        .iter()
        .enumerate()
        .map(|(n, function)| {
            function.start_invoke(if n % 2 == 0 { put.clone() } else { Event::delete("/api/users/1") })
        })
        .collect();
    let statuses: Vec<_> = pending.into_iter().map(|pending| pending.wait().status).collect();
    assert!(statuses.iter().all(|status| [200, 404].contains(status)), "{statuses:?}");
    let deleted = statuses.iter().skip(1).step_by(2).filter(|status| **status == 200).count();
    assert_eq!(deleted, 1, "{statuses:?}");
    assert_eq!(start_at("get-user", &database.url()).invoke(Event::get("/api/users/1")).status, 404);
}

#[test]
fn racing_incrementers_with_if_match_win_exactly_as_often_as_the_age_grows() {
    const RACERS: usize = 4;
    const ROUNDS: usize = 10;
    let database = Database::new();
    database.execute("INSERT INTO users (name, age) VALUES ('Counter', 0)");
    let (sender, statuses) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..RACERS {
            let (get, update) = (started("get-user", &database), started("update-user", &database));
            let sender = sender.clone();
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    sender.send(increment(&get, &update)).expect("counting");
                }
            });
        }
    });
    drop(sender);
    let statuses: Vec<_> = statuses.iter().collect();
    assert!(statuses.iter().all(|status| [200, 412].contains(status)), "{statuses:?}");
    let wins = statuses.iter().filter(|status| **status == 200).count();
    let age = rows(&database)[0].2.expect("an age");
    assert_eq!(usize::try_from(age), Ok(wins));
    assert!(wins >= ROUNDS, "in each round somebody wins");
}

fn increment(get: &Function, update: &Function) -> u16 {
    let before = get.invoke(Event::get("/api/users/1"));
    let age = before.json()["age"].as_i64().and_then(|age| i32::try_from(age).ok()).expect("an age");
    let event = Event::put("/api/users/1").json(&user("Counter", age + 1));
    update.invoke(event.header("if-match", before.header("etag").expect("an ETag"))).status
}

#[test]
fn two_posts_with_one_key_at_the_same_time_are_one_row_and_both_get_it() {
    let database = Database::new();
    let functions = ["create-user", "create-user"].map(|binary| started(binary, &database));
    // Neither sees the other's key: both wait with their INSERT.
    let mut client = database.client();
    let mut locked = client.transaction().expect("a transaction");
    locked.batch_execute("LOCK TABLE idempotency_keys IN EXCLUSIVE MODE").expect("a lock");
    let pending =
        functions.each_ref().map(|function| function.start_invoke(post_bob().header("idempotency-key", "k")));
    database.wait_for_locks(2);
    locked.rollback().expect("no lock");
    let answers: [Value; 2] = pending.map(|pending| {
        let answer = pending.wait();
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(rows(&database).len(), 1);
}
