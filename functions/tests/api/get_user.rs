//! `GET /api/users/{id}`

use serde_json::json;
use testkit::{Database, Event};

use crate::support::{assert_not_found, assert_success, start};

#[test]
fn a_user_is_served() {
    let database = Database::new();
    database.execute("INSERT INTO users (id, name, age) VALUES (7, 'Alice', 30), (8, 'Bob', 41)");
    let get = start("get-user", &database);

    let answer = get.invoke(Event::get("/api/users/7"));

    assert_success(&answer, 200, &json!({ "id": 7, "name": "Alice", "age": 30 }));
    assert_eq!(answer.header("location"), None);
}

#[test]
fn an_unknown_user_is_404() {
    let database = Database::new();
    let get = start("get-user", &database);
    for id in ["1", "2147483648", "9223372036854775807"] {
        assert_not_found(&get.invoke(Event::get(&format!("/api/users/{id}"))));
    }
}

#[test]
fn ids_are_64_bits_wide() {
    let database = Database::new();
    database.execute(
        "INSERT INTO users (id, name, age) VALUES (2147483648, 'Alice', 30), (9223372036854775807, 'Bob', 41)",
    );
    let get = start("get-user", &database);

    let answer = get.invoke(Event::get("/api/users/2147483648"));
    assert_success(&answer, 200, &json!({ "id": 2_147_483_648_i64, "name": "Alice", "age": 30 }));
    let answer = get.invoke(Event::get("/api/users/9223372036854775807"));
    assert_success(&answer, 200, &json!({ "id": i64::MAX, "name": "Bob", "age": 41 }));
}

#[test]
fn null_of_another_program_is_served_as_null() {
    let database = Database::new();
    database
        .execute("INSERT INTO users (id, name, age) VALUES (1, NULL, 30), (2, 'Bob', NULL), (3, NULL, NULL)");
    let get = start("get-user", &database);

    for (id, name, age) in
        [(1, json!(null), json!(30)), (2, json!("Bob"), json!(null)), (3, json!(null), json!(null))]
    {
        let answer = get.invoke(Event::get(&format!("/api/users/{id}")));
        assert_success(&answer, 200, &json!({ "id": id, "name": name, "age": age }));
    }
}

#[test]
fn what_another_program_wrote_is_served_even_if_it_breaks_our_rules() {
    let database = Database::new();
    database.execute(r"INSERT INTO users (id, name, age) VALUES (1, E' \n\x01', -5), (2, '', 2147483647)");
    let get = start("get-user", &database);

    assert_success(
        &get.invoke(Event::get("/api/users/1")),
        200,
        &json!({ "id": 1, "name": " \n\u{1}", "age": -5 }),
    );
    assert_success(
        &get.invoke(Event::get("/api/users/2")),
        200,
        &json!({ "id": 2, "name": "", "age": i32::MAX }),
    );
}

#[test]
fn a_change_is_seen_by_the_next_request() {
    let database = Database::new();
    database.execute("INSERT INTO users (id, name, age) VALUES (1, 'Alice', 30)");
    let get = start("get-user", &database);
    assert_success(
        &get.invoke(Event::get("/api/users/1")),
        200,
        &json!({ "id": 1, "name": "Alice", "age": 30 }),
    );

    database.execute("UPDATE users SET age = 31");
    assert_success(
        &get.invoke(Event::get("/api/users/1")),
        200,
        &json!({ "id": 1, "name": "Alice", "age": 31 }),
    );

    database.execute("DELETE FROM users");
    assert_not_found(&get.invoke(Event::get("/api/users/1")));
}
