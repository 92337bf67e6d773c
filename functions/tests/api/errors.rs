//! When something fails: what the client is told, and what is logged.

use serde_json::{Value, json};
use shared::roles::Access;
use testkit::{Database, Event, Failure};

use crate::support::{
    Endpoint, assert_failure, assert_success, endpoints, of_users, rows, start, start_at, start_with,
    start_with_database_down, tables, user, with_alice, with_id, writers,
};

#[test]
fn without_a_database_every_endpoint_is_503_and_tells_nothing_but_the_request_id() {
    for Endpoint { binary, event, .. } in endpoints() {
        let function = start_with_database_down(binary);
        for request_id in ["8476a536-e9f4-11e8-9739-2dfe598c3fcd", "6bc28136-xmpl-4365-b021-0ce6b2e64ab0"] {
            let answer = function.invoke_as(request_id, event.clone());
            assert_eq!(answer.request_id, request_id);
            let record = assert_failure(&answer, 503);
            assert_eq!(record["level"], "ERROR", "{record}");
            assert_eq!(record["fields"]["requestId"], request_id, "{record}");
        }
    }
}

#[test]
fn an_input_error_is_not_logged() {
    for (binary, event) in with_id("0") {
        let answer = start_with_database_down(binary).invoke(event);
        assert_eq!((answer.status, answer.log.len()), (404, 0), "{answer:?}");
    }
    for (binary, event) in writers() {
        let answer = start_with_database_down(binary).invoke(event.json(&user("", -1)));
        assert_eq!((answer.status, answer.log.len()), (400, 0), "{answer:?}");
    }
}

#[test]
fn a_broken_schema_is_500_and_logged_once_with_its_sqlstate() {
    let database = Database::new();
    database.execute(&format!("DROP TABLE {}", tables()));
    for Endpoint { binary, event, table, .. } in endpoints() {
        let answer = start(binary, &database).invoke(event);
        let record = assert_failure(&answer, 500);
        let (sqlstate, words) = ("42P01", format!("relation \"{table}\" does not exist"));
        assert_eq!(record["fields"]["sqlstate"], sqlstate, "{record}");
        // Whoever reads the log gets the server's own words, which name no values here.
        assert!(record["fields"]["message"].as_str().is_some_and(|it| it.contains(&words)), "{record}");
        assert_eq!(record["fields"]["function"], binary, "{record}");
        assert!(!answer.body.contains(sqlstate) && !answer.body.contains(binary), "{}", answer.body);
    }
}

#[test]
fn every_record_names_its_function_and_route() {
    for Endpoint { binary, event, .. } in endpoints() {
        for (function, status) in
            [(start_with_database_down(binary), 503), (start_at(binary, "nonsense"), 500)]
        {
            let record = assert_failure(&function.invoke(event.clone()), status);
            assert_eq!(record["fields"]["function"], binary, "{record}");
            assert_eq!(record["fields"]["route"], event.route(), "{record}");
        }
    }
}

#[test]
fn the_servers_words_are_left_out_where_they_may_hold_values() {
    // What a type or a constraint says (classes 22 and 23), and what a trigger may say as it likes.
    for sqlstate in ["22023", "22P02", "23502", "23514", "P0001"] {
        let database = with_alice();
        database.execute(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'not %', NEW.name USING ERRCODE = '{sqlstate}', DETAIL = NEW.name; END
             $$;
             CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()"
        ));
        for (binary, event) in writers() {
            let record =
                assert_failure(&start(binary, &database).invoke(event.json(&user("Zaphod", 30))), 500);
            assert_eq!(record["fields"]["sqlstate"], sqlstate, "{record}");
            assert!(!record.to_string().contains("Zaphod"), "{sqlstate}: {record}");
        }
    }
}

#[test]
fn a_repaired_schema_needs_no_restart() {
    let database = Database::new();
    let create = start("create-user", &database);
    let event = || Event::post("/api/users").json(&user("Alice", 30));
    database.execute("ALTER TABLE users RENAME COLUMN age TO years");
    assert_failure(&create.invoke(event()), 500);

    database.execute("ALTER TABLE users RENAME COLUMN years TO age");
    assert_success(&create.invoke(event()), 201, &json!({ "id": 1, "name": "Alice", "age": 30 }));
}

#[test]
fn a_column_of_another_type_is_500_not_a_dead_process() {
    let database = Database::new();
    database.execute(
        "INSERT INTO users (name, age) VALUES ('Alice', 30); ALTER TABLE users ALTER COLUMN age TYPE TEXT",
    );
    for Endpoint { binary, event, success, access, .. } in of_users() {
        let answer = start(binary, &database).invoke(event);
        match access {
            // These two read no age: what was stored is known, what is deleted does not matter.
            Access::Create | Access::Delete => assert_eq!(answer.status, success, "{answer:?}"),
            Access::Read | Access::Update => drop(assert_failure(&answer, 500)),
        }
    }
}

#[test]
fn an_insert_that_a_trigger_swallows_is_500_not_404() {
    let database = Database::new();
    database.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER swallow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION swallow()",
    );
    let answer = start("create-user", &database).invoke(Event::post("/api/users").json(&user("Alice", 30)));
    assert_failure(&answer, 500);
}

#[test]
fn a_missing_privilege_is_500() {
    let database = Database::new();
    let url = database.url_of_role("secret");
    database.execute(&format!("REVOKE ALL ON {} FROM {}", tables(), database.name()));
    for Endpoint { binary, event, .. } in endpoints() {
        let record = assert_failure(&start_at(binary, &url).invoke(event), 500);
        assert!(record.to_string().contains("42501"), "{record}");
    }
}

#[test]
fn what_a_client_sent_never_reaches_the_log() {
    let name = r#"Zaphod "level":"FATAL"} { Beeblebrox"#;
    let database = Database::new();
    // PostgreSQL quotes the whole row in the detail of this error.
    database.execute("INSERT INTO users (name, age) VALUES ('Bob', 41)");
    database.execute("ALTER TABLE users ADD CONSTRAINT sober CHECK (age < 100)");
    for (binary, event) in writers() {
        let write = start(binary, &database);
        let answer = write.invoke(event.clone().json(&user(name, 149)));
        let record = assert_failure(&answer, 500);
        assert!(record.to_string().contains("23514"), "{record}");
        for (expected, body) in [
            (400, json!({ "name": "Zaphod", "age": "Beeblebrox" })),
            (400, json!({ "name": "Zaphod\u{0}Beeblebrox", "age": 30 })),
            (400, json!("Zaphod Beeblebrox")),
        ] {
            let answer = write.invoke(event.clone().json(&body));
            assert_eq!(answer.status, expected);
            assert!(
                !answer.body.contains("Zaphod") && !answer.body.contains("Beeblebrox"),
                "{}",
                answer.body
            );
        }
        assert!(write.invoke(event.clone().json(&user("Zaphod Beeblebrox", 30))).status < 300);
        drop(
            write.invoke(
                event
                    .header("authorization", "Bearer Zaphod")
                    .header("content-type", "text/Zaphod")
                    .body("Zaphod"),
            ),
        );

        let log = write.log().join("\n");
        assert!(log.contains("23514"), "the log is not empty: {log}");
        assert!(!log.contains("Zaphod") && !log.contains("Beeblebrox"), "{log}");
    }
    let names: Vec<_> = rows(&database).into_iter().map(|row| row.1).collect();
    assert_eq!(names, [Some("Zaphod Beeblebrox".to_owned()), Some("Zaphod Beeblebrox".to_owned())]);
}

#[test]
fn what_a_client_sent_reaches_the_log_at_no_level() {
    let database = with_alice();
    for (binary, event) in writers() {
        let write = start_with(binary, &database.url(), &[("AWS_LAMBDA_LOG_LEVEL", "TRACE")]);
        assert!(write.invoke(event.json(&user("Zaphod", 30))).status < 300);
        let log = write.log().join("\n");
        assert!(log.contains("DEBUG"), "the log is not empty: {log}");
        assert!(!log.contains("Zaphod"), "{log}");
    }
}

#[test]
fn a_name_that_looks_like_a_log_record_makes_no_second_record() {
    for (binary, event) in writers() {
        let name = r#"{"level":"ERROR","message":"Zaphod"}"#;
        let answer = start_with_database_down(binary).invoke(event.json(&user(name, 30)));
        let record = assert_failure(&answer, 503);
        assert!(!record.to_string().contains("Zaphod"), "{record}");
    }
}

#[test]
fn what_is_no_event_of_an_http_api_ends_no_process() {
    let database = Database::new();
    for Endpoint { binary, event, .. } in endpoints() {
        let function = start(binary, &database);
        let damaged = |pointer: &str, value: Value| {
            let mut event = Value::from(event.clone());
            let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
            event.pointer_mut(parent).expect("a parent")[member] = value;
            event
        };
        for strange in [
            json!({}),
            json!(null),
            json!([]),
            json!("event"),
            json!({ "version": "1.0" }),
            damaged("/headers/x-strange", json!("Zoë\u{0}")),
            damaged("/headers", json!({ "content-type": "\u{7f}" })),
            damaged("/isBase64Encoded", json!(null)),
            damaged("/requestContext/http/method", json!("BREW")),
        ] {
            // API Gateway can't have sent it, so there need be no answer.
            match function.start_invoke(strange.clone()).try_wait() {
                Ok(answer) => assert!(answer.status < 500, "{binary} {strange}: {answer:?}"),
                Err(Failure::FunctionError(_)) => {}
                Err(failure) => panic!("{binary} {strange}: {failure}\n{}", function.log().join("\n")),
            }
        }
        let answer = function.invoke(event);
        assert!(answer.status < 500, "{binary}: {answer:?}");
        let log = function.log().join("\n");
        assert!(!log.to_lowercase().contains("panic"), "{binary}: {log}");
    }
}
