//! The migrations: repeatable, at the same time too, and gentle with a table that is already there.

use std::{
    collections::BTreeSet,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{Database, Event};

use crate::support::{assert_not_found, assert_success, rows, start, user, with_alice};

/// The guide's, to the letter.
pub(crate) const GUIDES_TABLE: &str = "
    CREATE TABLE IF NOT EXISTS users (
        id SERIAL PRIMARY KEY,
        name VARCHAR(100),
        age INT
    );";

#[test]
fn a_second_time_changes_nothing() {
    let database = Database::empty();
    let first = database.migrate().expect("the first time");
    assert!(!first.is_empty());
    database.execute("INSERT INTO users (name, age) VALUES ('Alice', 30)");
    let (schema, record) = (schema(&database), record(&database));
    assert_eq!(record.iter().map(String::as_str).collect::<Vec<_>>(), first);

    assert!(database.migrate().expect("the second time").is_empty());

    assert_eq!(self::schema(&database), schema);
    assert_eq!(self::record(&database), record);
    assert_eq!(rows(&database), [(1, Some("Alice".to_owned()), Some(30))]);
}

#[test]
fn a_statement_is_harmless_when_its_record_was_lost() {
    let database = with_alice();
    let (schema, record) = (schema(&database), record(&database));
    // As if the process had died between a statement and its record.
    database.execute("DELETE FROM schema_migrations");

    assert_eq!(database.migrate().expect("again"), record.iter().map(String::as_str).collect::<Vec<_>>());

    assert_eq!(self::schema(&database), schema);
    assert_eq!(rows(&database), [(1, Some("Alice".to_owned()), Some(30))]);
}

#[test]
fn eight_at_the_same_time_all_succeed() {
    let database = Database::empty();
    apply_eight_times(&database, || {});
    assert_eq!(schema(&database), schema(&Database::new()));
    assert_eq!(record(&database), record(&Database::new()));
}

#[test]
fn who_loses_the_race_for_a_table_succeeds_too() {
    let database = Database::empty();
    let mut winner = database.client();
    let mut winner = winner.transaction().expect("a transaction");
    winner.batch_execute(GUIDES_TABLE).expect("creating the table");

    // To the others it does not exist yet, so they create it as well, and wait for the outcome of the first.
    apply_eight_times(&database, || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'";
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut observer = database.client();
        while observer
            .query_one(waiting, &[&database.name()])
            .expect("the server's sessions")
            .get::<_, i64>(0)
            < 8
        {
            assert!(Instant::now() < deadline, "not all of them try to create the table");
        }
        winner.commit().expect("commit");
    });

    assert_eq!(record(&database), record(&Database::new()));
}

/// How many of [`apply_eight_times`] run at once.
const APPLIERS: usize = 8;

/// Starts eight appliers at the same moment, does something meanwhile, and expects each applier to succeed.
fn apply_eight_times(database: &Database, meanwhile: impl FnOnce()) {
    let start = Barrier::new(APPLIERS);
    thread::scope(|scope| {
        let apply = || {
            start.wait();
            database.migrate()
        };
        let appliers = [(); APPLIERS].map(|()| scope.spawn(apply));
        meanwhile();
        for applier in appliers {
            applier.join().expect("no panic").expect("each applier succeeds");
        }
    });
}

#[test]
fn the_guides_table_is_adopted_rows_and_all() {
    let database = Database::empty();
    database.execute(GUIDES_TABLE);
    database.execute("INSERT INTO users (name, age) VALUES ('Alice', 30), (NULL, 41), ('Carol', NULL)");
    database.execute("INSERT INTO users DEFAULT VALUES; DELETE FROM users WHERE id = 4");
    let users = schema(&database);

    database.migrate().expect("adopting the table");

    assert_eq!(
        schema(&database).into_iter().filter(|(table, ..)| table == "users").collect::<Vec<_>>(),
        users
    );
    let (alice, nobody) = ((1, Some("Alice".to_owned()), Some(30)), (2, None, Some(41)));
    assert_eq!(rows(&database), [alice.clone(), nobody.clone(), (3, Some("Carol".to_owned()), None)]);

    let list = start("list-users", &database);
    let answer = list.invoke(Event::get("/api/users"));
    let expected = json!([
        { "id": 1, "name": "Alice", "age": 30 },
        { "id": 2, "name": null, "age": 41 },
        { "id": 3, "name": "Carol", "age": null },
    ]);
    assert_success(&answer, 200, &expected);
    let answer = list.invoke(Event::get("/api/users").query("limit=1&after=1"));
    assert_success(&answer, 200, &json!([{ "id": 2, "name": null, "age": 41 }]));
    assert_eq!(answer.header("link"), Some("<?after=2&limit=1>; rel=\"next\""));

    let answer = start("create-user", &database).invoke(Event::post("/api/users").json(&user("Dave", 63)));
    assert_success(&answer, 201, &json!({ "id": 5, "name": "Dave", "age": 63 }));
    assert_eq!(answer.header("location"), Some("users/5"));

    let get = start("get-user", &database);
    assert_success(
        &get.invoke(Event::get("/api/users/2")),
        200,
        &json!({ "id": 2, "name": null, "age": 41 }),
    );
    let update = start("update-user", &database);
    let answer = update.invoke(Event::put("/api/users/3").json(&user("Caroline", 52)));
    assert_success(&answer, 200, &json!({ "id": 3, "name": "Caroline", "age": 52 }));
    let delete = start("delete-user", &database);
    let answer = delete.invoke(Event::delete("/api/users/2"));
    assert_success(&answer, 200, &json!({ "message": "User 2 deleted" }));

    // Beyond the ids of this table, which has 32 bits for them.
    for id in ["2147483648", "9223372036854775807"] {
        let path = format!("/api/users/{id}");
        assert_not_found(&get.invoke(Event::get(&path)));
        assert_not_found(&update.invoke(Event::put(&path).json(&user("Eve", 74))));
        assert_not_found(&delete.invoke(Event::delete(&path)));
        assert_success(&list.invoke(Event::get("/api/users").query(&format!("after={id}"))), 200, &json!([]));
    }
    let (carol, dave) = ((3, Some("Caroline".to_owned()), Some(52)), (5, Some("Dave".to_owned()), Some(63)));
    assert_eq!(rows(&database), [alice, carol, dave]);
}

#[test]
fn the_table_is_the_guides_with_wider_ids() {
    let columns: Vec<_> =
        schema(&Database::new()).into_iter().filter(|(table, ..)| table == "users").collect();
    let column = |name: &str, kind: &str, nullable: &str| {
        ("users".to_owned(), name.to_owned(), kind.to_owned(), nullable.to_owned())
    };
    let expected = [
        column("id", "bigint", "NO"),
        column("name", "character varying(100)", "YES"),
        column("age", "integer", "YES"),
    ];
    assert_eq!(BTreeSet::from_iter(columns), BTreeSet::from(expected));
}

#[test]
fn the_table_of_keys_says_nothing_of_users() {
    let columns: Vec<_> = schema(&Database::new())
        .into_iter()
        .filter(|(table, ..)| table == "idempotency_keys")
        .map(|(_, name, kind, nullable)| (name, kind, nullable))
        .collect();
    let column = |name: &str, kind: &str| (name.to_owned(), kind.to_owned(), "NO".to_owned());
    let expected = [
        column("created_at", "timestamp with time zone"),
        column("created_id", "bigint"),
        column("fingerprint", "bytea"),
        column("key", "text"),
    ];
    assert_eq!(columns, expected);
}

/// Tables, columns, types, and whether NULL is allowed.
fn schema(database: &Database) -> Vec<(String, String, String, String)> {
    let columns = database.client().query(
        "SELECT table_name::text, column_name::text,
                data_type || coalesce('(' || character_maximum_length || ')', ''), is_nullable::text
         FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
        &[],
    );
    let columns = columns.expect("the catalogue");
    columns.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

/// The names of the migrations that are recorded as applied.
fn record(database: &Database) -> Vec<String> {
    let names = database.client().query("SELECT name FROM schema_migrations ORDER BY name", &[]);
    names.expect("the record").iter().map(|row| row.get(0)).collect()
}
