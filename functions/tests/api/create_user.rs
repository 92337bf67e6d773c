//! `POST /api/users`

use serde_json::json;
use testkit::{Database, Event};

use crate::support::{assert_success, resolved, rows, start, user};

#[test]
fn a_user_is_created_and_its_place_told() {
    let database = Database::new();
    let answer = start("create-user", &database).invoke(Event::post("/api/users").json(&user("Alice", 30)));

    assert_success(&answer, 201, &json!({ "id": 1, "name": "Alice", "age": 30 }));
    assert_eq!(answer.header("location"), Some("users/1"));
    assert_eq!(rows(&database), [(1, Some("Alice".to_owned()), Some(30))]);
}

#[test]
fn each_user_gets_an_id_of_its_own() {
    let database = Database::new();
    let create = start("create-user", &database);
    for id in 1..=3 {
        let answer = create.invoke(Event::post("/api/users").json(&user("Alice", 30)));
        assert_success(&answer, 201, &json!({ "id": id, "name": "Alice", "age": 30 }));
        assert_eq!(answer.header("location"), Some(format!("users/{id}").as_str()));
    }
    assert_eq!(rows(&database).len(), 3);
}

#[test]
fn two_environments_do_not_get_in_each_others_way() {
    let database = Database::new();
    let (one, other) = (start("create-user", &database), start("create-user", &database));
    let event = || Event::post("/api/users").json(&user("Alice", 30));
    let (first, second) = (one.start_invoke(event()), other.start_invoke(event()));
    let (first, second) = (first.wait(), second.wait());

    assert_eq!((first.status, second.status), (201, 201));
    let mut ids = [first.json()["id"].as_i64(), second.json()["id"].as_i64()];
    ids.sort_unstable();
    assert_eq!(ids, [Some(1), Some(2)]);
}

#[test]
fn ids_beyond_32_bits_are_served() {
    let database = Database::new();
    database.execute("ALTER TABLE users ALTER COLUMN id RESTART WITH 3000000000");
    let answer = start("create-user", &database).invoke(Event::post("/api/users").json(&user("Alice", 30)));
    assert_success(&answer, 201, &json!({ "id": 3_000_000_000_i64, "name": "Alice", "age": 30 }));
    assert_eq!(answer.header("location"), Some("users/3000000000"));
}

#[test]
fn an_id_in_the_body_is_ignored() {
    let database = Database::new();
    let body = json!({ "id": 4711, "name": "Alice", "age": 30 });
    let answer = start("create-user", &database).invoke(Event::post("/api/users").json(&body));
    assert_success(&answer, 201, &json!({ "id": 1, "name": "Alice", "age": 30 }));
    assert_eq!(rows(&database), [(1, Some("Alice".to_owned()), Some(30))]);
}

#[test]
fn sql_in_a_name_is_a_name() {
    let database = Database::new();
    let name = "Robert'); DROP TABLE users;-- $1 %s \\";
    let answer = start("create-user", &database).invoke(Event::post("/api/users").json(&user(name, 30)));
    assert_success(&answer, 201, &json!({ "id": 1, "name": name, "age": 30 }));
    assert_eq!(rows(&database), [(1, Some(name.to_owned()), Some(30))]);
}

#[test]
fn the_place_of_a_user_is_right_wherever_the_api_is() {
    let database = Database::new();
    let (create, get) = (start("create-user", &database), start("get-user", &database));
    for (base, stage) in [
        ("https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", None),
        ("https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/prod", Some("prod")),
        // A custom domain's base path, which is no part of the event.
        ("https://api.example.com/people/v1", None),
    ] {
        let at_stage = |event: Event| stage.map_or(event.clone(), |stage| event.stage(stage));
        let answer = create.invoke(at_stage(Event::post("/api/users").json(&user("Alice", 30))));
        let location = answer.header("location").unwrap_or_else(|| panic!("no Location: {answer:?}"));
        let place = resolved(&format!("{base}/api/users"), location);
        let path = place.strip_prefix(base).unwrap_or_else(|| panic!("{place} is not below {base}"));
        assert_success(&get.invoke(at_stage(Event::get(path))), 200, &answer.json());
    }
}
