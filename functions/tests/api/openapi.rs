//! `openapi.yaml` against the binaries: every example in it is what a function takes or answers, to the letter.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::Regex;
use serde_json::{Value, json};
use shared::roles::Access;
use testkit::{Answer, Database, Event, Greeting, Proxy};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    support::{endpoints, pascal_case, start, start_at, start_with_database_down, user, with_alice},
    wiring::read,
};

/// An example of an answer: operation, status, the example's name.
type Example = (&'static str, u16, &'static str);

#[test]
fn every_example_of_an_answer_is_an_answer() {
    let contract = contract();
    let mut described: BTreeMap<_, _> = described_answers(&contract);
    for &((operation, status, name), ref answer) in ANSWERS.iter() {
        let example = (operation.to_owned(), status.to_string(), name.to_owned());
        let body = described.remove(&example).unwrap_or_else(|| panic!("{example:?} is not described"));
        let mut found = if answer.body.is_empty() { Value::Null } else { answer.json() };
        if let Some(id) = body.get("requestId") {
            // The one member that no two answers share.
            assert_eq!(found["requestId"], answer.request_id, "{example:?}");
            found["requestId"] = id.clone();
        }
        assert_eq!(answer.status, status, "{example:?}: {answer:?}");
        assert_eq!(found, body, "{example:?}");
    }
    assert!(described.is_empty(), "no test gets these answers: {described:#?}");
}

#[test]
fn an_answer_has_the_headers_that_are_described_and_no_others() {
    let contract = contract();
    let mut seen = BTreeSet::new();
    for &((operation, status, name), ref answer) in ANSWERS.iter() {
        let response = &operations(&contract)[operation]["responses"][status.to_string()];
        let response = resolved(&contract, response);
        let types: Vec<_> =
            response["content"].as_object().into_iter().flat_map(|types| types.keys()).collect();
        assert_eq!(
            answer.header("content-type").into_iter().collect::<Vec<_>>(),
            types,
            "{operation} {status} {name}"
        );
        for (header, value) in &answer.headers {
            if header == "content-type" {
                continue;
            }
            let headers = response["headers"].as_object().into_iter().flatten();
            let described = headers.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(header));
            let (known, described) =
                described.unwrap_or_else(|| panic!("{operation} {status} {name}: {header} is not described"));
            seen.insert((operation.to_owned(), status.to_string(), known.clone()));
            let described = resolved(&contract, described);
            for exact in [&described["schema"]["const"], &response["headers"][known]["example"]] {
                assert!(
                    exact.is_null() || exact == value,
                    "{operation} {status} {name}: {header} is {value}"
                );
            }
        }
    }
    let described: BTreeSet<_> = operations(&contract)
        .iter()
        .flat_map(|(operation, it)| {
            let responses = it["responses"].as_object().into_iter().flatten();
            responses.flat_map(|(status, response)| {
                let headers =
                    resolved(&contract, response)["headers"].as_object().cloned().unwrap_or_default();
                headers
                    .into_iter()
                    .map(|(header, _)| (operation.clone(), status.clone(), header))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    assert_eq!(seen, described);
}

#[test]
fn every_example_of_a_body_is_taken() {
    let contract = contract();
    for endpoint in endpoints() {
        let binary = endpoint.binary;
        let operation = &operations(&contract)[operation_of(binary).as_str()];
        let content =
            &resolved(&contract, &operation["requestBody"])["content"]["application/json"]["examples"];
        let examples = content.as_object().into_iter().flatten();
        assert_eq!(examples.clone().count() > 0, endpoint.has_body(), "{binary}");
        for (_, example) in examples {
            let event = endpoint.event.clone().body(&example["value"].to_string());
            let answer = start(binary, &with_alice()).invoke(event);
            assert_eq!(answer.status, endpoint.success, "{binary} {example}: {answer:?}");
        }
    }
}

#[test]
fn every_status_of_the_contract_is_described_for_the_operations_that_have_it() {
    let contract = contract();
    for endpoint in endpoints() {
        let mut expected = BTreeSet::from([endpoint.success, 400, 412, 500, 503]);
        expected.extend(endpoint.has_id().then_some(404));
        expected.extend(endpoint.has_body().then_some([413, 415]).into_iter().flatten());
        expected.extend(match endpoint.access {
            Access::Read => Some(304),
            Access::Create => Some(422),
            Access::Update | Access::Delete => None,
        });
        let operation = &operations(&contract)[&operation_of(endpoint.binary)];
        let described = operation["responses"].as_object().into_iter().flatten();
        let described = described.map(|(status, _)| status.parse().expect("a status")).collect();
        assert_eq!(expected, described, "{}", endpoint.binary);
    }
}

#[test]
fn every_pattern_is_understood_and_means_the_same_wherever_clients_are_generated() {
    let contract = contract();
    let schemas = &contract["components"]["schemas"];
    let key = &operations(&contract)["createUser"]["parameters"][0]["schema"];
    // `cargo xtask check` tries them in JavaScript and PCRE2; this crate is close to RE2.
    let mut compiled = BTreeMap::new();
    for pattern in patterns(&contract) {
        let regex = Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        // Some generators write a literal in which these become the characters themselves.
        assert!(!pattern.contains("\\u") && !pattern.contains("\\p"), "{pattern}");
        compiled.insert(pattern, regex);
    }
    let tags = &schemas["EntityTags"];
    for (schema, right, wrong) in [
        (
            &schemas["NewUser"]["properties"]["name"],
            &["A", " A ", "Zoë 李 🦀", "A\u{2028}B", "\u{a0}A", "O'Brien \"x\" \\ /"] as &[&str],
            &["", " ", "A\tB", "A\nB", "A\0", "A\u{7f}"] as &[&str],
        ),
        (
            key,
            &["8e03", "\"8e03\"", "\"order 17\"", r#""a\"b""#],
            &["", "\"\"", "\"", "\"a", "a b", "ä", "\"a\"b "],
        ),
        (
            tags,
            &["*", "\"a\"", "W/\"a\", \"ä\"", ",\"\",\t\"a\","],
            &["", "a", "\"a\" \"b\"", "*, \"a\"", "w/\"a\""],
        ),
    ] {
        let regex = &compiled[schema["pattern"].as_str().expect("a pattern")];
        for text in right {
            assert!(regex.is_match(text), "{regex}: {text:?}");
        }
        for text in wrong {
            assert!(!regex.is_match(text), "{regex}: {text:?}");
        }
    }
    assert_eq!(compiled.len(), 5, "those of the answers are tried by their examples");
    for header in
        operations(&contract).values().flat_map(|it| it["responses"].as_object().into_iter().flatten())
    {
        for (name, header) in resolved(&contract, header.1)["headers"].as_object().into_iter().flatten() {
            let header = resolved(&contract, header);
            if let Some(pattern) = header["schema"]["pattern"].as_str() {
                let example = header["example"].as_str().unwrap_or_else(|| panic!("{name} has no example"));
                assert!(compiled[pattern].is_match(example), "{pattern}: {example}");
            }
        }
    }
}

/// All patterns of schemas, wherever they are.
fn patterns(node: &Value) -> Vec<&str> {
    match node {
        Value::Object(members) => members
            .iter()
            .flat_map(
                |(name, it)| if name == "pattern" { it.as_str().into_iter().collect() } else { patterns(it) },
            )
            .collect(),
        Value::Array(items) => items.iter().flat_map(patterns).collect(),
        _ => Vec::new(),
    }
}

/// Each described example with an answer that a function really gives.
static ANSWERS: LazyLock<Vec<(Example, Answer)>> = LazyLock::new(answers);

fn answers() -> Vec<(Example, Answer)> {
    let mut answers = Vec::new();
    for endpoint in endpoints() {
        let (binary, event) = (endpoint.binary, &endpoint.event);
        let operation: &'static str = operation_of(binary).leak();
        let mut add = |status, name, answer| answers.push(((operation, status, name), answer));
        let ask = |event| start(binary, &with_alice()).invoke(event);
        add(500, "failure", start_at(binary, "nonsense").invoke(event.clone()));
        add(503, "unavailable", start_with_database_down(binary).invoke(event.clone()));
        let with_body = |body: Value| event.clone().body(&body.to_string());
        let alice = || with_body(user("Alice", 30));
        if endpoint.has_body() {
            let bare = || event.clone().without_body();
            add(413, "tooLarge", ask(bare().body(&" ".repeat(16 * 1024 + 1))));
            add(415, "notJson", ask(bare().header("content-type", "text/plain").body("{}")));
            add(415, "compressed", ask(bare().header("content-encoding", "gzip").bytes(&[0x1f, 0x8b])));
        }
        if endpoint.has_body() && endpoint.table == "users" {
            add(400, "missingMember", ask(with_body(json!({ "name": "Alice" }))));
            add(400, "outOfRange", ask(with_body(user("Alice", 151))));
            let database = Database::in_encoding("LATIN1");
            add(400, "encoding", start(binary, &database).invoke(with_body(user("李", 30))));
        }
        let other_tag = event.clone().header("if-match", "\"abc\"");
        add(412, "refused", ask(other_tag));
        if endpoint.has_id() {
            add(400, "ifMatch", ask(event.clone().header("if-match", "abc")));
            add(400, "ifNoneMatch", ask(event.clone().header("if-none-match", "abc")));
            add(404, "notFound", start(binary, &Database::new()).invoke(event.clone()));
        }
        if endpoint.has_id() && endpoint.writes() {
            let (database, proxy) = (with_alice(), Proxy::new());
            let tag = start("get-user", &database).invoke(Event::get("/api/users/1"));
            let tag = tag.header("etag").expect("an ETag").to_owned();
            let write = start_at(binary, &database.url_via(&proxy));
            write.wait_for_init();
            proxy.lose_next_answer();
            add(503, "unknownOutcome", write.invoke(event.clone().header("if-match", &tag)));
        }
        match binary {
            "list-users" => {
                let list = |rows: &str| {
                    let database = Database::new();
                    database.execute(rows);
                    start(binary, &database).invoke(Event::get("/api/users").query("limit=2"))
                };
                let rows = "INSERT INTO users (name, age) VALUES ('Alice', 30), (NULL, NULL), ('Carol', 52)";
                add(200, "users", list(rows));
                add(200, "none", list(""));
                add(304, "", ask(event.clone().header("if-none-match", "*")));
                add(400, "limit", ask(Event::get("/api/users").query("limit=0")));
            }
            "create-user" => {
                let database = Database::new();
                let create = start(binary, &database);
                add(201, "created", create.invoke(alice()));
                let keyed = |age| with_body(user("Alice", age)).header("idempotency-key", "k");
                create.invoke(keyed(30));
                add(422, "keyReused", create.invoke(keyed(31)));
                add(400, "idempotencyKey", ask(alice().header("idempotency-key", "two words")));
                let proxy = Proxy::new();
                let create = start_at(binary, &database.url_via(&proxy));
                create.wait_for_init();
                proxy.greet(Greeting::Hangup);
                proxy.lose_next_answer();
                add(503, "unknownOutcome", create.invoke(alice()));
            }
            "get-user" => {
                let database = with_alice();
                let get = start(binary, &database);
                let answer = get.invoke(event.clone());
                let tag = answer.header("etag").expect("an ETag").to_owned();
                add(200, "user", answer);
                add(304, "", get.invoke(event.clone().header("if-none-match", &tag)));
            }
            "update-user" => add(200, "updated", ask(with_body(user("Alice Updated", 31)))),
            "delete-user" => add(200, "deleted", ask(event.clone())),
            // Whatever else the contract describes is found missing.
            _ => {}
        }
    }
    answers
}

/// `create-user` is `createUser`.
fn operation_of(binary: &str) -> String {
    let name = pascal_case(binary);
    name[..1].to_lowercase() + &name[1..]
}

/// `openapi.yaml`.
pub(crate) fn contract() -> Value {
    let documents = YamlLoader::load_from_str(&read("openapi.yaml")).expect("openapi.yaml is YAML");
    to_json(&documents[0])
}

/// The operations by their ids.
fn operations(contract: &Value) -> BTreeMap<String, &Value> {
    let paths = contract["paths"].as_object().into_iter().flat_map(|paths| paths.values());
    let members = paths.flat_map(|path| path.as_object().into_iter().flatten());
    members.filter_map(|(_, it)| Some((it.get("operationId")?.as_str()?.to_owned(), it))).collect()
}

/// All examples of answers, with their bodies; one of an answer that has none is nameless.
fn described_answers(contract: &Value) -> BTreeMap<(String, String, String), Value> {
    let mut described = BTreeMap::new();
    for (operation, it) in operations(contract) {
        for (status, response) in it["responses"].as_object().into_iter().flatten() {
            let response = resolved(contract, response);
            let Some(content) = response["content"].as_object() else {
                described.insert((operation.clone(), status.clone(), String::new()), Value::Null);
                continue;
            };
            for (name, example) in
                content.values().flat_map(|it| it["examples"].as_object().into_iter().flatten())
            {
                let body = resolved(contract, example)["value"].clone();
                described.insert((operation.clone(), status.clone(), name.clone()), body);
            }
        }
    }
    described
}

/// What a `$ref` refers to; anything else itself.
fn resolved<'a>(contract: &'a Value, node: &'a Value) -> &'a Value {
    match node["$ref"].as_str() {
        Some(pointer) => contract
            .pointer(pointer.trim_start_matches('#'))
            .unwrap_or_else(|| panic!("nothing at {pointer}")),
        None => node,
    }
}

fn to_json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Hash(members) => members
            .iter()
            .map(|(name, it)| (name.as_str().unwrap_or_default().to_owned(), to_json(it)))
            .collect(),
        Yaml::Array(items) => items.iter().map(to_json).collect(),
        Yaml::String(text) => json!(text),
        Yaml::Integer(number) => json!(number),
        Yaml::Boolean(truth) => json!(truth),
        Yaml::Null => Value::Null,
        other => panic!("not expected in openapi.yaml: {other:?}"),
    }
}
