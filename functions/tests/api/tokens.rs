//! IAM tokens in place of passwords, as Aurora DSQL and RDS demand them. What is right about a token is checked by
//! [`IamGate`].

use std::{
    thread,
    time::{Duration, SystemTime},
};

use testkit::{Answer, Database, Event, Function, IamGate, Service, role};

use crate::{
    configuration::OTHER_CA,
    support::{Endpoint, access_of, assert_failure, endpoints, path_of, with_alice},
};

const SERVICES: [Service; 2] = [Service::Dsql, Service::Rds];

/// A binary behind the gate, with the role with its access and with changes to its environment.
fn start(binary: &str, gate: &IamGate, database: &Database, changes: &[(&'static str, &str)]) -> Function {
    let env = gate.env(database, &role(access_of(binary)));
    let env = env.iter().map(|(name, value)| (*name, value.as_str())).chain(changes.iter().copied());
    let function = Function::start(path_of(binary), &env.collect::<Vec<_>>());
    function.wait_for_init();
    function
}

fn get(function: &Function) -> Answer {
    function.invoke(Event::get("/api/users/1"))
}

/// Neither the log nor an answer holds what a token is made of.
fn assert_nothing_told(function: &Function, gate: &IamGate, answer: &Answer) {
    let log = function.log().join("\n");
    for secret in gate.secrets() {
        assert!(!log.contains(&secret) && !answer.body.contains(&secret), "{secret} in {log}\n{answer:?}");
    }
}

/// Sleeps until a token would have another date than one that was made before: a date has seconds.
fn wait_for_another_date() {
    let seconds = || SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs();
    let now = seconds();
    while seconds() == now {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn all_endpoints_connect_with_a_token_and_a_warm_request_is_one_round_trip() {
    for service in SERVICES {
        let database = with_alice();
        for Endpoint { binary, event, .. } in endpoints() {
            let gate = IamGate::new(service);
            let function = start(binary, &gate, &database, &[]);
            assert_eq!(gate.proxy().connections(), 1, "{binary} connects while it starts");
            let (round_trips, answer) = gate.proxy().round_trips_of(|| function.invoke(event));
            assert!(answer.status < 300, "{service:?} {binary}: {answer:?}");
            assert_eq!((round_trips, gate.tokens().len()), (1, 1), "{service:?} {binary}");
            assert_nothing_told(&function, &gate, &answer);
        }
    }
}

#[test]
fn every_connect_carries_a_token_made_for_it() {
    for service in SERVICES {
        let (database, gate) = (with_alice(), IamGate::new(service));
        let function = start("get-user", &gate, &database, &[]);
        for connects in 2..4 {
            function.freeze();
            gate.proxy().close();
            wait_for_another_date();
            let answer = function.start_invoke(Event::get("/api/users/1"));
            function.thaw();
            assert_eq!(answer.wait().status, 200);
            let tokens = gate.tokens();
            assert_eq!(tokens.len(), connects);
            assert_ne!(tokens[connects - 1], tokens[connects - 2]);
        }
    }
}

#[test]
fn an_expired_token_is_replaced_once() {
    for (service, sqlstate) in [(Service::Dsql, "28P01"), (Service::Rds, "28000")] {
        let (database, gate) = (with_alice(), IamGate::new(service));
        for (expired, status) in [(1, 200), (2, 503)] {
            // One more, for the init phase: the request has to connect.
            gate.expire_next(1);
            let function = start("get-user", &gate, &database, &[]);
            gate.expire_next(expired);
            let before = gate.tokens().len();
            let answer = get(&function);
            assert_eq!((answer.status, gate.tokens().len() - before), (status, 2), "{answer:?}");
            assert_nothing_told(&function, &gate, &answer);
            if status == 503 {
                let record = assert_failure(&answer, status);
                assert_eq!(record["fields"]["sqlstate"], sqlstate, "{record}");
                assert_eq!(get(&function).status, 200);
            }
        }
    }
}

#[test]
fn a_token_that_stays_wrong_is_503() {
    for service in SERVICES {
        let (database, gate) = (Database::new(), IamGate::new(service));
        for change in [
            ("AWS_ACCESS_KEY_ID", "AKIDHUNTER2"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_SESSION_TOKEN", "hunter2"),
            ("AWS_REGION", "eu-central-2"),
            ("DATABASE_AUTH", if service == Service::Dsql { "rds" } else { "dsql" }),
        ] {
            let function = start("get-user", &gate, &database, &[change]);
            let answer = get(&function);
            assert_failure(&answer, 503);
            assert_nothing_told(&function, &gate, &answer);
            assert!(!function.log().join("\n").contains("hunter2"));
        }
        assert_eq!(gate.proxy().connections(), 0);
    }
}

#[test]
fn what_a_token_cannot_be_made_without_is_500_and_one_clear_sentence() {
    let (database, gate) = (Database::new(), IamGate::new(Service::Rds));
    for (change, sentence) in [
        (("AWS_ACCESS_KEY_ID", ""), "AWS_ACCESS_KEY_ID"),
        (("AWS_SECRET_ACCESS_KEY", ""), "AWS_SECRET_ACCESS_KEY"),
        (("AWS_REGION", ""), "AWS_REGION"),
        (("DATABASE_AUTH", "iam"), "DATABASE_AUTH"),
        (("PGUSER", ""), "PGUSER"),
        (
            ("DATABASE_URL", "postgres://one.example.com,two.example.com/db"),
            "DATABASE_URL must name exactly one host",
        ),
        (("DATABASE_URL", "postgres:///db?hostaddr=127.0.0.1"), "DATABASE_URL must name exactly one host"),
    ] {
        let function = start("get-user", &gate, &database, &[change]);
        let answer = get(&function);
        let record = assert_failure(&answer, 500);
        assert!(record.to_string().contains(sentence), "{change:?}: {record}");
        assert_nothing_told(&function, &gate, &answer);
    }
    assert_eq!(gate.tokens(), [""; 0]);
}

#[test]
fn a_token_goes_to_nobody_but_the_host_that_it_is_made_for() {
    for service in SERVICES {
        let (database, gate) = (Database::new(), IamGate::new(service));
        let function = start("get-user", &gate, &database, &[("PGSSLROOTCERT", OTHER_CA)]);
        assert_failure(&get(&function), 503);
        assert_eq!(gate.tokens(), [""; 0]);
    }
}

#[test]
fn the_url_is_stronger_than_pguser_and_a_token_than_a_password() {
    let (database, gate) = (with_alice(), IamGate::new(Service::Rds));
    let env = gate.env(&database, "");
    let (_, url) = env.iter().find(|(name, _)| *name == "DATABASE_URL").expect("a URL");
    let url = url.replace("://", &format!("://{}:hunter2@", role(access_of("get-user"))));
    let changes = [("DATABASE_URL", url.as_str()), ("PGUSER", "nobody"), ("PGPASSWORD", "hunter2")];
    assert_eq!(get(&start("get-user", &gate, &database, &changes)).status, 200);
}
