//! Whatever event API Gateway may send, there is an answer.

use std::{cell::RefCell, fmt::Debug, thread};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::{Index, select, subsequence},
    test_runner::{TestCaseResult, TestError, TestRunner},
};
use serde_json::{Value, json};
use testkit::Answer;

use crate::support::{Endpoint, endpoints, start, with_alice};

/// Looks for a case that fails, and panics with the smallest one. Nothing is written to the source tree: what failed
/// once becomes a test of its own.
pub(crate) fn check<T: Debug>(
    cases: u32,
    strategy: impl Strategy<Value = T>,
    property: impl Fn(T) -> TestCaseResult,
) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    match TestRunner::new(config).run(&strategy, property) {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("{reason}\nThe smallest case that fails: {case:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn whatever_the_event_there_is_an_answer_and_none_of_5xx() {
    let database = with_alice();
    thread::scope(|scope| {
        for Endpoint { binary, event: valid, .. } in endpoints() {
            let database = &database;
            scope.spawn(move || {
                // A process that has ended is followed by another, so that the search for a smaller case goes on.
                let function = RefCell::new(start(binary, database));
                check(500, event(valid.into()), |event| {
                    let result = function.borrow().start_invoke(event).try_wait();
                    let answer = result.map_err(|failure| {
                        function.replace(start(binary, database));
                        TestCaseError::fail(format!("{binary}: {failure}"))
                    })?;
                    is_an_answer(&answer)
                });
            });
        }
    });
}

/// What holds for every answer of every function.
fn is_an_answer(answer: &Answer) -> TestCaseResult {
    prop_assert!((200..500).contains(&answer.status), "{answer:?}");
    prop_assert!(answer.log.is_empty(), "{answer:?}");
    let content_type = answer.header("content-type");
    if answer.status == 304 {
        prop_assert_eq!((content_type, answer.body.as_str()), (None, ""));
        return Ok(());
    }
    let expected = if answer.status < 300 { "application/json" } else { "application/problem+json" };
    prop_assert_eq!(content_type, Some(expected));
    let body: Result<Value, _> = serde_json::from_str(&answer.body);
    prop_assert!(body.is_ok_and(|body| answer.status < 300 || body["status"] == answer.status), "{answer:?}");
    Ok(())
}

/// What becomes of a part of an event.
#[derive(Clone, Debug)]
enum Part {
    AsItWas,
    Missing,
    Is(Value),
}

/// A valid event, some parts of which have become arbitrary or are missing.
fn event(valid: Value) -> impl Strategy<Value = Value> {
    let query = "(limit|after|%6cimit|x)=-?[0-9]{0,4}(&limit=[0-9%+]{0,5})?";
    let arbitrary = vec![
        part("/rawPath", text()),
        part("/rawQueryString", prop_oneof![text(), query]),
        part("/queryStringParameters", strings(text(), text())),
        part("/pathParameters", strings(Just("id".to_owned()), prop_oneof!["-?[0-9]{1,20}", text()])),
        part("/headers", headers()),
        part("/cookies", vec(text(), 0..3)),
        part("/stageVariables", strings(text(), text())),
        part("/body", body()),
        part("/isBase64Encoded", any::<bool>()),
        part("/requestContext/http/path", text()),
        part("/requestContext/stage", text()),
        part("/requestContext/domainName", text()),
        part("/requestContext/authorizer", authorizer()),
    ];
    let optional = ["accountId", "apiId", "domainPrefix", "requestId", "routeKey", "time", "timeEpoch"];
    let missing = subsequence(optional.to_vec(), 0..=optional.len());
    (arbitrary, missing).prop_map(move |(arbitrary, missing)| {
        let mut event = valid.clone();
        for (pointer, part) in arbitrary {
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            let parent = event.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
            match part {
                Part::AsItWas => {}
                Part::Missing => drop(parent.remove(name)),
                Part::Is(value) => drop(parent.insert(name.to_owned(), value)),
            }
        }
        let context = event["requestContext"].as_object_mut().expect("an object");
        context.retain(|name, _| !missing.contains(&name.as_str()));
        event
    })
}

fn part<T>(
    pointer: &'static str,
    arbitrary: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<(&'static str, Part)>
where
    Value: From<T>,
    T: Debug + 'static,
{
    let is = arbitrary.prop_map(|value| Part::Is(value.into()));
    prop_oneof![3 => Just(Part::AsItWas), 1 => Just(Part::Missing), 3 => is]
        .prop_map(move |part| (pointer, part))
        .boxed()
}

/// Any characters, or such that mean something to somebody.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        r#"[-/?#%&=;:@\[\]\\"{}<>^`|. a-z0-9]{0,20}"#,
        "\\PC{0,20}",
        any::<String>(),
        vec(any::<char>(), 0..8).prop_map(String::from_iter)
    ]
}

fn strings(
    names: impl Strategy<Value = String>,
    values: impl Strategy<Value = String>,
) -> impl Strategy<Value = Value> {
    btree_map(names, values, 0..4).prop_map(|strings| json!(strings))
}

fn headers() -> impl Strategy<Value = Value> {
    let known = [
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "cookie",
        "host",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "x-amzn-trace-id",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    ];
    let known = select(known.to_vec()).prop_map(str::to_owned);
    let name = prop_oneof![4 => known, 1 => "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}"];
    let tags = r#"( ?(W/)?"[^" ]{0,3}",?){1,3}|\*"#;
    let value = prop_oneof![3 => text(), 1 => tags, 1 => "(text|application)/json(; charset=utf-8)?"];
    // HTTP has no other control character than the tab in a value (RFC 9110, section 5.5).
    let value = value.prop_map(|text| text.replace(|c: char| c.is_ascii_control() && c != '\t', " "));
    strings(name, value)
}

/// JSON that a user could be made of, whole or damaged; other text; base64; and what is too large or too deep.
fn body() -> impl Strategy<Value = String> {
    let member = prop_oneof![
        3 => r#""name":"\PC{0,8}""#,
        3 => r#""age":-?[0-9]{1,3}"#,
        1 => r#""(name|age)":([-0-9.eE]{1,6}|null|true|\[\]|\{\}|"\\u[0-9a-d]{4}")"#,
        1 => r#""\PC{0,5}":"\PC{0,5}""#,
    ];
    let object = vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(",")));
    let json = prop_oneof![Just(r#"{"name":"Bob","age":41}"#.to_owned()), object].boxed();
    let damaged = (json.clone(), any::<Index>(), text()).prop_map(|(json, at, text)| {
        let (at, _) = at.get(&json.char_indices().collect::<Vec<_>>()).to_owned();
        format!("{}{text}{}", &json[..at], json[at..].chars().skip(1).collect::<String>())
    });
    let bytes = prop_oneof![json.clone().prop_map(String::into_bytes), vec(any::<u8>(), 0..20)];
    let encoded = bytes.prop_map(|bytes| BASE64_STANDARD.encode(bytes));
    let long = (select(vec!["[", "{\"a\":", "é", " "]), 1..20_000_usize);
    let long = long.prop_map(|(text, times)| text.repeat(times));
    prop_oneof![4 => json, 3 => damaged, 2 => text(), 3 => encoded, 1 => long]
}

/// What API Gateway's authorizers find out by IAM, by a JWT, or by a function of the owner.
fn authorizer() -> impl Strategy<Value = Value> {
    let cognito = (vec(text(), 0..3), option::of(text())).prop_map(
        |(amr, identity)| json!({ "amr": amr, "identityId": identity, "identityPoolId": identity }),
    );
    let arn = "arn:aws(-cn)?:(iam|sts):[a-z]{0,2}:[0-9]{0,12}:((user|assumed-role)/)?[a-zA-Z/:]{0,20}";
    let arn = option::of(prop_oneof![arn, text()]);
    let claims = strings(select(vec!["iss", "sub", "aud", "client_id"]).prop_map(str::to_owned), text());
    prop_oneof![
        Just(json!({})),
        (arn, option::of(cognito))
            .prop_map(|(arn, cognito)| json!({ "iam": { "userArn": arn, "cognitoIdentity": cognito } })),
        (claims, option::of(vec(text(), 0..3)))
            .prop_map(|(claims, scopes)| json!({ "jwt": { "claims": claims, "scopes": scopes } })),
        option::of(strings(text(), text())).prop_map(|context| json!({ "lambda": context })),
    ]
}
