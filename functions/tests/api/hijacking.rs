//! Nothing that somebody else has put into schema `public` runs as our roles.
//!
//! On PostgreSQL 14, and in a database upgraded from it, everybody may put something there, and a function or operator
//! that fits better than PostgreSQL's own is preferred wherever it stands in the search path.

use postgres::Client;
use serde_json::json;
use testkit::{Database, Event, role, roles};

use crate::{
    migrate::{by_hand, start_migrate, to_json},
    migrations::GUIDES_TABLE,
    support::{access_of, endpoints, reset, start, user},
};

/// Functions whose names our statements use, or well might, with arguments that a careless call prefers.
const FUNCTIONS: [(&str, &str, &str); 26] = [
    ("concat", "INT, TEXT", "text"),
    ("concat", "TEXT, TEXT", "text"),
    ("concat", "TEXT, VARCHAR", "text"),
    ("concat_ws", "TEXT, INT, TEXT", "text"),
    ("concat_ws", "TEXT, TEXT, TEXT", "text"),
    ("convert_to", "TEXT, TEXT", "bytea"),
    ("convert_to", "VARCHAR, TEXT", "bytea"),
    ("sha256", "TEXT", "bytea"),
    ("md5", "VARCHAR", "text"),
    ("encode", "BYTEA, VARCHAR", "text"),
    ("encode", "BYTEA, NAME", "text"),
    ("count", "BIGINT", "bigint"),
    ("max", "VARCHAR", "text"),
    ("now", "TEXT", "timestamptz"),
    ("to_hex", "SMALLINT", "text"),
    ("lpad", "TEXT, BIGINT, TEXT", "text"),
    ("unnest", "TEXT", "text"),
    ("format", "TEXT, TEXT", "text"),
    ("quote_ident", "NAME", "text"),
    ("to_regclass", "NAME", "regclass"),
    ("pg_get_serial_sequence", "NAME, TEXT", "text"),
    ("pg_has_role", "TEXT, TEXT, TEXT", "bool"),
    ("has_table_privilege", "TEXT, TEXT, TEXT", "bool"),
    ("has_column_privilege", "TEXT, TEXT, TEXT, TEXT", "bool"),
    ("has_schema_privilege", "TEXT, TEXT, TEXT", "bool"),
    ("has_sequence_privilege", "TEXT, TEXT, TEXT", "bool"),
];

/// Operators between types for which PostgreSQL has none of its own, and converts.
const OPERATORS: [(&str, &str, &str, &str); 14] = [
    ("||", "TEXT", "VARCHAR", "text"),
    ("||", "VARCHAR", "TEXT", "text"),
    ("||", "VARCHAR", "VARCHAR", "text"),
    ("||", "INT", "TEXT", "text"),
    ("||", "TEXT", "INT", "text"),
    ("||", "INT", "VARCHAR", "text"),
    ("=", "TEXT", "VARCHAR", "bool"),
    ("=", "VARCHAR", "TEXT", "bool"),
    ("=", "VARCHAR", "VARCHAR", "bool"),
    ("<>", "TEXT", "VARCHAR", "bool"),
    ("<", "VARCHAR", "VARCHAR", "bool"),
    (">", "VARCHAR", "VARCHAR", "bool"),
    ("=", "NAME", "VARCHAR", "bool"),
    ("-", "TIMESTAMPTZ", "TEXT", "timestamptz"),
];

/// Puts all of them there, as a user who may do no more. Whoever runs one leaves its name in `traces`.
fn plant(database: &Database) {
    let mut statements = String::new();
    let mut function = |name: &str, arguments: &str, result: &str, trace: &str| {
        let sequence = format!("trace_{}", statements.matches("CREATE FUNCTION").count());
        statements += &format!(
            "CREATE SEQUENCE {sequence};
             GRANT ALL ON SEQUENCE {sequence} TO PUBLIC;
             COMMENT ON SEQUENCE {sequence} IS '{trace}';
             CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_catalog.nextval('public.{sequence}'); RETURN NULL; END $$;"
        );
    };
    for (name, arguments, result) in FUNCTIONS {
        function(name, arguments, result, &format!("{name}({arguments})"));
    }
    let mut operators = String::new();
    for (number, (name, left, right, result)) in OPERATORS.into_iter().enumerate() {
        function(
            &format!("steal_{number}"),
            &format!("{left}, {right}"),
            result,
            &format!("{left} {name} {right}"),
        );
        operators += &format!(
            "CREATE OPERATOR public.{name} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.steal_{number});"
        );
    }
    let mallory = format!("{}_mallory", database.name());
    database.execute(&format!(
        "CREATE ROLE {mallory}; GRANT CREATE ON SCHEMA public TO {mallory};
         SET ROLE {mallory}; {statements} {operators}"
    ));
}

/// What was run.
fn traces(client: &mut Client) -> Vec<String> {
    let run = "SELECT obj_description(oid) FROM pg_class
               WHERE relname ~ '^trace_\\d+$' AND pg_sequence_last_value(oid) IS NOT NULL";
    client.query(run, &[]).expect("the traces").iter().map(|row| row.get(0)).collect()
}

/// Our table, and that of the guide's app.
fn databases() -> [Database; 2] {
    ["", GUIDES_TABLE].map(|before| {
        let database = Database::empty();
        database.execute(before);
        database.migrate().expect("migrating");
        database.execute("INSERT INTO users (name, age) VALUES ('Alice', 30)");
        plant(&database);
        database
    })
}

#[test]
fn no_endpoint_runs_what_somebody_else_has_put_into_the_schema() {
    for database in databases() {
        let mut client = database.client();
        let etag = "\"3q2+78r+ur4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"";
        let put = || Event::put("/api/users/1").json(&user("Bob", 41));
        let post = || Event::post("/api/users").json(&user("Bob", 41));
        let more = [
            ("list-users", Event::get("/api/users").query("limit=1&after=0")),
            ("get-user", Event::get("/api/users/1").header("if-none-match", etag)),
            ("get-user", Event::get("/api/users/1").header("if-match", etag)),
            ("create-user", post().header("idempotency-key", "k")),
            ("create-user", post().header("idempotency-key", "k")),
            ("update-user", put().header("if-match", "*")),
            ("update-user", put().header("if-match", etag)),
            ("update-user", put().header("if-none-match", etag)),
            ("delete-user", Event::delete("/api/users/1").header("if-match", etag)),
            ("delete-user", Event::delete("/api/users/1").header("if-none-match", etag)),
        ];
        for (binary, event) in more.into_iter().chain(endpoints().into_iter().map(|it| (it.binary, it.event)))
        {
            reset(&database);
            let answer = start(binary, &database).invoke(event.clone());
            assert_eq!(traces(&mut client), [""; 0], "{binary} {event:?}");
            assert!(answer.status < 500, "{binary} {event:?}: {answer:?}");
        }
    }
}

#[test]
fn migrate_runs_nothing_of_it_either() {
    for database in databases() {
        let mut client = database.client();
        database.execute(
            "INSERT INTO idempotency_keys (key, fingerprint, created_id, created_at)
             SELECT kind || repeat('0', 64), '', 1, now() - interval '2 days' FROM unnest(ARRAY['c', 'i']) AS kind",
        );
        let migrate = start_migrate(&database.url(), &[]);
        for (event, result) in [
            (
                json!({ "task": "migrate", "Roles": to_json(&roles(database.name())) }),
                json!({ "applied": [] }),
            ),
            (json!({ "task": "delete-old-keys" }), json!({ "deleted": 2 })),
        ] {
            let found = by_hand(&migrate, &event);
            assert_eq!(traces(&mut client), [""; 0], "{event}");
            assert_eq!(found, Ok(result), "{event}");
        }
    }
}

#[test]
fn what_these_tests_plant_is_run_by_a_careless_statement() {
    let [database, _] = databases();
    let mut client = database.client();
    client.batch_execute(&format!("SET ROLE {}", role(access_of("update-user")))).expect("a role");
    let careless = "SELECT concat(age, ' ' || name) FROM users WHERE id = 1";
    client.query(careless, &[]).expect("it fits");
    client.batch_execute("RESET ROLE").expect("the superuser");
    let mut found = traces(&mut client);
    found.sort();
    assert_eq!(found, ["VARCHAR || VARCHAR", "concat(INT, TEXT)"]);
}
