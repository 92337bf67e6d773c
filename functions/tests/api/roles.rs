//! What the database roles that `migrate` makes may do: their own operation, and nothing else.

use std::collections::BTreeSet;

use serde_json::json;
use shared::roles::{Access, Role};
use testkit::{Database, as_user, role, roles};

use crate::{
    migrate::{start_migrate, to_json},
    migrations::GUIDES_TABLE,
    support::{Endpoint, SEED, assert_failure, endpoints, reset, start, start_at},
    wiring::{documents, read},
};

const EVERYBODY: &[Access] = &[Access::Read, Access::Create, Access::Update, Access::Delete];

/// What there is to be done, and whose access it takes.
const STATEMENTS: [(&str, &[Access]); 30] = [
    ("SELECT id, name, age FROM users", EVERYBODY),
    ("INSERT INTO users (name, age) VALUES ('Bob', 41)", &[Access::Create]),
    ("INSERT INTO users (name, age) VALUES ('Bob', 41) RETURNING id", &[Access::Create]),
    ("UPDATE users SET name = 'Bob', age = 41 WHERE id = 1", &[Access::Update]),
    ("DELETE FROM users WHERE id = 1", &[Access::Delete]),
    ("SELECT key, fingerprint, created_id FROM idempotency_keys", &[Access::Create]),
    ("INSERT INTO idempotency_keys (key, fingerprint, created_id) VALUES ('l', '', 1)", &[Access::Create]),
    ("UPDATE idempotency_keys SET created_id = 2", &[]),
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
        database.execute(SEED);
        (before, database)
    })
}

#[test]
fn each_role_may_do_what_its_access_is_and_nothing_else() {
    for (before, database) in databases() {
        let mut client = database.client();
        for Role { name, access, .. } in roles(database.name()) {
            for (statement, allowed) in STATEMENTS {
                let mut transaction = client.transaction().expect("a transaction");
                transaction.batch_execute(&format!("SET LOCAL ROLE {name}")).expect("another role");
                let result = transaction.batch_execute(statement);
                let refused =
                    result.as_ref().is_err_and(|error| error.code().is_some_and(|it| it.code() == "42501"));
                let right = if allowed.contains(&access) { result.is_ok() } else { refused };
                assert!(right, "{access:?}: {statement}: {result:?}{before}");
            }
        }
    }
}

#[test]
fn each_endpoint_works_with_the_role_with_its_access_and_no_writer_with_another() {
    for (before, database) in databases() {
        for Role { name, access, .. } in roles(database.name()) {
            database.execute(&format!("ALTER ROLE {name} PASSWORD 'password'"));
            reset(&database);
            let url = as_user(&name.to_string(), &database.url());
            for Endpoint { binary, event, access: needed, table, .. } in endpoints() {
                let answer = start_at(binary, &url).invoke(event);
                // Everybody may read users.
                if needed == access || (needed, table) == (Access::Read, "users") {
                    assert!(answer.status < 300, "{access:?} {binary}: {answer:?}{before}");
                } else {
                    let record = assert_failure(&answer, 500);
                    assert_eq!(
                        record["fields"]["sqlstate"], "42501",
                        "{access:?} {binary}: {record}{before}"
                    );
                }
            }
        }
    }
}

/// Time limits below ours, and that an acknowledged write survives, whatever the server's own settings are.
const SETTINGS: [&str; 5] = [
    "enable_seqscan=off",
    "idle_session_timeout=10min",
    "lock_timeout=1s",
    "statement_timeout=2s",
    "synchronous_commit=on",
];

#[test]
fn what_the_documents_tell_to_set_for_ones_own_user_is_what_migrate_sets() {
    let documents: String = documents().iter().map(|path| read(path)).collect();
    let statements = documents.split("ALTER ROLE myuser SET ").skip(1);
    let told: BTreeSet<_> = statements
        .map(|rest| {
            let statement = rest.split([';', '`', '\n']).next().unwrap_or_default();
            statement.trim().replace(" = ", "=").replace('\'', "")
        })
        .collect();
    assert_eq!(told, BTreeSet::from(SETTINGS.map(str::to_owned)));
}

#[test]
fn a_second_time_nothing_is_granted() {
    for (before, database) in databases() {
        let grants = Grants::of(&database);
        let function = start_migrate(&database.url(), &[]);
        let migrate = |roles: &[Role]| {
            let event = json!({ "task": "migrate", "Roles": to_json(roles) });
            function.start_invoke(event).result().expect("the roles");
        };
        let roles = roles(database.name());
        migrate(&roles);
        assert_eq!(grants.so_far(), [""; 0], "{before}");
        // What is missing is given again.
        let [reader, ..] = &roles;
        database.execute(&format!("REVOKE SELECT ON users FROM {}", reader.name));
        migrate(&roles);
        assert_eq!(grants.so_far().len(), 1, "{before}: {:?}", grants.so_far());
        assert!(grants.so_far()[0].contains(&reader.name.to_string()), "{:?}", grants.so_far());
    }
}

#[test]
fn an_owner_who_may_not_change_the_roles_can_migrate_once_they_are_complete() {
    for (before, database) in databases() {
        let owner = format!("{}_owner", database.name());
        database.execute(&format!(
            "CREATE ROLE {owner} LOGIN PASSWORD 'password'; GRANT CREATE ON SCHEMA public TO {owner};
             ALTER TABLE users OWNER TO {owner}; ALTER TABLE idempotency_keys OWNER TO {owner};
             ALTER TABLE schema_migrations OWNER TO {owner}"
        ));
        let function = start_migrate(&as_user(&owner, &database.url()), &[]);
        let event = json!({ "task": "migrate", "Roles": to_json(&roles(database.name())) });
        function.start_invoke(event).result().unwrap_or_else(|error| panic!("{error:?}{before}"));
    }
}

/// Notes every GRANT on an object of a database.
pub(crate) struct Grants<'a>(&'a Database);

impl<'a> Grants<'a> {
    pub(crate) fn of(database: &'a Database) -> Self {
        database.execute(
            "CREATE TABLE grants (statement TEXT);
             CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
                 $$ BEGIN INSERT INTO public.grants VALUES (current_query()); END $$;
             CREATE EVENT TRIGGER note ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION note()",
        );
        Self(database)
    }

    pub(crate) fn so_far(&self) -> Vec<String> {
        let statements = self.0.client().query("SELECT statement FROM grants", &[]).expect("the grants");
        statements.iter().map(|row| row.get(0)).collect()
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
            let role = database.client().query_one(role, &[&name.to_string()]).expect("the role");
            let settings: Vec<String> = role.get(0);
            let settings: BTreeSet<_> = settings.iter().map(String::as_str).collect();
            assert_eq!(settings, BTreeSet::from(SETTINGS), "{name}{before}");
            let [login, power, owner, member] = [1, 2, 3, 4].map(|column| role.get::<_, bool>(column));
            assert_eq!([login, power, owner, member], [true, false, false, false], "{name}{before}");
        }
    }
}

#[test]
fn these_tests_run_each_endpoint_as_the_role_with_its_access() {
    for Endpoint { binary, access, .. } in endpoints() {
        let database = Database::new();
        let function = start(binary, &database);
        function.wait_for_init();
        let users = "SELECT usename::text FROM pg_stat_activity
                     WHERE datname = current_database() AND usename <> current_user";
        let users = database.client().query(users, &[]).expect("the sessions");
        let users: Vec<String> = users.iter().map(|row| row.get(0)).collect();
        assert_eq!(users, [role(access)], "{binary}");
    }
}
