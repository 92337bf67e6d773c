//! Whose key it is: an `Idempotency-Key` belongs to a caller, who is known by what outlives a restart of the client.

use serde_json::json;
use testkit::{Caller, Database, Event, Function};

use crate::support::{assert_problem, assert_success, rows, start, user};

const KEY: &str = "order-1";

/// Callers that no authorizer confuses, each in all the ways in which it may show itself.
const CALLERS: [(&str, &[Caller<'_>]); 22] = [
    ("anybody", &[Caller::Anybody]),
    ("an account's root", &[Caller::Iam("arn:aws:iam::123456789012:root")]),
    ("another account's root", &[Caller::Iam("arn:aws:iam::210987654321:root")]),
    ("a user", &[Caller::Iam("arn:aws:iam::123456789012:user/Alice")]),
    ("another user", &[Caller::Iam("arn:aws:iam::123456789012:user/Bob")]),
    ("a user with a path", &[Caller::Iam("arn:aws:iam::123456789012:user/team/Alice")]),
    (
        "a role, restarted: botocore, ECS, EKS Pod Identity, EC2, Lambda",
        &[
            Caller::Iam("arn:aws:sts::123456789012:assumed-role/Writer/botocore-session-1795369392"),
            Caller::Iam("arn:aws:sts::123456789012:assumed-role/Writer/botocore-session-1795369455"),
            Caller::Iam("arn:aws:sts::123456789012:assumed-role/Writer/9f8e7d6c5b4a39281706f5e4d3c2b1a0"),
            Caller::Iam(
                "arn:aws:sts::123456789012:assumed-role/Writer/eks-users-app-1b2c3d4e-5f60-7182-93a4-b5c6d7e8f901",
            ),
            Caller::Iam("arn:aws:sts::123456789012:assumed-role/Writer/i-0123456789abcdef0"),
            Caller::Iam("arn:aws:sts::123456789012:assumed-role/Writer/orders=,.@-+_1"),
        ],
    ),
    (
        "another role, under a session's name like one of the first",
        &[Caller::Iam("arn:aws:sts::123456789012:assumed-role/Writer2/botocore-session-1795369392")],
    ),
    (
        "a role of that name in another account",
        &[Caller::Iam("arn:aws:sts::210987654321:assumed-role/Writer/botocore-session-1795369392")],
    ),
    ("a user with the name of the role", &[Caller::Iam("arn:aws:iam::123456789012:user/Writer")]),
    (
        "a role in China",
        &[
            Caller::Iam("arn:aws-cn:sts::123456789012:assumed-role/Reader/one"),
            Caller::Iam("arn:aws-cn:sts::123456789012:assumed-role/Reader/two"),
        ],
    ),
    (
        "a permission set of Identity Center",
        &[
            Caller::Iam(
                "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Writer_0123456789abcdef/alice@example.com",
            ),
            Caller::Iam(
                "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Writer_0123456789abcdef/bob@example.com",
            ),
        ],
    ),
    ("a federated user", &[Caller::Iam("arn:aws:sts::123456789012:federated-user/Alice")]),
    ("another federated user", &[Caller::Iam("arn:aws:sts::123456789012:federated-user/Bob")]),
    (
        "an identity of a Cognito identity pool, whatever role it was given",
        &[
            Caller::Identity(
                "eu-central-1:3f291106-8703-466b-8f2b-3ecee1ca56ce",
                "arn:aws:sts::123456789012:assumed-role/Visitors/CognitoIdentityCredentials",
            ),
            Caller::Identity(
                "eu-central-1:3f291106-8703-466b-8f2b-3ecee1ca56ce",
                "arn:aws:sts::123456789012:assumed-role/Members/CognitoIdentityCredentials",
            ),
        ],
    ),
    (
        "another identity with the same role",
        &[Caller::Identity(
            "eu-central-1:b6a3c2d1-8703-466b-8f2b-3ecee1ca56ce",
            "arn:aws:sts::123456789012:assumed-role/Visitors/CognitoIdentityCredentials",
        )],
    ),
    (
        "the role of the identities, without one",
        &[Caller::Iam("arn:aws:sts::123456789012:assumed-role/Visitors/CognitoIdentityCredentials")],
    ),
    (
        "the subject of a token, renewed",
        &[
            Caller::Token(&[
                ("iss", "https://issuer.example"),
                ("sub", "alice"),
                ("jti", "1"),
                ("iat", "1795369392"),
            ]),
            Caller::Token(&[
                ("iss", "https://issuer.example"),
                ("sub", "alice"),
                ("jti", "2"),
                ("iat", "1795372992"),
                ("client_id", "an application"),
            ]),
        ],
    ),
    ("another subject", &[Caller::Token(&[("iss", "https://issuer.example"), ("sub", "bob")])]),
    (
        "that subject of another issuer",
        &[Caller::Token(&[("iss", "https://issuer.example b"), ("sub", "ob")])],
    ),
    // What separates the two may be part of either.
    (
        "one whose claims read like those",
        &[Caller::Token(&[("iss", "https://issuer.example"), ("sub", "b ob")])],
    ),
    (
        "an application, whose token has no subject",
        &[
            Caller::Token(&[
                ("iss", "https://issuer.example"),
                ("client_id", "an application"),
                ("jti", "3"),
            ]),
            Caller::Token(&[
                ("iss", "https://issuer.example"),
                ("client_id", "an application"),
                ("jti", "4"),
            ]),
        ],
    ),
];

fn post(caller: Caller<'_>, age: i32) -> Event {
    Event::post("/api/users").json(&user("Alice", age)).header("idempotency-key", KEY).by(caller)
}

#[test]
fn a_caller_is_the_same_after_a_restart() {
    let database = Database::new();
    let create = start("create-user", &database);
    for (who, callers) in CALLERS {
        let first = create.invoke(post(callers[0], 30));
        assert_eq!(first.status, 201, "{who}: {first:?}");
        for caller in callers {
            let again = create.invoke(post(*caller, 30));
            assert_eq!((again.status, &again.body), (201, &first.body), "{who}: {caller:?}");
            let other = create.invoke(post(*caller, 31));
            let error = "Idempotency-Key was used for another request";
            assert_problem(&other, 422, "Unprocessable Entity", error);
        }
    }
}

#[test]
fn two_callers_who_choose_one_key_do_not_meet() {
    let database = Database::new();
    let create = start("create-user", &database);
    for (id, (who, callers)) in (1..).zip(CALLERS) {
        // Each with a body of its own: somebody else's key is not theirs.
        let answer = create.invoke(post(callers[0], id));
        assert_eq!(answer.status, 201, "{who}: {answer:?}");
        assert_success(&answer, 201, &json!({ "id": id, "name": "Alice", "age": id }));
    }
    assert_eq!(rows(&database).len(), CALLERS.len());
}

#[test]
fn a_caller_and_a_key_do_not_add_up_to_another_callers() {
    let database = Database::new();
    let create = start("create-user", &database);
    let post = |name: &str, key: &str| {
        let arn = format!("arn:aws:iam::123456789012:user/{name}");
        let event = Event::post("/api/users").json(&user("Alice", 30)).header("idempotency-key", key);
        id_of(&create, event.by(Caller::Iam(&arn)))
    };
    assert_eq!([post("A", "lice1"), post("Alice", "1"), post("Alic", "e1")], [1, 2, 3]);
}

fn id_of(create: &Function, event: Event) -> i64 {
    let answer = create.invoke(event);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_i64().expect("an id")
}
