//! Exactly-once POST by `Idempotency-Key`, and conditional requests by `ETag`.

use serde_json::{Value, json};
use testkit::{Answer, Database, Event};

use crate::support::{assert_problem, assert_success, rows, start, user, with_alice};

fn post(name: &str, key: &str) -> Event {
    Event::post("/api/users").json(&user(name, 30)).header("idempotency-key", key)
}

fn tag(answer: &Answer) -> String {
    answer.header("etag").unwrap_or_else(|| panic!("no ETag in {answer:?}")).to_owned()
}

/// An event with what API Gateway's authorizer found out about the caller.
fn by(event: Event, authorizer: Value) -> Value {
    let mut event = Value::from(event);
    event["requestContext"]["authorizer"] = authorizer;
    event
}

fn by_role(event: Event, name: &str) -> Value {
    let arn = format!("arn:aws:iam::123456789012:user/{name}");
    by(
        event,
        json!({ "iam": { "accessKey": "AKIA", "accountId": "123456789012", "callerId": "A", "userArn": arn, "userId": "A" } }),
    )
}

fn by_subject(event: Event, subject: &str) -> Value {
    by(
        event,
        json!({ "jwt": { "claims": { "iss": "https://issuer.example", "sub": subject }, "scopes": null } }),
    )
}

#[test]
fn a_repeated_key_gets_the_same_answer_and_inserts_nothing() {
    let database = Database::new();
    let first = start("create-user", &database).invoke(post("Alice", "k-1"));
    // Another environment, as after a crash of the first.
    let second = start("create-user", &database).invoke(post("Alice", "k-1"));
    for answer in [&first, &second] {
        assert_success(answer, 201, &json!({ "id": 1, "name": "Alice", "age": 30 }));
        assert_eq!(answer.header("location"), Some("/api/users/1"));
    }
    assert_eq!(tag(&first), tag(&second));
    assert_eq!(rows(&database).len(), 1);
}

#[test]
fn a_repeated_key_gets_the_same_answer_after_the_user_was_changed_or_deleted() {
    let database = Database::new();
    let create = start("create-user", &database);
    let first = create.invoke(post("Alice", "k"));
    for change in ["UPDATE users SET name = 'Bob'", "DELETE FROM users"] {
        database.execute(change);
        let again = create.invoke(post("Alice", "k"));
        assert_success(&again, 201, &first.json());
        assert_eq!(tag(&again), tag(&first));
    }
    assert_eq!(rows(&database), []);
}

#[test]
fn another_key_or_none_is_another_user() {
    let database = Database::new();
    let create = start("create-user", &database);
    let without = Event::post("/api/users").json(&user("Alice", 30));
    let events = [post("Alice", "a"), post("Alice", "b"), without.clone(), without];
    let ids: Vec<_> = events.into_iter().map(|event| create.invoke(event).json()["id"].clone()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
}

#[test]
fn a_key_of_a_client_is_never_taken_for_the_id_of_an_invocation() {
    let database = Database::new();
    let create = start("create-user", &database);
    create.invoke_as("the-same", Event::post("/api/users").json(&user("Alice", 30)));
    assert_eq!(create.invoke(post("Alice", "the-same")).status, 201);
    for key in ["invocation the-same", "invocation%20the-same"] {
        // A space is not visible, so the stored form can't even be said.
        let answer = create.invoke(post("Alice", key));
        assert_eq!(answer.status, if key.contains(' ') { 400 } else { 201 });
    }
    assert_eq!(rows(&database).len(), 3);
}

#[test]
fn the_same_key_with_another_body_is_422_and_writes_nothing() {
    let database = Database::new();
    let create = start("create-user", &database);
    create.invoke(post("Alice", "k"));
    for body in [user("Bob", 30), user("Alice", 31), user("Alice ", 30)] {
        let answer = create.invoke(Event::post("/api/users").json(&body).header("idempotency-key", "k"));
        assert_problem(&answer, 422, "Unprocessable Entity", "Idempotency-Key was used for another request");
    }
    // What is ignored doesn't count, nor does the order.
    let same =
        Event::post("/api/users").body(r#"{"age":30,"x":1,"name":"Alice"}"#).header("idempotency-key", "k");
    assert_eq!(create.invoke(same).status, 201);
    assert_eq!(rows(&database).len(), 1);
}

#[test]
fn the_same_key_from_another_caller_is_422_and_writes_nothing() {
    let database = Database::new();
    let create = start("create-user", &database);
    for (key, by) in [("iam", by_role as fn(Event, &str) -> Value), ("jwt", by_subject)] {
        assert_eq!(create.invoke(by(post("Alice", key), "one")).status, 201);
        assert_eq!(create.invoke(by(post("Alice", key), "other")).status, 422);
        assert_eq!(create.invoke(post("Alice", key)).status, 422);
        assert_eq!(create.invoke(by(post("Alice", key), "one")).status, 201);
    }
    assert_eq!(rows(&database).len(), 2);
}

#[test]
fn a_key_is_1_to_255_visible_ascii_characters() {
    let database = Database::new();
    let create = start("create-user", &database);
    for key in ["", "a b", "ä", "a\tb", &"k".repeat(256)] {
        let answer = create.invoke(post("Alice", key));
        assert_problem(&answer, 400, "Bad Request", "Invalid input");
        assert_eq!(answer.json()["errors"][0]["header"], "Idempotency-Key");
    }
    for key in ["!", "~", &"k".repeat(255)] {
        assert_eq!(create.invoke(post("Alice", key)).status, 201);
    }
}

#[test]
fn keys_older_than_24_hours_are_deleted_and_no_others() {
    let database = Database::new();
    database.execute(
        "INSERT INTO idempotency_keys (key, fingerprint, user_id, created_at)
         SELECT 'client ' || n, '', n, now() - interval '23 hours 59 minutes' - (n % 2) * interval '2 minutes'
         FROM generate_series(1, 5001) AS n",
    );
    assert_eq!(database.delete_old_keys(), 2501);
    let left = "SELECT count(*), bool_and(user_id % 2 = 0) FROM idempotency_keys";
    let left = database.client().query_one(left, &[]).expect("counting");
    assert_eq!((left.get::<_, i64>(0), left.get::<_, bool>(1)), (2500, true));
    assert_eq!(database.delete_old_keys(), 0);
}

#[test]
fn reads_and_writes_of_one_content_have_one_strong_entity_tag_and_lists_none() {
    let database = Database::new();
    let created = start("create-user", &database).invoke(Event::post("/api/users").json(&user("Alice", 30)));
    let got = start("get-user", &database).invoke(Event::get("/api/users/1"));
    let put = start("update-user", &database).invoke(Event::put("/api/users/1").json(&user("Alice", 30)));
    let tags = [tag(&created), tag(&got), tag(&put)];
    assert!(tags[0].starts_with('"') && tags[0].ends_with('"') && tags[0].len() > 2, "{tags:?}");
    assert!(tags.iter().all(|tag| *tag == tags[0]), "{tags:?}");
    assert_eq!(start("list-users", &database).invoke(Event::get("/api/users")).header("etag"), None);
}

#[test]
fn the_entity_tag_changes_with_the_content_whoever_changes_it() {
    let database = with_alice();
    let get = start("get-user", &database);
    let mut tags = vec![tag(&get.invoke(Event::get("/api/users/1")))];
    for change in
        ["name = 'Bob'", "age = 31", "age = NULL", "name = NULL", "name = ''", "name = '', age = 30"]
    {
        database.execute(&format!("UPDATE users SET {change}"));
        let tag = tag(&get.invoke(Event::get("/api/users/1")));
        assert!(!tags.contains(&tag), "{change}");
        tags.push(tag);
    }
}

#[test]
fn get_is_304_without_a_body_when_the_client_has_the_content() {
    let database = with_alice();
    let get = start("get-user", &database);
    let etag = tag(&get.invoke(Event::get("/api/users/1")));
    for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
        let answer = get.invoke(Event::get("/api/users/1").header("if-none-match", &known));
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{known}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
        assert_eq!(answer.header("content-type"), None);
    }
    let other = get.invoke(Event::get("/api/users/1").header("if-none-match", "\"x\""));
    assert_success(&other, 200, &json!({ "id": 1, "name": "Alice", "age": 30 }));
    assert_eq!(get.invoke(Event::get("/api/users/2").header("if-none-match", "*")).status, 404);
}

#[test]
fn reads_may_be_kept_but_not_used_without_asking() {
    let database = with_alice();
    for (binary, path) in [("get-user", "/api/users/1"), ("list-users", "/api/users")] {
        let answer = start(binary, &database).invoke(Event::get(path));
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"), "{binary}");
    }
}

/// The two operations that take `If-Match`.
fn conditional() -> [(&'static str, Event); 2] {
    [
        ("update-user", Event::put("/api/users/1").json(&user("Bob", 41))),
        ("delete-user", Event::delete("/api/users/1")),
    ]
}

#[test]
fn a_write_with_a_matching_if_match_is_done() {
    for (binary, event) in conditional() {
        let database = Database::new();
        let (get, function) = (start("get-user", &database), start(binary, &database));
        for list in
            [|tag: &str| tag.to_owned(), |tag: &str| format!("W/\"x\" ,{tag},"), |_: &str| "*".to_owned()]
        {
            database
                .execute("DELETE FROM users; INSERT INTO users (id, name, age) VALUES (1, 'Alice', NULL)");
            let tag = tag(&get.invoke(Event::get("/api/users/1")));
            let answer = function.invoke(event.clone().header("if-match", &list(&tag)));
            assert_eq!(answer.status, 200, "{binary} {}", list(&tag));
        }
    }
}

#[test]
fn what_is_read_is_what_a_write_expects_whatever_and_however_it_is_stored() {
    for database in [Database::new(), Database::in_encoding("LATIN1")] {
        let (get, update) = (start("get-user", &database), start("update-user", &database));
        for name in [
            "NULL",
            "''",
            "' '",
            "'30 é'",
            r#"'"a\b", (c)'"#,
            r"E'\n\u0001\u00ff'",
            "repeat('é', 100)",
            "'{30}'",
        ] {
            for age in ["NULL", "0", "-5", "2147483647"] {
                database.execute(&format!(
                    "DELETE FROM users; INSERT INTO users (id, name, age) VALUES (1, {name}, {age})"
                ));
                let tag = tag(&get.invoke(Event::get("/api/users/1")));
                let put = Event::put("/api/users/1").json(&user("Zoë", 41)).header("if-match", &tag);
                let answer = update.invoke(put);
                assert_success(&answer, 200, &json!({ "id": 1, "name": "Zoë", "age": 41 }));
            }
        }
    }
}

#[test]
fn a_write_with_another_if_match_is_412_and_changes_nothing() {
    let database = with_alice();
    let etag = tag(&start("get-user", &database).invoke(Event::get("/api/users/1")));
    for (binary, event) in conditional() {
        let function = start(binary, &database);
        for tags in ["\"x\"", "\"x\", \"y\"", &format!("W/{etag}"), &etag.to_uppercase()] {
            let answer = function.invoke(event.clone().header("if-match", tags));
            assert_problem(
                &answer,
                412,
                "Precondition Failed",
                "The user has changed: If-Match does not match",
            );
        }
    }
    assert_eq!(rows(&database), [(1, Some("Alice".to_owned()), Some(30))]);
}

#[test]
fn a_conditional_write_of_no_user_is_404() {
    let database = Database::new();
    for (binary, event) in conditional() {
        for tags in ["*", "\"x\""] {
            assert_eq!(start(binary, &database).invoke(event.clone().header("if-match", tags)).status, 404);
        }
    }
}

#[test]
fn malformed_conditions_are_400_and_name_the_header() {
    let database = Database::new();
    let [put, delete] = conditional().map(|(binary, event)| (binary, event, "If-Match"));
    for (binary, event, header) in [put, delete, ("get-user", Event::get("/api/users/1"), "If-None-Match")] {
        let function = start(binary, &database);
        for value in ["", "x", "\"x", "\"x\" \"y\"", "*, \"x\"", "w/\"x\""] {
            let answer = function.invoke(event.clone().header(&header.to_lowercase(), value));
            assert_problem(&answer, 400, "Bad Request", "Invalid input");
            assert_eq!(answer.json()["errors"][0]["header"], header, "{answer:?}");
        }
    }
}

#[test]
fn of_two_clients_that_read_the_same_only_one_writes() {
    let database = with_alice();
    let etag = tag(&start("get-user", &database).invoke(Event::get("/api/users/1")));
    let update = start("update-user", &database);
    let put = |name| Event::put("/api/users/1").json(&user(name, 31)).header("if-match", &etag);
    let first = update.invoke(put("First"));
    assert_eq!(first.status, 200);
    assert_ne!(tag(&first), etag);
    assert_eq!(update.invoke(put("Second")).status, 412);
    assert_eq!(rows(&database), [(1, Some("First".to_owned()), Some(31))]);
}
