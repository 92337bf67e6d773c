//! `DELETE /api/users/{id}`

use serde_json::json;
use testkit::{Database, Event};

use crate::support::{assert_not_found, assert_success, rows, start, with_alice};

#[test]
fn a_user_is_deleted_and_no_other() {
    let database = Database::new();
    database.execute("INSERT INTO users (id, name, age) VALUES (7, 'Alice', 30), (8, 'Bob', 41)");
    let answer = start("delete-user", &database).invoke(Event::delete("/api/users/7"));

    assert_success(&answer, 200, &json!({ "message": "User 7 deleted" }));
    assert_eq!(rows(&database), [(8, Some("Bob".to_owned()), Some(41))]);
}

#[test]
fn the_same_again_is_404() {
    let database = with_alice();
    let delete = start("delete-user", &database);
    assert_success(
        &delete.invoke(Event::delete("/api/users/1")),
        200,
        &json!({ "message": "User 1 deleted" }),
    );
    assert_not_found(&delete.invoke(Event::delete("/api/users/1")));
}

#[test]
fn an_unknown_user_is_404_and_nothing_is_deleted() {
    let database = with_alice();
    let delete = start("delete-user", &database);
    for id in ["2", "4294967297", "9223372036854775807"] {
        assert_not_found(&delete.invoke(Event::delete(&format!("/api/users/{id}"))));
    }
    assert_eq!(rows(&database).len(), 1);
}

#[test]
fn ids_are_64_bits_wide() {
    let database = Database::new();
    database.execute("INSERT INTO users (id, name, age) VALUES (9223372036854775807, 'Alice', 30)");
    let answer = start("delete-user", &database).invoke(Event::delete("/api/users/9223372036854775807"));
    assert_success(&answer, 200, &json!({ "message": "User 9223372036854775807 deleted" }));
    assert_eq!(rows(&database), []);
}

#[test]
fn the_id_of_a_deleted_user_is_not_given_again() {
    let database = Database::new();
    let create = start("create-user", &database);
    let event = || Event::post("/api/users").json(&json!({ "name": "Alice", "age": 30 }));
    assert_eq!(create.invoke(event()).json()["id"], 1);
    assert_eq!(start("delete-user", &database).invoke(Event::delete("/api/users/1")).status, 200);
    assert_eq!(create.invoke(event()).json()["id"], 2);
}

#[test]
fn without_a_precondition_it_is_the_plain_statement() {
    let database = with_alice();
    let function = start("delete-user", &database);
    let mut client = database.client();
    let mut locked = client.transaction().expect("a transaction");
    locked.batch_execute("SELECT FROM users WHERE id = 1 FOR UPDATE").expect("a lock");
    let pending = function.start_invoke(Event::delete("/api/users/1"));
    database.wait_for_locks(1);
    let statement =
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let statement: String = database.client().query_one(statement, &[]).expect("what waits").get(0);
    locked.rollback().expect("the end of the lock");
    assert_eq!(pending.wait().status, 200);
    assert!(statement.starts_with("DELETE FROM users WHERE id = $1"), "{statement}");
    assert!(statement.contains(" WHERE id = $1 RETURNING "), "{statement}");
}
