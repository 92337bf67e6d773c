//! Exactly-once POST by `Idempotency-Key`, and conditional requests by `ETag` (RFC 9110).

use serde_json::json;
use testkit::{Answer, Database, Event};

use crate::support::{
    Endpoint, assert_problem, assert_success, endpoints, rows, start, start_with_database_down, user,
    with_alice, with_id, writers,
};

fn post(name: &str, key: &str) -> Event {
    Event::post("/api/users").json(&user(name, 30)).header("idempotency-key", key)
}

fn tag(answer: &Answer) -> String {
    answer.header("etag").unwrap_or_else(|| panic!("no ETag in {answer:?}")).to_owned()
}

#[test]
fn a_repeated_key_gets_the_same_answer_and_inserts_nothing() {
    let database = Database::new();
    let first = start("create-user", &database).invoke(post("Alice", "k-1"));
    // Another environment, as after a crash of the first.
    let second = start("create-user", &database).invoke(post("Alice", "k-1"));
    for answer in [&first, &second] {
        assert_success(answer, 201, &json!({ "id": 1, "name": "Alice", "age": 30 }));
        assert_eq!(answer.header("location"), Some("users/1"));
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

fn assert_precondition_failed(answer: &Answer) {
    assert_eq!(answer.status, 412, "{answer:?}");
    let error = "A precondition does not hold: see If-Match and If-None-Match";
    assert_problem(answer, 412, "Precondition Failed", error);
}

/// The two operations that change a user.
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
            assert_precondition_failed(&answer);
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
    let database = with_alice();
    for Endpoint { binary, event, .. } in endpoints() {
        let function = start(binary, &database);
        for header in ["If-Match", "If-None-Match"] {
            for value in ["", "x", "\"x", "\"x\" \"y\"", "*, \"x\"", "w/\"x\""] {
                let answer = function.invoke(event.clone().header(header, value));
                assert_eq!(answer.status, 400, "{binary} {header}: {value}: {answer:?}");
                assert_problem(&answer, 400, "Bad Request", "Invalid input");
                assert_eq!(answer.json()["errors"][0]["header"], header, "{answer:?}");
            }
        }
    }
    assert_eq!(rows(&database), [(1, Some("Alice".to_owned()), Some(30))]);
}

#[test]
fn get_is_412_when_the_user_is_not_what_the_client_expects() {
    let database = with_alice();
    let get = start("get-user", &database);
    let etag = tag(&get.invoke(Event::get("/api/users/1")));
    let user = json!({ "id": 1, "name": "Alice", "age": 30 });
    for expected in [etag.clone(), format!("\"x\", {etag}"), "*".to_owned()] {
        let answer = get.invoke(Event::get("/api/users/1").header("if-match", &expected));
        assert_success(&answer, 200, &user);
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        // `If-Match` is asked first, and what it says does not end the matter.
        let both = Event::get("/api/users/1").header("if-match", &expected).header("if-none-match", &etag);
        assert_eq!(get.invoke(both).status, 304, "{expected}");
    }
    for other in ["\"x\"", &format!("W/{etag}")] {
        let event = Event::get("/api/users/1").header("if-match", other);
        assert_precondition_failed(&get.invoke(event.clone()));
        assert_precondition_failed(&get.invoke(event.header("if-none-match", &etag)));
    }
    for tags in ["*", "\"x\"", &etag] {
        assert_eq!(get.invoke(Event::get("/api/users/2").header("if-match", tags)).status, 404, "{tags}");
    }
}

#[test]
fn a_write_is_412_and_changes_nothing_when_the_user_is_what_the_client_excludes() {
    let database = with_alice();
    let etag = tag(&start("get-user", &database).invoke(Event::get("/api/users/1")));
    for (binary, event) in conditional() {
        let function = start(binary, &database);
        // Compared weakly.
        for known in ["*", &etag, &format!("W/{etag}"), &format!("\"x\", {etag}")] {
            let excluding = event.clone().header("if-none-match", known);
            assert_precondition_failed(&function.invoke(excluding.clone()));
            for matching in ["*", &etag] {
                let answer = function.invoke(excluding.clone().header("if-match", matching));
                assert_precondition_failed(&answer);
            }
            // `If-Match` is asked first.
            assert_precondition_failed(&function.invoke(excluding.header("if-match", "\"x\"")));
        }
    }
    assert_eq!(rows(&database), [(1, Some("Alice".to_owned()), Some(30))]);
}

#[test]
fn a_write_is_done_when_the_user_is_not_what_the_client_excludes() {
    for (binary, event) in conditional() {
        let database = with_alice();
        let etag = tag(&start("get-user", &database).invoke(Event::get("/api/users/1")));
        let function = start(binary, &database);
        for excluding in [
            event.clone().header("if-none-match", "\"x\""),
            event.clone().header("if-none-match", "W/\"x\", \"y\"").header("if-match", &etag),
            event.clone().header("if-none-match", "\"x\"").header("if-match", "*"),
        ] {
            let start = "TRUNCATE users RESTART IDENTITY; INSERT INTO users (name, age) VALUES ('Alice', 30)";
            database.execute(start);
            let answer = function.invoke(excluding);
            assert_eq!(answer.status, 200, "{binary}: {answer:?}");
            let bob = (binary == "update-user").then(|| (1, Some("Bob".to_owned()), Some(41)));
            assert_eq!(rows(&database), bob.into_iter().collect::<Vec<_>>(), "{binary}");
        }
    }
}

#[test]
fn what_is_an_error_without_a_precondition_is_that_error_with_one() {
    let down = [("if-match", "\"x\""), ("if-none-match", "*")];
    for (header, value) in down {
        for (binary, event) in with_id("0") {
            let answer = start_with_database_down(binary).invoke(event.header(header, value));
            assert_eq!(answer.status, 404, "{binary}: {answer:?}");
        }
        for (binary, event) in writers() {
            let write = start_with_database_down(binary);
            let event = event.header(header, value);
            assert_eq!(write.invoke(event.clone().json(&user("", 30))).status, 400, "{binary}");
            assert_eq!(write.invoke(event.clone().body(&" ".repeat(16_385))).status, 413, "{binary}");
            assert_eq!(write.invoke(event.header("content-type", "text/plain")).status, 415, "{binary}");
        }
        let list = Event::get("/api/users").query("limit=0").header(header, value);
        assert_eq!(start_with_database_down("list-users").invoke(list).status, 400);
        let key = Event::post("/api/users").json(&user("Alice", 30)).header("idempotency-key", "two words");
        assert_eq!(start_with_database_down("create-user").invoke(key.header(header, value)).status, 400);

        let database = Database::new();
        for (binary, event) in with_id("1") {
            let answer = start(binary, &database).invoke(event.header(header, value));
            assert_eq!(answer.status, 404, "{binary}: {answer:?}");
        }
    }
}

#[test]
fn the_list_has_no_entity_tag_so_none_matches_it_and_any_does() {
    let database = with_alice();
    let (list, create) = (start("list-users", &database), start("create-user", &database));
    let get = || Event::get("/api/users");
    let post = || Event::post("/api/users").json(&user("Bob", 41)).header("idempotency-key", "k");
    let etag = tag(&start("get-user", &database).invoke(Event::get("/api/users/1")));

    for tags in ["\"x\"", "W/\"x\"", &etag] {
        for answer in
            [list.invoke(get().header("if-match", tags)), create.invoke(post().header("if-match", tags))]
        {
            assert_eq!((answer.status, &answer.json()["title"]), (412, &json!("Precondition Failed")));
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        }
    }
    let answer = create.invoke(post().header("if-none-match", "*"));
    assert_eq!((answer.status, &answer.json()["title"]), (412, &json!("Precondition Failed")));
    let answer = list.invoke(get().header("if-none-match", "*"));
    assert_eq!((answer.status, answer.body.as_str(), answer.header("content-type")), (304, "", None));
    assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
    assert_eq!(rows(&database).len(), 1);

    for (header, value) in [("if-match", "*"), ("if-none-match", "\"x\""), ("if-none-match", etag.as_str())] {
        assert_eq!(list.invoke(get().header(header, value)).status, 200, "{header}: {value}");
        assert_eq!(create.invoke(post().header(header, value)).status, 201, "{header}: {value}");
    }
    assert_eq!(rows(&database).len(), 2);
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
