//! `PUT /api/users/{id}`

use serde_json::json;
use testkit::{Database, Event};

use crate::support::{assert_faults, assert_not_found, assert_success, rows, start, user};

fn alice_and_bob() -> Database {
    let database = Database::new();
    database.execute("INSERT INTO users (name, age) VALUES ('Alice', 30), ('Bob', 41)");
    database
}

#[test]
fn a_user_is_replaced_and_no_other() {
    let database = alice_and_bob();
    let answer =
        start("update-user", &database).invoke(Event::put("/api/users/1").json(&user("Alice Updated", 31)));

    assert_success(&answer, 200, &json!({ "id": 1, "name": "Alice Updated", "age": 31 }));
    assert_eq!(answer.header("location"), None);
    let expected = [(1, Some("Alice Updated".to_owned()), Some(31)), (2, Some("Bob".to_owned()), Some(41))];
    assert_eq!(rows(&database), expected);
}

#[test]
fn the_same_again_is_200_again() {
    let database = alice_and_bob();
    let update = start("update-user", &database);
    for _ in 0..2 {
        let answer = update.invoke(Event::put("/api/users/1").json(&user("Alice", 31)));
        assert_success(&answer, 200, &json!({ "id": 1, "name": "Alice", "age": 31 }));
    }
}

#[test]
fn an_unknown_user_is_404_and_not_created() {
    let database = alice_and_bob();
    let update = start("update-user", &database);
    for id in ["3", "2147483648", "9223372036854775807"] {
        assert_not_found(&update.invoke(Event::put(&format!("/api/users/{id}")).json(&user("Carol", 52))));
    }
    assert_eq!(rows(&database).len(), 2);
}

#[test]
fn the_id_in_the_path_counts_not_the_one_in_the_body() {
    let database = alice_and_bob();
    let update = start("update-user", &database);
    for id in [json!(1), json!(2), json!("x"), json!(null)] {
        let body = json!({ "id": id, "name": "Carol", "age": 52 });
        let answer = update.invoke(Event::put("/api/users/1").json(&body));
        assert_success(&answer, 200, &json!({ "id": 1, "name": "Carol", "age": 52 }));
    }
    assert_eq!(rows(&database)[1], (2, Some("Bob".to_owned()), Some(41)));
}

#[test]
fn what_get_answers_can_be_put_back() {
    let database = alice_and_bob();
    let got = start("get-user", &database).invoke(Event::get("/api/users/2"));
    let answer = start("update-user", &database)
        .invoke(Event::put("/api/users/2").header("content-type", "application/json").body(&got.body));
    assert_success(&answer, 200, &got.json());
}

#[test]
fn a_missing_member_is_400_and_nothing_turns_null() {
    let database = alice_and_bob();
    let update = start("update-user", &database);
    let answer = update.invoke(Event::put("/api/users/1").json(&json!({ "name": "Carol" })));
    assert_faults(&answer, "Missing required fields", &["#/age"]);
    let answer = update.invoke(Event::put("/api/users/1").json(&json!({ "age": 31 })));
    assert_faults(&answer, "Missing required fields", &["#/name"]);
    assert_eq!(rows(&database)[0], (1, Some("Alice".to_owned()), Some(30)));
}

#[test]
fn null_of_another_program_is_replaced() {
    let database = Database::new();
    database.execute("INSERT INTO users (name, age) VALUES (NULL, NULL)");
    let answer = start("update-user", &database).invoke(Event::put("/api/users/1").json(&user("Alice", 30)));
    assert_success(&answer, 200, &json!({ "id": 1, "name": "Alice", "age": 30 }));
}

#[test]
fn ids_are_64_bits_wide() {
    let database = Database::new();
    database.execute("INSERT INTO users (id, name, age) VALUES (9223372036854775807, 'Alice', 30)");
    let answer = start("update-user", &database)
        .invoke(Event::put("/api/users/9223372036854775807").json(&user("Bob", 41)));
    assert_success(&answer, 200, &json!({ "id": i64::MAX, "name": "Bob", "age": 41 }));
}

#[test]
fn without_a_precondition_it_is_the_plain_statement() {
    let database = alice_and_bob();
    let function = start("update-user", &database);
    let mut client = database.client();
    let mut locked = client.transaction().expect("a transaction");
    locked.batch_execute("SELECT FROM users WHERE id = 1 FOR UPDATE").expect("a lock");
    let pending = function.start_invoke(Event::put("/api/users/1").json(&user("Carol", 52)));
    database.wait_for_locks(1);
    let statement =
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let statement: String = database.client().query_one(statement, &[]).expect("what waits").get(0);
    locked.rollback().expect("the end of the lock");
    assert_eq!(pending.wait().status, 200);
    assert!(statement.starts_with("UPDATE users SET name = "), "{statement}");
    assert!(statement.contains(" WHERE id = $1 RETURNING "), "{statement}");
}
