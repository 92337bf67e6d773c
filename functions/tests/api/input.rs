//! What a client sends: ids, bodies, Content-Types, sizes. The same rules for every endpoint that takes them, and
//! all of them are checked before the database is touched: here it is down, unless something is stored.

use serde_json::{Value, json};
use testkit::{Database, Event, Function};

use crate::support::{
    assert_faults, assert_not_found, assert_problem, assert_success, rows, start, start_with_database_down,
    user, with_id, writers,
};

const JSON: &str = "application/json";

#[test]
fn what_is_no_id_is_404() {
    let functions = with_id("1").into_iter().map(|(binary, _)| start_with_database_down(binary));
    let functions: Vec<_> = functions.collect();
    for id in [
        "",
        "0",
        "-1",
        "+1",
        "%2B1",
        "01",
        "007",
        "00",
        "-0",
        "1.0",
        "1e3",
        "0x10",
        "1_000",
        "1,2",
        "abc",
        "null",
        "%20",
        "1%20",
        "%201",
        "1%0A",
        "1%00",
        "%00",
        "7%2F8",
        "1;2",
        "1%27",
        "%EF%BC%97",
        "%D9%A3",
        "%ff",
        "%F0%9F%A6%80",
        "9223372036854775808",
        "10000000000000000000",
        "18446744073709551617",
        "99999999999999999999",
        "-9223372036854775808",
        "000000000000000000001",
        "1000000000000000000000000000000000000000",
    ] {
        for (function, (binary, event)) in functions.iter().zip(with_id(id)) {
            let answer = function.invoke(event);
            assert_eq!(answer.status, 404, "{binary} {id}: {answer:?}");
            assert_not_found(&answer);
        }
    }
}

#[test]
fn an_id_that_is_still_percent_encoded_is_404() {
    // API Gateway decodes path parameters, so this was %2537 on the wire.
    for (binary, event) in with_id("%2537") {
        let mut event = Value::from(event);
        assert_eq!(event["pathParameters"]["id"], "%37");
        assert_not_found(&start_with_database_down(binary).invoke(event.take()));
    }
}

#[test]
fn a_name_of_100_four_byte_characters_is_stored_and_read_back() {
    let database = Database::new();
    let name = "🦀".repeat(100);
    let expected = json!({ "id": 1, "name": name, "age": 30 });
    let get = start("get-user", &database);
    for (binary, event) in writers() {
        let answer = start(binary, &database).invoke(event.json(&user(&name, 30)));
        assert_success(&answer, if binary == "create-user" { 201 } else { 200 }, &expected);
        assert_success(&get.invoke(Event::get("/api/users/1")), 200, &expected);
        assert_eq!(rows(&database), [(1, Some(name.clone()), Some(30))]);
        database.execute("UPDATE users SET name = NULL");
    }
}

#[test]
fn a_name_is_kept_as_it_is() {
    for (binary, event) in writers() {
        let database = with_user_1();
        let write = start(binary, &database);
        for name in [
            "A",
            " Alice",
            "Alice   ",
            "\u{3000}Alice\u{a0}",
            // To the full length with spaces, which PostgreSQL would cut off had they been more.
            &format!("A{}", " ".repeat(99)),
            "O'Brien \"the\" \\ {} $1 %s ;--",
            "Zoë 李 العربية 👩‍🔬",
            // Not normalized: e and a combining accent.
            "Zoe\u{301}",
            "\u{ffff}\u{10ffff}\u{fffd}",
            "<script>alert(1)</script>",
            "null",
        ] {
            let answer = write.invoke(event.clone().json(&user(name, 30)));
            assert!(answer.status < 300, "{binary} {name:?}: {answer:?}");
            assert_eq!(answer.json()["name"], name);
            let stored = rows(&database).pop();
            let id = answer.json()["id"].as_i64().expect("an id");
            assert_eq!(stored, Some((id, Some(name.to_owned()), Some(30))));
        }
    }
}

#[test]
fn escapes_in_a_name_are_decoded() {
    let database = with_user_1();
    for (binary, event) in writers() {
        let body = r#"{ "n\u0061me": "\u0041lice \ud83e\udd80 \/ \"", "age": 30 }"#;
        let answer = start(binary, &database).invoke(event.header("content-type", JSON).body(body));
        assert_eq!(answer.json()["name"], "Alice 🦀 / \"", "{answer:?}");
    }
}

#[test]
fn a_bad_name_is_400() {
    let long = ["a".repeat(101), "🦀".repeat(101), format!("A{}", " ".repeat(100)), "a".repeat(10_000)];
    let mut names =
        vec![json!(null), json!(42), json!(1.5), json!(true), json!([]), json!({}), json!(["Alice"])];
    names.extend(long.into_iter().map(Value::from));
    names.extend(
        [
            "",
            " ",
            "   ",
            "\u{a0}",
            "\u{3000}",
            "\u{2003}\u{2009}",
            "\u{1680}",
            "\u{2028}\u{2029}",
            "\u{0}",
            "A\u{0}",
            "\u{0}A",
            "A\tB",
            "A\nB",
            "A\r",
            "\u{1b}[31m",
            "A\u{1f}",
            "A\u{7f}",
            "A\u{80}",
            "A\u{85}B",
            "A\u{9f}",
            "\t",
            "\u{85}",
        ]
        .map(Value::from),
    );
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for name in &names {
            let answer = write.invoke(event.clone().json(&json!({ "name": name, "age": 30 })));
            assert_eq!(answer.status, 400, "{binary} {name:?}: {answer:?}");
            assert_faults(&answer, "Invalid input", &["#/name"]);
        }
    }
}

#[test]
fn an_age_is_0_to_150() {
    for (binary, event) in writers() {
        let database = with_user_1();
        let write = start(binary, &database);
        for age in [0, 1, 30, 149, 150] {
            let answer = write.invoke(event.clone().json(&user("Alice", age)));
            assert!(answer.status < 300, "{binary} {age}: {answer:?}");
            assert_eq!(answer.json()["age"], age);
            assert_eq!(rows(&database).pop().and_then(|row| row.2), Some(age));
        }
    }
}

#[test]
fn a_bad_age_is_400() {
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for age in [
            "-1",
            "151",
            "30.0",
            "30.5",
            "0.0",
            "3e1",
            "3E1",
            "3e+1",
            "300e-1",
            "1e2",
            r#""30""#,
            r#""""#,
            "true",
            "false",
            "null",
            "[]",
            "{}",
            "[30]",
            r#"{"age":30}"#,
            "-2147483649",
            "2147483648",
            "4294967326",
            "-4294967266",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "18446744073709551646",
            "-9223372036854775809",
            "99999999999999999999999999999999999999999",
        ] {
            let body = format!(r#"{{"name": "Alice", "age": {age}}}"#);
            let answer = write.invoke(event.clone().header("content-type", JSON).body(&body));
            assert_eq!(answer.status, 400, "{binary} {age}: {answer:?}");
            assert_faults(&answer, "Invalid input", &["#/age"]);
            assert_eq!(answer.json()["errors"][0]["detail"], "must be an integer from 0 to 150", "{age}");
        }
    }
}

#[test]
fn a_missing_member_is_named_in_the_guides_words() {
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for (body, pointers) in [
            ("{}", &["#/age", "#/name"] as &[_]),
            (r#"{"id": 7}"#, &["#/age", "#/name"]),
            (r#"{"name": "Alice"}"#, &["#/age"]),
            (r#"{"age": 30}"#, &["#/name"]),
            (r#"{"Name": "Alice", "AGE": 30}"#, &["#/age", "#/name"]),
            (r#"{"user": {"name": "Alice", "age": 30}}"#, &["#/age", "#/name"]),
            // Every fault, not just the missing one.
            (r#"{"name": ""}"#, &["#/age", "#/name"]),
            (r#"{"age": -1}"#, &["#/age", "#/name"]),
        ] {
            let answer = write.invoke(event.clone().header("content-type", JSON).body(body));
            assert_faults(&answer, "Missing required fields", pointers);
        }
    }
}

#[test]
fn every_fault_is_listed_not_just_the_first() {
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for body in [
            json!({ "name": "", "age": -1 }),
            json!({ "name": null, "age": null }),
            json!({ "age": "30", "name": 42 }),
            json!({ "name": ["Alice"], "age": 1.5 }),
        ] {
            assert_faults(&write.invoke(event.clone().json(&body)), "Invalid input", &["#/age", "#/name"]);
        }
    }
}

#[test]
fn a_member_that_is_given_twice_is_400() {
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for (body, pointers) in [
            (r#"{"name": "Alice", "name": "Bob", "age": 30}"#, ["#/name"]),
            (r#"{"name": "Alice", "name": "Alice", "age": 30}"#, ["#/name"]),
            (r#"{"name": "Alice", "n\u0061me": "Bob", "age": 30}"#, ["#/name"]),
            (r#"{"name": "Alice", "age": 30, "name": null}"#, ["#/name"]),
            (r#"{"age": 30, "name": "Alice", "age": 31}"#, ["#/age"]),
            (r#"{"age": null, "name": "Alice", "age": 31}"#, ["#/age"]),
            (r#"{"age": 31, "age": 31, "age": 31, "name": "Alice"}"#, ["#/age"]),
        ] {
            let answer = write.invoke(event.clone().header("content-type", JSON).body(body));
            assert_eq!(answer.status, 400, "{binary} {body}: {answer:?}");
            assert_faults(&answer, "Invalid input", &pointers);
        }
    }
}

#[test]
fn what_is_not_a_json_object_is_400() {
    let user = r#"{"name": "Alice", "age": 30}"#;
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let bodies = [
        "",
        " ",
        "{",
        "}",
        r#"{"name": "Alice", "age": 30"#,
        r#"{"name": "Alice", "age": 30}}"#,
        r#"{"name": "Alice", "age": 30} trailing"#,
        r#"{"name": "Alice", "age": 30}{"name": "Alice", "age": 30}"#,
        r#"{"name": "Alice", "age": 30},"#,
        "{\"name\": \"Alice\", \"age\": 30}\0",
        r#"{"name": "Alice", "age": 30,}"#,
        r#"{"name": "Alice" "age": 30}"#,
        r#"{"name": "Alice", "age": }"#,
        r#"{"name": "Alice", "age": 030}"#,
        r#"{"name": "Alice", "age": +30}"#,
        r#"{"name": "Alice", "age": .5}"#,
        r#"{"name": "Alice", "age": NaN}"#,
        r#"{"name": "Alice", "age": 1e400}"#,
        r#"{"name": "Alice", "age": 30, "more": 1e400}"#,
        r#"{"name": "Alice", "age": 30, "more": nul}"#,
        r#"{"name": "Alice", "age": 30, "more": "\x"}"#,
        r#"{"name": "Alice, "age": 30}"#,
        r#"{name: "Alice", age: 30}"#,
        r"{'name': 'Alice', 'age': 30}",
        "{\"name\": \"Al\nice\", \"age\": 30}",
        r#"{"name": "\ud83e", "age": 30}"#,
        r#"{"name": "\udd80\ud83e", "age": 30}"#,
        r#"{"name": "\x41lice", "age": 30}"#,
        r#"{"name": "Alice", "age": 30 /* years */}"#,
        "name=Alice&age=30",
        "name: Alice\nage: 30",
        r#"["Alice", 30]"#,
        r#"[{"name": "Alice", "age": 30}]"#,
        "[]",
        "null",
        "true",
        "42",
        r#""Alice""#,
        r#""{\"name\": \"Alice\", \"age\": 30}""#,
        &nested(8000),
        &user.replace('}', &format!(r#", "more": {}}}"#, nested(8000))),
        &user.replace('}', &format!(r#", "more": {}1{}}}"#, r#"{"a":"#.repeat(2000), "}".repeat(2000))),
    ];
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for body in bodies {
            let answer = write.invoke(event.clone().header("content-type", JSON).body(body));
            assert_eq!(answer.status, 400, "{binary} {body}: {answer:?}");
            // What was sent stays out of the answer.
            assert!(!answer.body.contains("Alice"), "{body}: {}", answer.body);
            assert_problem(&answer, 400, "Bad Request", "Invalid input");
            if serde_json::from_str::<Value>(body).is_ok() {
                assert_eq!(answer.json()["errors"][0]["detail"], "must be a JSON object", "{body}");
            }
        }
        assert_problem(&write.invoke(event), 400, "Bad Request", "Invalid input");
    }
}

#[test]
fn what_is_not_utf8_is_400_also_in_an_ignored_member() {
    let bodies: [&[u8]; 8] = [
        b"{\"name\": \"Al\xffice\", \"age\": 30}",
        b"{\"name\": \"Zo\xeb\", \"age\": 30}",
        b"{\"name\": \"\xc0\xaf\", \"age\": 30}",
        b"{\"name\": \"\xed\xa0\x80\", \"age\": 30}",
        b"{\"name\": \"Alice\", \"age\": 30, \"more\": \"\xff\"}",
        b"{\"name\": \"Alice\", \"age\": 30, \"\xff\": 1}",
        b"{\"name\": \"Alice\", \"age\": 30, \"more\": [{\"x\": \"\xc3(\"}]}",
        b"\xff\xfe{\0}\0",
    ];
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for body in bodies {
            let answer = write.invoke(event.clone().header("content-type", JSON).bytes(body));
            assert_problem(&answer, 400, "Bad Request", "Invalid input");
        }
    }
}

#[test]
fn other_members_are_ignored() {
    let database = with_user_1();
    for (binary, event) in writers() {
        let write = start(binary, &database);
        for more in [
            r#""id": 99"#,
            r#""id": null, "email": "alice@example.com""#,
            r#""Name": "Bob", "AGE": 31, "name ": "Carol", "": 1"#,
            r#""more": {"name": 1, "age": "x", "list": [1.5, null, {"name": []}]}"#,
            r#""more": 1, "more": 2"#,
            &format!(r#""more": {}{}"#, "[".repeat(50), "]".repeat(50)),
        ] {
            let body = format!(r#"{{{more}, "name": "Alice", "age": 30}}"#);
            let answer = write.invoke(event.clone().header("content-type", JSON).body(&body));
            assert!(answer.status < 300, "{binary} {body}: {answer:?}");
            let members: Vec<String> =
                answer.json().as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
            assert_eq!(members.len(), 3, "{members:?}");
            assert_eq!(answer.json()["name"], "Alice");
            assert_eq!(answer.json()["age"], 30);
        }
    }
}

#[test]
fn a_body_of_16_kib_is_taken_and_one_byte_more_is_413() {
    let database = with_user_1();
    for (binary, event) in writers() {
        let (write, without_database) = (start(binary, &database), start_with_database_down(binary));
        let event = event.header("content-type", JSON);

        for filler in [b' ', b'x'] {
            let (fits, exceeds) = (body_of(16_384, filler), body_of(16_385, filler));
            for taken in [event.clone().body(&fits), event.clone().bytes(fits.as_bytes())] {
                let answer = write.invoke(taken);
                assert!(answer.status < 300, "{binary}: {answer:?}");
            }
            for refused in [event.clone().body(&exceeds), event.clone().bytes(exceeds.as_bytes())] {
                assert_too_large(&without_database, refused);
            }
        }
    }
}

#[test]
fn bytes_are_counted_not_characters_and_before_the_body_is_parsed() {
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        let event = event.header("content-type", JSON);
        // 4,100 characters, 16,400 bytes.
        assert_too_large(&write, event.clone().body(&"🦀".repeat(4_100)));
        assert_too_large(&write, event.clone().bytes("🦀".repeat(4_100).as_bytes()));
        assert_too_large(&write, event.clone().bytes(&[0xff; 16_385]));
        assert_too_large(&write, event.clone().body(&"[".repeat(1_000_000)));
        // Below the limit it is just not JSON.
        assert_eq!(write.invoke(event.body(&"🦀".repeat(4_096))).status, 400);
    }
}

#[test]
fn another_content_type_is_415() {
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for content_type in [
            "text/plain",
            "text/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "application/octet-stream",
            "application/problem+json",
            "application/merge-patch+json",
            "application/jsonx",
            "xapplication/json",
            "application/json2; charset=utf-8",
            "text/plain; application/json",
            "application / json",
            "*/*",
            "json",
            "",
        ] {
            let body = user("Alice", 30).to_string();
            let answer = write.invoke(event.clone().header("content-type", content_type).body(&body));
            assert_eq!(answer.status, 415, "{binary} {content_type:?}: {answer:?}");
            let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
            assert!(!error.is_empty());
            assert_problem(&answer, 415, "Unsupported Media Type", &error);
        }
    }
}

#[test]
fn json_with_parameters_in_any_case_or_without_a_content_type_is_taken() {
    let database = with_user_1();
    for (binary, event) in writers() {
        let write = start(binary, &database);
        let body = user("Alice", 30).to_string();
        for content_type in [
            "application/json",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            "application/json ; charset=\"utf-8\"",
            "APPLICATION/JSON",
            "Application/Json; Charset=UTF-8",
            "application/json;",
        ] {
            let event = event.clone().header("Content-Type", content_type);
            for event in [event.clone().body(&body), event.bytes(body.as_bytes())] {
                let answer = write.invoke(event);
                assert!(answer.status < 300, "{binary} {content_type}: {answer:?}");
            }
        }
        for event in [event.clone().body(&body), event.bytes(body.as_bytes())] {
            let answer = write.invoke(event);
            assert!(answer.status < 300, "{binary} without a Content-Type: {answer:?}");
        }
    }
}

/// A database in which `PUT /api/users/1` finds its user.
fn with_user_1() -> Database {
    let database = Database::new();
    database.execute("INSERT INTO users (name, age) VALUES ('Somebody', 99)");
    database
}

/// A valid body of a length in bytes: filled up with spaces, or with a member that is ignored.
fn body_of(length: usize, filler: u8) -> String {
    let (start, end) = if filler == b' ' {
        (r#"{"name": "Alice", "age": 30"#, "}")
    } else {
        (r#"{"name": "Alice", "age": 30, "more": ""#, r#""}"#)
    };
    let filling = char::from(filler).to_string().repeat(length - start.len() - end.len());
    format!("{start}{filling}{end}")
}

fn assert_too_large(function: &Function, event: Event) {
    let answer = function.invoke(event);
    let body = answer.json();
    // "Payload Too Large" until RFC 9110.
    let title = body["title"].as_str().unwrap_or_default();
    assert!(["Content Too Large", "Payload Too Large"].contains(&title), "{answer:?}");
    let error = body["error"].as_str().unwrap_or_default();
    assert!(!error.is_empty(), "{body}");
    assert_problem(&answer, 413, title, error);
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let database = with_user_1();
    for (binary, event) in writers() {
        let write = start(binary, &database);
        let body = format!("\u{feff}{}", user("Alice", 30));
        for event in [event.clone().header("content-type", JSON), event.clone()] {
            for event in [event.clone().body(&body), event.bytes(body.as_bytes())] {
                let answer = write.invoke(event);
                assert!(answer.status < 300, "{binary}: {answer:?}");
                assert_eq!(answer.json()["name"], "Alice");
            }
        }
        // Elsewhere it is a character like others.
        let answer = write.invoke(event.clone().json(&user("\u{feff}Alice", 30)));
        assert_eq!(answer.json()["name"], "\u{feff}Alice", "{answer:?}");
        for wrong in ["\u{feff}", "\u{feff}\u{feff}{}", " \u{feff}{}", "{}\u{feff}"] {
            let answer = write.invoke(event.clone().header("content-type", JSON).body(wrong));
            assert_problem(&answer, 400, "Bad Request", "Invalid input");
        }
    }
}

/// `{"name": "Alice", "age": 30}`, as gzip makes it.
const COMPRESSED: [u8; 45] = [
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 202, 75, 204, 77, 85, 178, 82, 80, 114, 204, 201, 76, 78, 85,
    210, 81, 80, 74, 76, 7, 241, 141, 13, 106, 1, 194, 98, 138, 61, 28, 0, 0, 0,
];

#[test]
fn a_compressed_body_is_415() {
    for (binary, event) in writers() {
        let write = start_with_database_down(binary);
        for encoding in
            ["gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "aws-chunked", "gzip, br", "identity, gzip"]
        {
            for (body, of) in
                [(&COMPRESSED as &[u8], "gzip"), (b"", "none"), (b"{", "half"), (b"\x78\x9c\x03\0", "zlib")]
            {
                for event in [event.clone().header("content-type", JSON), event.clone()] {
                    let answer = write.invoke(event.header("content-encoding", encoding).bytes(body));
                    assert_eq!(answer.status, 415, "{binary} {encoding} {of}: {answer:?}");
                    let error = "Content-Encoding must be identity";
                    assert_problem(&answer, 415, "Unsupported Media Type", error);
                }
            }
        }
        // Without the header it is just not JSON.
        for event in [event.clone(), event.clone().header("content-encoding", "identity")] {
            let answer = write.invoke(event.header("content-type", JSON).bytes(&COMPRESSED));
            assert_problem(&answer, 400, "Bad Request", "Invalid input");
        }
        assert_too_large(&write, event.header("content-encoding", "gzip").bytes(&[31; 16_385]));
    }
}

#[test]
fn what_is_json_as_it_stands_is_taken_whatever_its_encoding_is_said_to_be() {
    let database = with_user_1();
    for (binary, event) in writers() {
        let (write, without_database) = (start(binary, &database), start_with_database_down(binary));
        for encoding in ["identity", "Identity", "gzip", "aws-chunked", "utf-8"] {
            let event = event.clone().header("content-encoding", encoding);
            let answer = write.invoke(event.clone().json(&user("Alice", 30)));
            assert!(answer.status < 300, "{binary} {encoding}: {answer:?}");
            // As JSON it is judged.
            assert_faults(
                &without_database.invoke(event.json(&user("Alice", -1))),
                "Invalid input",
                &["#/age"],
            );
        }
    }
}

#[test]
fn a_name_that_the_databases_encoding_can_not_hold_is_400_and_not_logged() {
    for (encoding, name, held) in [
        ("LATIN1", "🦀", "Zoë"),
        ("WIN1252", "李", "Zoë"),
        ("EUC_JP", "🦀", "李"),
        // It takes bytes for characters, of which these are 120.
        ("SQL_ASCII", &"é".repeat(60), "Zoë 🦀"),
    ] {
        let database = Database::in_encoding(encoding);
        database.execute("INSERT INTO users (name, age) VALUES ('Somebody', 99)");
        let etag = start("get-user", &database).invoke(Event::get("/api/users/1"));
        let etag = etag.header("etag").expect("an ETag").to_owned();
        for (binary, event) in writers() {
            let write = start(binary, &database);
            let keyed = |event: Event| event.header("idempotency-key", "k");
            for event in [
                event.clone(),
                keyed(event.clone()),
                event.clone().header("if-none-match", "\"x\""),
                event.clone().header("if-match", if binary == "update-user" { &etag } else { "*" }),
            ] {
                let answer = write.invoke(event.json(&user(name, 30)));
                assert_eq!(answer.status, 400, "{encoding} {binary}: {answer:?}");
                assert_faults(&answer, "Invalid input", &["#/name"]);
                let detail = "can't be stored in the database's encoding";
                assert_eq!(answer.json()["errors"][0]["detail"], detail, "{encoding} {binary}");
                assert!(answer.log.is_empty(), "{answer:?}");
            }
            assert_eq!(rows(&database), [(1, Some("Somebody".to_owned()), Some(99))], "{encoding} {binary}");
            // The key was not used up.
            let answer = write.invoke(keyed(event).json(&user(held, 30)));
            assert!(answer.status < 300, "{encoding} {binary}: {answer:?}");
            assert_eq!(answer.json()["name"], held);
            database.execute("DELETE FROM users WHERE id > 1; UPDATE users SET name = 'Somebody', age = 99");
        }
    }
}

#[test]
fn a_tag_that_the_databases_encoding_can_not_hold_matches_nothing() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = Database::in_encoding(encoding);
        database.execute("INSERT INTO users (name, age) VALUES ('Alice', 30)");
        for (binary, event) in with_id("1") {
            let function = start(binary, &database);
            for tag in ["\"🦀\"", "\"李\", \"x\"", &format!("\"{}\"", "é".repeat(22))] {
                let answer = function.invoke(event.clone().header("if-match", tag));
                assert_eq!(answer.status, 412, "{encoding} {binary} {tag}: {answer:?}");
            }
            let answer = function.invoke(event.header("if-none-match", "\"🦀\""));
            assert_eq!(answer.status, 200, "{encoding} {binary}: {answer:?}");
        }
    }
}
