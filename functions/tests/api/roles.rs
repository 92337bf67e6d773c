//! What the database roles that `migrate` makes may do: their own operation, and nothing else.

use serde_json::json;
use shared::migrate::{Duty, Role};
use testkit::{Database, as_user, role, roles};

use crate::migrate::{start_migrate, to_json};
use crate::migrations::GUIDES_TABLE;
use crate::support::{assert_failure, duty_of, endpoints, start, start_at};

const EVERYBODY: &[Duty] = &[Duty::Reader, Duty::Creator, Duty::Updater, Duty::Deleter];

/// What there is to be done, and whose duty it is.
const STATEMENTS: [(&str, &[Duty]); 30] = [
    ("SELECT id, name, age FROM users", EVERYBODY),
    ("INSERT INTO users (name, age) VALUES ('Bob', 41)", &[Duty::Creator]),
    ("INSERT INTO users (name, age) VALUES ('Bob', 41) RETURNING id", &[Duty::Creator]),
    ("UPDATE users SET name = 'Bob', age = 41 WHERE id = 1", &[Duty::Updater]),
    ("DELETE FROM users WHERE id = 1", &[Duty::Deleter]),
    ("SELECT key, fingerprint, user_id FROM idempotency_keys", &[Duty::Creator]),
    ("INSERT INTO idempotency_keys (key, fingerprint, user_id) VALUES ('l', '', 1)", &[Duty::Creator]),
    ("UPDATE idempotency_keys SET user_id = 2", &[]),
    ("DELETE FROM idempotency_keys", &[]),
    ("SELECT name FROM schema_migrations", &[]),
    ("INSERT INTO schema_migrations (name) VALUES ('0003')", &[]),
    ("DELETE FROM schema_migrations", &[]),
    ("SELECT setval(pg_get_serial_sequence('users', 'id'), 1)", &[]),
    ("TRUNCATE users", &[]),
    ("TRUNCATE idempotency_keys", &[]),
    ("DROP TABLE users", &[]),
    ("DROP TABLE idempotency_keys", &[]),
    ("ALTER TABLE users ADD COLUMN email TEXT", &[]),
    ("ALTER TABLE users OWNER TO CURRENT_USER", &[]),
    ("ALTER TABLE users DISABLE TRIGGER ALL", &[]),
    ("CREATE INDEX ON users (name)", &[]),
    ("CREATE RULE quiet AS ON INSERT TO users DO INSTEAD NOTHING", &[]),
    ("CREATE TABLE copies (id INT)", &[]),
    ("CREATE VIEW copies AS SELECT 1", &[]),
    ("CREATE SEQUENCE copies", &[]),
    ("CREATE FUNCTION copies() RETURNS INT LANGUAGE SQL AS 'SELECT 1'", &[]),
    ("CREATE SCHEMA copies", &[]),
    ("DROP SCHEMA public CASCADE", &[]),
    ("CREATE ROLE copies", &[]),
    ("COPY users TO PROGRAM 'cat'", &[]),
];

/// With our table, and with one that the guide's app has made, `migrate` makes the roles, and somebody a user.
fn databases() -> [(&'static str, Database); 2] {
    [("", Database::empty()), (GUIDES_TABLE, Database::empty())].map(|(before, database)| {
        database.execute(before);
        let roles = roles(database.name());
        let function = start_migrate(&database.url(), &[]);
        let result = function.start_invoke(json!({ "task": "migrate", "Roles": to_json(&roles) })).result();
        result.expect("the roles");
        database.execute("INSERT INTO users (name, age) VALUES ('Alice', 30)");
        (before, database)
    })
}

#[test]
fn each_role_may_do_what_its_duty_is_and_nothing_else() {
    for (before, database) in databases() {
        let mut client = database.client();
        for Role { name, duty, .. } in roles(database.name()) {
            for (statement, duties) in STATEMENTS {
                let mut transaction = client.transaction().expect("a transaction");
                transaction.batch_execute(&format!("SET LOCAL ROLE {name}")).expect("another role");
                let result = transaction.batch_execute(statement);
                let refused =
                    result.as_ref().is_err_and(|error| error.code().is_some_and(|it| it.code() == "42501"));
                let right = if duties.contains(&duty) { result.is_ok() } else { refused };
                assert!(right, "{duty:?}: {statement}: {result:?}{before}");
            }
        }
    }
}

#[test]
fn each_endpoint_works_with_the_role_of_its_duty_and_no_writer_with_another() {
    for (before, database) in databases() {
        for Role { name, duty, .. } in roles(database.name()) {
            database.execute(&format!(
                "ALTER ROLE {name} PASSWORD 'password'; TRUNCATE users RESTART IDENTITY;
                 INSERT INTO users (name, age) VALUES ('Alice', 30)"
            ));
            let url = as_user(&name, &database.url());
            for (binary, event) in endpoints() {
                let answer = start_at(binary, &url).invoke(event);
                if duty_of(binary) == Duty::Reader || duty_of(binary) == duty {
                    assert!(answer.status < 300, "{duty:?} {binary}: {answer:?}{before}");
                } else {
                    let record = assert_failure(&answer, 500);
                    assert_eq!(record["fields"]["sqlstate"], "42501", "{duty:?} {binary}: {record}{before}");
                }
            }
        }
    }
}

#[test]
fn a_role_may_log_in_has_time_limits_below_ours_and_no_power_over_the_server_or_a_table() {
    for (before, database) in databases() {
        for Role { name, .. } in roles(database.name()) {
            let role = "SELECT rolconfig, rolcanlogin,
                               rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls,
                               EXISTS (SELECT FROM pg_shdepend WHERE refobjid = pg_roles.oid AND deptype = 'o'),
                               EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid)
                        FROM pg_roles WHERE rolname = $1";
            let role = database.client().query_one(role, &[&name]).expect("the role");
            let limits: Vec<String> = role.get(0);
            assert_eq!(
                limits,
                ["lock_timeout=1s", "statement_timeout=2s", "idle_session_timeout=10min"],
                "{name}{before}"
            );
            let [login, power, owner, member] = [1, 2, 3, 4].map(|column| role.get::<_, bool>(column));
            assert_eq!([login, power, owner, member], [true, false, false, false], "{name}{before}");
        }
    }
}

#[test]
fn these_tests_run_each_endpoint_as_the_role_of_its_duty() {
    for (binary, _) in endpoints() {
        let database = Database::new();
        let function = start(binary, &database);
        function.wait_for_init();
        let users = "SELECT usename::text FROM pg_stat_activity
                     WHERE datname = current_database() AND usename <> current_user";
        let users = database.client().query(users, &[]).expect("the sessions");
        let users: Vec<String> = users.iter().map(|row| row.get(0)).collect();
        assert_eq!(users, [role(duty_of(binary))], "{binary}");
    }
}
