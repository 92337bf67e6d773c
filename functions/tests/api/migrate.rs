//! The function `migrate`, run as Lambda runs it: for CloudFormation and by hand.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shared::roles::{Access, Role};
use testkit::{
    Database, Failure, Function, Greeting, HttpRequest, IamGate, Proxy, Receiver, Service, as_role, as_user,
    roles,
};

use crate::{roles::Grants, support::path_of};

/// As in template.yaml.
const TIMEOUT: Duration = Duration::from_secs(120);

const MIGRATIONS: [&str; 2] = ["0001_create_users", "0002_create_idempotency_keys"];

/// As S3 signs an address.
const SIGNED: &str = "/arn%3Aaws%3Acloudformation%3Aeu-central-1%3A123456789012%3Astack/users/x%7CSchema%7Cy?\
                      X-Amz-Date=20250116T140539Z&X-Amz-Expires=7200&X-Amz-Signature=5ec4e7";

/// The function with a `DATABASE_URL` and more of an environment.
pub(crate) fn start_migrate(url: &str, env: &[(&str, &str)]) -> Function {
    Function::start_with_timeout(TIMEOUT, path_of("migrate"), &[&[("DATABASE_URL", url)], env].concat())
}

/// The function with a receiver for its answers.
fn start_for(receiver: &Receiver, url: &str) -> Function {
    let (name, value) = receiver.env();
    start_migrate(url, &[(name, &value)])
}

/// Roles as they stand in an event.
pub(crate) fn to_json(roles: &[Role]) -> Value {
    let access = |access| match access {
        Access::Read => "read",
        Access::Create => "create",
        Access::Update => "update",
        Access::Delete => "delete",
    };
    let role = |role: &Role| json!({ "Name": role.name.to_string(), "Access": access(role.access), "IamRoles": role.iam_roles });
    roles.iter().map(role).collect()
}

/// A request of CloudFormation. It sends numbers as strings.
fn request(kind: &str, receiver: &Receiver, roles: &Value) -> Value {
    let mut request = json!({
        "RequestType": kind,
        "ResponseURL": receiver.url(SIGNED),
        "StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/users/5b918d10-cd98-11ea-90d5-0a9cd3354c10",
        "RequestId": format!("{kind}-unique id for this create request"),
        "LogicalResourceId": "Schema",
        "ResourceType": "AWS::CloudFormation::CustomResource",
        "ResourceProperties": {
            "ServiceToken": "arn:aws:lambda:eu-central-1:123456789012:function:users-Migrate-xmpl",
            "ServiceTimeout": "180",
            "SchemaVersion": MIGRATIONS[1],
        },
    });
    if kind != "Create" {
        request["PhysicalResourceId"] = json!("made when it was created");
    }
    if !roles.is_null() {
        request["ResourceProperties"]["Roles"] = roles.clone();
    }
    request
}

/// The answer to a request, which is all that CloudFormation demands of one. Nothing that is secret was logged.
fn answer_to(request: &Value, function: &Function, receiver: &Receiver) -> Value {
    let result = function.start_invoke(request.clone()).result();
    result.unwrap_or_else(|failure| panic!("{failure}\n{}", function.log().join("\n")));
    let answer = read_answer(request, &receiver.next());
    assert!(receiver.is_empty(), "one answer");
    let log = function.log().join("\n");
    assert!(!log.contains("5ec4e7") && !log.contains("hunter2"), "{log}");
    answer
}

fn read_answer(request: &Value, put: &HttpRequest) -> Value {
    assert_eq!((put.method.as_str(), put.path.as_str()), ("PUT", SIGNED));
    assert_eq!(put.header("content-type").unwrap_or_default(), "", "the signature is for none");
    assert!(put.body.len() <= 4096, "{put:?}");
    let answer: Value = serde_json::from_str(&put.body).expect("JSON");
    for member in ["StackId", "RequestId", "LogicalResourceId"] {
        assert_eq!(answer[member], request[member], "{answer}");
    }
    let id = answer["PhysicalResourceId"].as_str().unwrap_or_default();
    assert!(!id.is_empty(), "{answer}");
    assert!(request["PhysicalResourceId"].as_str().is_none_or(|known| known == id), "{answer}");
    assert!(answer["Reason"].is_string() || answer["Status"] == "SUCCESS", "{answer}");
    assert!(!put.body.contains("hunter2"), "{answer}");
    answer
}

/// What somebody gets who calls the function by hand.
pub(crate) fn by_hand(function: &Function, event: &Value) -> Result<Value, String> {
    let result = function.start_invoke(event.clone()).result();
    let log = function.log().join("\n");
    assert!(!log.contains("hunter2"), "{log}");
    result.map_err(|failure| match failure {
        Failure::FunctionError(error) => error,
        failure => panic!("{event}: {failure}\n{log}"),
    })
}

/// How many of the roles exist.
fn existing(database: &Database) -> i64 {
    let names = roles(database.name()).map(|role| role.name.to_string());
    let count = "SELECT count(*) FROM pg_roles WHERE rolname = ANY($1)";
    database.client().query_one(count, &[&names.as_slice()]).expect("counting").get(0)
}

/// Makes a database's owner, who is no superuser, and returns its URL.
fn url_of_owner(database: &Database, attributes: &str) -> String {
    let name = database.name();
    database.execute(&format!(
        "CREATE ROLE {name}_owner LOGIN PASSWORD 'password' {attributes}; ALTER DATABASE {name} OWNER TO {name}_owner"
    ));
    as_user(&format!("{name}_owner"), &database.url())
}

fn schema_exists(database: &Database) -> bool {
    let table = "SELECT to_regclass('idempotency_keys') IS NOT NULL";
    database.client().query_one(table, &[]).expect("looking").get(0)
}

#[test]
fn create_and_update_make_schema_and_roles_and_delete_touches_nothing() {
    let (database, receiver) = (Database::empty(), Receiver::new());
    let function = start_for(&receiver, &database.url());
    let roles = to_json(&roles(database.name()));
    let mut ids = Vec::new();
    for (kind, roles, made) in
        [("Create", &Value::Null, 0), ("Create", &roles, 4), ("Update", &roles, 4), ("Delete", &roles, 4)]
    {
        if kind == "Delete" {
            database.execute("DROP TABLE users, idempotency_keys, schema_migrations");
        }
        let answer = answer_to(&request(kind, &receiver, roles), &function, &receiver);
        assert_eq!(answer["Status"], "SUCCESS", "{answer}");
        assert_eq!((schema_exists(&database), existing(&database)), (kind != "Delete", made), "{kind}");
        ids.push(answer["PhysicalResourceId"].clone());
    }
    assert_eq!(ids[0], ids[1], "another id would replace the resource");
}

#[test]
fn the_log_begins_at_the_level_that_lambda_sets() {
    let receiver = Receiver::new();
    for (level, expected) in [("", 1), ("INFO", 1), ("WARN", 0), ("ERROR", 0), ("FATAL", 1)] {
        let (name, value) = receiver.env();
        let function = start_migrate("", &[(name, &value), ("AWS_LAMBDA_LOG_LEVEL", level)]);
        answer_to(&request("Delete", &receiver, &Value::Null), &function, &receiver);
        let records = function.log().iter().filter(|line| line.contains(r#""level":"INFO""#)).count();
        assert_eq!(records, expected, "{level}: {:?}", function.log());
    }
}

#[test]
fn delete_succeeds_without_a_database() {
    let receiver = Receiver::new();
    for url in ["postgres://someone:hunter2@127.0.0.1:1/db", "nonsense"] {
        let start = Instant::now();
        let request = request("Delete", &receiver, &Value::Null);
        let answer = answer_to(&request, &start_for(&receiver, url), &receiver);
        assert_eq!(answer["Status"], "SUCCESS", "{answer}");
        assert!(start.elapsed() < Duration::from_secs(10), "it does not wait for one either");
    }
}

#[test]
fn a_failure_is_told_with_its_reason() {
    let (database, receiver) = (Database::empty(), Receiver::new());
    let owner = url_of_owner(&database, "");
    let reader = as_role(Access::Read, &database.url());
    let role = |name: &str, access: &str| json!([{ "Name": name, "Access": access }]);
    for (url, roles, reason) in [
        (
            "postgres://someone:hunter2@localhost/db?sslmode=maybe",
            json!([]),
            "DATABASE_URL has an unknown sslmode",
        ),
        (
            &owner.replace(&format!("/{}?", database.name()), "/test_no_such_database?"),
            json!([]),
            "does not exist",
        ),
        (&reader, json!([]), "permission denied for schema public"),
        (&owner, role(database.name(), "read"), "permission denied to create role"),
        (&owner, role("users; DROP TABLE users", "read"), "can't be the name of a role"),
        (&owner, role("users_owner", "owner"), "unknown variant `owner`"),
        (&owner, json!([{ "Name": "users_reader" }]), "missing field `Access`"),
    ] {
        let function = start_for(&receiver, url);
        let answer = answer_to(&request("Create", &receiver, &roles), &function, &receiver);
        assert_eq!(answer["Status"], "FAILED", "{answer}");
        let told = answer["Reason"].as_str().unwrap_or_default();
        assert!(told.contains(reason), "{told} instead of {reason}");
        // By hand, the same is a function error.
        let error = by_hand(&function, &json!({ "task": "migrate", "Roles": roles })).expect_err("a failure");
        assert!(error.contains(reason), "{error} instead of {reason}");
        let errors = function.log().iter().filter(|line| line.contains("\"ERROR\"")).count();
        assert_eq!(errors, 2, "{:#?}", function.log());
    }
    assert_eq!(existing(&database), 0);
}

#[test]
fn who_may_not_create_tables_is_told_the_line_that_helps() {
    let database = Database::empty();
    let (name, owner) = (database.name(), format!("{}_owner", database.name()));
    // What the guide gives, which was enough before PostgreSQL 15.
    database.execute(&format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         CREATE ROLE {owner} LOGIN PASSWORD 'password';
         GRANT ALL PRIVILEGES ON DATABASE {name} TO {owner}"
    ));
    let function = start_migrate(&as_user(&owner, &database.url()), &[]);
    let error = by_hand(&function, &json!({ "task": "migrate" })).expect_err("a failure");
    assert!(error.contains("permission denied for schema public"), "{error}");
    let line = format!("ALTER DATABASE {name} OWNER TO {owner}");
    assert!(error.contains(&line), "{error}");
    database.execute(&line);
    by_hand(&function, &json!({ "task": "migrate" })).expect("it helps");
}

#[test]
fn properties_that_are_no_object_are_told_as_a_failure_and_the_next_request_works() {
    let (database, receiver) = (Database::empty(), Receiver::new());
    let function = start_for(&receiver, &database.url());
    let mut event = request("Create", &receiver, &Value::Null);
    event["ResourceProperties"] = json!("none");
    assert_eq!(answer_to(&event, &function, &receiver)["Status"], "FAILED");
    let event = request("Create", &receiver, &Value::Null);
    assert_eq!(answer_to(&event, &function, &receiver)["Status"], "SUCCESS");
}

#[test]
fn an_answer_that_is_not_taken_is_sent_again() {
    let (database, receiver) = (Database::new(), Receiver::new());
    let function = start_for(&receiver, &database.url());
    let request = request("Create", &receiver, &Value::Null);
    receiver.answer_next([500, 503]);
    function.start_invoke(request.clone()).result().expect("the third time");
    for _ in 0..3 {
        assert_eq!(read_answer(&request, &receiver.next())["Status"], "SUCCESS");
    }
    // Whoever retries the invocation sees that it has failed.
    receiver.answer_next([403; 10]);
    by_hand(&function, &request).expect_err("no answer was taken");
    assert!(!function.log().join("\n").contains("5ec4e7"));
}

#[test]
fn a_database_that_can_not_be_reached_yet_is_tried_again() {
    let (database, receiver, proxy) = (Database::empty(), Receiver::new(), Proxy::new());
    let function = start_for(&receiver, &database.plain_url_via(&proxy));
    // As in a stack that was just made: nobody there, not started, the permission not known yet.
    let refused = [Greeting::Hangup, Greeting::Fatal("57P03"), Greeting::Fatal("28000")];
    proxy.greet_next(refused);
    let answer = answer_to(&request("Create", &receiver, &Value::Null), &function, &receiver);
    assert_eq!(answer["Status"], "SUCCESS", "{answer}");
    assert!(proxy.connections() > refused.len() && schema_exists(&database));
}

#[test]
fn what_takes_too_long_is_told_before_lambda_ends_the_function() {
    let databases = [Database::empty(), Database::empty()];
    let mut client = databases[0].client();
    let mut locked = client.transaction().expect("a transaction");
    locked.batch_execute("CREATE TABLE schema_migrations (name TEXT)").expect("a lock");
    let wrong = url_of_owner(&databases[1], "").replace(":password@", ":hunter2@");
    thread::scope(|scope| {
        for (url, reason) in
            [(databases[0].url(), "not done within"), (wrong, "password authentication failed for user")]
        {
            scope.spawn(move || {
                let receiver = Receiver::new();
                let start = Instant::now();
                let answer = answer_to(
                    &request("Create", &receiver, &Value::Null),
                    &start_for(&receiver, &url),
                    &receiver,
                );
                assert_eq!(answer["Status"], "FAILED", "{answer}");
                assert!(answer["Reason"].as_str().is_some_and(|told| told.contains(reason)), "{answer}");
                assert!(start.elapsed() < TIMEOUT - Duration::from_secs(10), "{:?}", start.elapsed());
            });
        }
    });
}

#[test]
fn by_hand_it_tells_what_was_new() {
    let database = Database::empty();
    let function = start_migrate(&database.url(), &[]);
    for (roles, applied, made) in [
        (None, MIGRATIONS.as_slice(), 0),
        (None, &[], 0),
        (Some(roles(database.name())), &[], 4),
        (Some(roles(database.name())), &[], 4),
    ] {
        let mut event = json!({ "task": "migrate" });
        if let Some(roles) = roles {
            event["Roles"] = to_json(&roles);
        }
        assert_eq!(by_hand(&function, &event), Ok(json!({ "applied": applied })));
        assert_eq!(existing(&database), made);
    }
}

#[test]
fn several_at_the_same_time_all_succeed() {
    let database = Database::empty();
    let functions: Vec<_> = (0..4).map(|_| start_migrate(&database.url(), &[])).collect();
    let event = json!({ "task": "migrate", "Roles": to_json(&roles(database.name())) });
    // All of them wait for one that gives up, and go on at the same moment.
    let mut client = database.client();
    let mut first = client.transaction().expect("a transaction");
    first.batch_execute("CREATE TABLE schema_migrations (name TEXT)").expect("a table");
    let pending: Vec<_> = functions.iter().map(|function| function.start_invoke(event.clone())).collect();
    database.wait_for_locks(4);
    first.rollback().expect("giving up");
    for pending in pending {
        pending.result().expect("a success");
    }
    assert!(schema_exists(&database));
    assert_eq!(existing(&database), 4);
}

#[test]
fn an_event_that_it_does_not_know_is_a_function_error_in_one_clear_sentence() {
    let database = Database::empty();
    let function = start_migrate(&database.url(), &[]);
    let signed = "https://localhost:1/?X-Amz-Signature=hunter2";
    for (event, sentence) in [
        (json!({}), "the event can't be read: missing field `task`"),
        (json!(null), "the event can't be read: "),
        (json!([]), "the event can't be read: "),
        (json!("migrate"), "the event can't be read: "),
        (json!({ "task": "drop" }), "the event can't be read: unknown variant `drop`"),
        (json!({ "task": "migrate", "Roles": "x" }), "the event can't be read: invalid type: string \"x\""),
        (json!({ "RequestType": "Create" }), "the event can't be read: missing field `task`"),
        (json!({ "RequestType": "Create", "ResponseURL": signed }), "missing field `StackId`"),
    ] {
        let error = by_hand(&function, &event).expect_err("an error");
        let error: Value = serde_json::from_str(&error).expect("JSON");
        assert!(
            error["errorMessage"].as_str().is_some_and(|it| it.starts_with(sentence)),
            "{event}: {error}"
        );
    }
    assert!(!schema_exists(&database));
}

#[test]
fn on_aurora_dsql_admin_lets_each_iam_role_in_once() {
    let (database, gate) = (Database::empty(), IamGate::new(Service::Dsql));
    // Whether everybody may use the schema there, and the owner's sequences, nobody has written down.
    database.execute(
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC;
         CREATE SCHEMA sys;
         CREATE TABLE sys.iam_pg_role_mappings (arn TEXT, pg_role_name TEXT, UNIQUE (arn, pg_role_name))",
    );
    let env = gate.env(&database, "admin");
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let function = start_migrate("", &env);
    let mut roles = roles(database.name());
    let (mut expected, mut grants) = (Vec::new(), None);
    for (round, arns) in
        [["get", "list"].as_slice(), &["get", "list"], &["get", "list", "it's new"]].iter().enumerate()
    {
        for role in &mut roles {
            role.iam_roles =
                arns.iter().map(|name| format!("arn:aws:iam::123456789012:role/{name}")).collect();
            for arn in role.iam_roles.iter().skip(if round == 0 { 0 } else { 2 }) {
                expected.push(format!("AWS IAM GRANT {} TO '{}'", role.name, arn.replace('\'', "''")));
            }
        }
        let result = by_hand(&function, &json!({ "task": "migrate", "Roles": to_json(&roles) }));
        result.unwrap_or_else(|error| panic!("{error}\n{}", function.log().join("\n")));
        let mut granted = gate.own_statements();
        granted.sort();
        expected.sort();
        assert_eq!(granted, expected);
        match &grants {
            None => grants = Some(Grants::of(&database)),
            // A GRANT is a conflict for every session there.
            Some(grants) => assert_eq!(grants.so_far(), [""; 0]),
        }
    }
    for Role { name, access, .. } in &roles {
        let usage = "SELECT has_schema_privilege($1, 'public', 'USAGE'),
                            has_sequence_privilege($1, pg_get_serial_sequence('users', 'id'), 'USAGE')";
        let usage = database.client().query_one(usage, &[&name.to_string()]).expect("asking");
        let usage: [bool; 2] = [usage.get(0), usage.get(1)];
        assert_eq!(usage, [true, *access == Access::Create], "{name}");
    }
    let limited = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1) AND rolconfig IS NOT NULL";
    let limited = database.client().query_one(limited, &[&database.name()]).expect("counting");
    assert_eq!(limited.get::<_, i64>(0), 0, "Aurora DSQL knows no settings of roles");
    assert_eq!(existing(&database), 4);
}

#[test]
fn on_rds_the_owner_lets_each_role_in_with_a_token() {
    let (database, gate) = (Database::empty(), IamGate::new(Service::Rds));
    let name = database.name();
    url_of_owner(&database, "CREATEROLE");
    database.execute(&format!(
        "CREATE ROLE {name}_rds_iam; GRANT {name}_rds_iam TO {name}_owner WITH ADMIN OPTION"
    ));
    let env = gate.env(&database, &format!("{name}_owner"));
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let function = start_migrate("", &env);
    for _ in 0..2 {
        let result = by_hand(&function, &json!({ "task": "migrate", "Roles": to_json(&roles(name)) }));
        result.unwrap_or_else(|error| panic!("{error}\n{}", function.log().join("\n")));
    }
    for role in roles(name) {
        let member = database.client().query_one(
            "SELECT pg_has_role($1, $2, 'member')",
            &[&role.name.to_string(), &format!("{name}_rds_iam")],
        );
        assert!(member.expect("asking").get::<_, bool>(0), "{}", role.name);
    }
    let log = function.log().join("\n");
    for secret in gate.secrets() {
        assert!(!log.contains(&secret), "{secret} in {log}");
    }
}
