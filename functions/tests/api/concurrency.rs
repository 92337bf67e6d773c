//! Several requests at once in one environment, as on Lambda Managed Instances.

use std::fs;

use serde_json::Value;
use shared::roles::Access;
use testkit::{Answer, Database, Event, Function, Proxy, role};

use crate::{
    faults::{start_panicking, terminate_backends},
    support::{Endpoint, endpoints, reset, rows, start_with, tables, user, with_alice},
};

/// How many requests an environment serves at once.
const CONCURRENCY: usize = 8;

const SEVERAL: (&str, &str) = ("AWS_LAMBDA_MAX_CONCURRENCY", "8");

/// An endpoint that serves several requests at once, and connects in one of two ways.
fn start_via(binary: &str, database: &Database, proxy: &Proxy, pooler: &str) -> Function {
    let env = [SEVERAL, ("DATABASE_POOLER", pooler)];
    let function = start_with(binary, &database.plain_url_via(proxy), &env);
    function.wait_for_init();
    function
}

/// All answers to as many requests at once as an environment serves, of which each is in the middle of its statement
/// when `meanwhile` happens.
fn at_once(
    function: &Function,
    database: &Database,
    event: impl Fn(usize) -> Event,
    meanwhile: impl FnOnce(),
) -> Vec<Answer> {
    // Connecting eight times takes a program that was built for tests a second.
    for access in Access::ALL {
        for limit in ["lock_timeout", "statement_timeout"] {
            database.execute(&format!(
                "ALTER ROLE {} IN DATABASE {} SET {limit} = 0",
                role(access),
                database.name()
            ));
        }
    }
    let mut client = database.client();
    let mut locked = client.transaction().expect("a transaction");
    locked.batch_execute(&format!("LOCK TABLE {}", tables())).expect("a lock");
    let pending: Vec<_> = (0..CONCURRENCY).map(|n| function.start_invoke(event(n))).collect();
    database.wait_for_locks(i64::try_from(CONCURRENCY).expect("a number"));
    meanwhile();
    locked.rollback().expect("no lock");
    pending.into_iter().map(|pending| pending.wait()).collect()
}

fn post(n: usize) -> Event {
    Event::post("/api/users").json(&user(&format!("User {n}"), 30))
}

fn get(_: usize) -> Event {
    Event::get("/api/users/1")
}

#[test]
fn a_request_does_not_wait_for_the_statement_of_another() {
    for pooler in ["transaction", "none"] {
        for Endpoint { binary, event, success, access, .. } in endpoints() {
            let (database, proxy) = (with_alice(), Proxy::new());
            let function = start_via(binary, &database, &proxy, pooler);
            // Twice: the second time on sessions that are there.
            for _ in 0..2 {
                // The lock ends only when all of them wait for it.
                let answers = at_once(&function, &database, |_| event.clone(), || ());
                let successes = answers.iter().filter(|answer| answer.status == success).count();
                assert!(access == Access::Delete || successes == CONCURRENCY, "{binary}: {answers:?}");
                assert_eq!(proxy.connections(), CONCURRENCY, "{binary}");
            }
        }
    }
}

#[test]
fn there_are_never_more_connections_than_requests_at_once() {
    let (database, proxy) = (with_alice(), Proxy::new());
    let function = start_via("get-user", &database, &proxy, "none");
    for _ in 0..3 {
        assert_eq!(function.invoke(get(0)).status, 200);
    }
    assert_eq!(proxy.connections(), 1, "one at a time takes one");
    let pending: Vec<_> = (0..300).map(|n| function.start_invoke(get(n))).collect();
    for pending in pending {
        assert_eq!(pending.wait().status, 200);
    }
    assert!(proxy.connections() <= CONCURRENCY, "{}", proxy.connections());
}

#[test]
fn what_breaks_one_connection_repeats_one_request() {
    let (database, proxy) = (Database::new(), Proxy::new());
    let create = start_via("create-user", &database, &proxy, "transaction");
    let (round_trips, answers) =
        proxy.round_trips_of(|| at_once(&create, &database, post, || proxy.lose_next_answer()));
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert_eq!(proxy.connections(), CONCURRENCY + 1);
    assert_eq!(rows(&database).len(), CONCURRENCY);
    // Those who connected took as many each: a round trip more is a statement.
    let (again, _) = proxy.round_trips_of(|| at_once(&create, &database, post, || ()));
    assert!(round_trips > again, "{round_trips}, and {again} where nothing breaks");
}

#[test]
fn sessions_that_were_ended_in_a_freeze_cost_no_request() {
    for Endpoint { binary, event, success, access, .. } in endpoints() {
        let (database, proxy) = (with_alice(), Proxy::new());
        let function = start_via(binary, &database, &proxy, "none");
        at_once(&function, &database, |_| event.clone(), || ());
        reset(&database);
        function.freeze();
        terminate_backends(&database);
        let pending: Vec<_> = (0..CONCURRENCY).map(|_| function.start_invoke(event.clone())).collect();
        function.thaw();
        let answers: Vec<_> = pending.into_iter().map(|pending| pending.wait()).collect();
        let deleted = |answer: &Answer| access == Access::Delete && answer.status == 404;
        let good = |answer: &&Answer| answer.status == success || deleted(answer);
        assert_eq!(answers.iter().filter(good).count(), CONCURRENCY, "{binary}: {answers:?}");
    }
}

#[test]
fn sessions_that_fell_silent_in_a_freeze_cost_one_attempt_in_all() {
    let (database, proxy) = (with_alice(), Proxy::new());
    let function = start_via("get-user", &database, &proxy, "transaction");
    at_once(&function, &database, get, || ());
    function.freeze();
    proxy.silence();
    let pending = function.start_invoke(get(0));
    function.thaw();
    assert_eq!(pending.wait().status, 200, "the second attempt takes none of the seven others");
    assert_eq!(proxy.connections(), CONCURRENCY + 1);
    assert_eq!(function.invoke(get(0)).status, 200);
    assert_eq!(proxy.connections(), CONCURRENCY + 1, "nor does any request after it");
}

#[test]
fn a_panic_beside_others_is_500_and_they_are_answered() {
    let database = with_alice();
    let function = start_panicking(&database, &[SEVERAL]);
    function.wait_for_init();
    let event = |n| if n == 3 { Event::get("/").query("panic") } else { Event::get("/") };
    let pending: Vec<_> = (0..CONCURRENCY).map(|n| function.start_invoke(event(n))).collect();
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().status, if n == 3 { 500 } else { 200 });
    }
    let places = function.log().iter().filter(|line| line.contains("examples/panic.rs")).count();
    assert_eq!(places, 1, "{:#?}", function.log());
}

#[test]
fn failures_beside_each_other_are_logged_once_each_with_their_own_ids() {
    let (database, proxy) = (with_alice(), Proxy::new());
    let function = start_via("get-user", &database, &proxy, "transaction");
    database.execute("ALTER TABLE users RENAME TO people");
    let pending: Vec<_> = (0..CONCURRENCY).map(|n| function.start_invoke(get(n))).collect();
    let mut ids: Vec<_> = pending
        .into_iter()
        .map(|pending| {
            let answer = pending.wait();
            assert_eq!(answer.status, 500, "{answer:?}");
            answer.request_id
        })
        .collect();
    let log = function.log();
    let records = log.iter().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
    let mut logged: Vec<_> =
        records.map(|record| record["fields"]["requestId"].as_str().unwrap_or_default().to_owned()).collect();
    ids.sort();
    logged.sort();
    assert_eq!(logged, ids, "{log:#?}");
}

#[test]
fn memory_does_not_grow_with_the_number_of_requests() {
    let database = with_alice();
    let env = [SEVERAL, ("DATABASE_POOLER", "none")];
    let function = start_with("get-user", &database.url(), &env);
    let serve = |requests| {
        let pending: Vec<_> = (0..requests).map(|n| function.start_invoke(get(n))).collect();
        for pending in pending {
            assert_eq!(pending.wait().status, 200);
        }
        let status = fs::read_to_string(format!("/proc/{}/status", function.pid())).expect("its memory");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("kB")
    };
    let before = serve(100);
    let after = serve(10_000);
    assert!(after <= before + 2 * 1024, "{before} kB after 100 requests, {after} kB after 10,000 more");
}
