//! What an `Idempotency-Key` is, and how it is kept.

use postgres::Client;
use testkit::{Answer, Caller, Database, Event};

use crate::support::{assert_problem, rows, start, user};

fn post(key: &str) -> Event {
    Event::post("/api/users").json(&user("Alice", 30)).header("idempotency-key", key)
}

fn created(answer: &Answer) -> i64 {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_i64().expect("an id")
}

#[test]
fn a_key_in_quotes_is_the_key_without_them() {
    let database = Database::new();
    let create = start("create-user", &database);
    for (id, same) in (1..).zip([
        // As clients send it, and as the IETF draft wants it.
        &["8e03978e-40d5-43e8-bc93-6894a57f9324", "\"8e03978e-40d5-43e8-bc93-6894a57f9324\""] as &[&str],
        &["\"order 17\"", "\"order 17\""],
        &[r#"a"b\c"#, r#""a\"b\\c""#],
        &["a,b;c=1", "\"a,b;c=1\""],
        &["!", "\"!\""],
        &["~", "\"~\""],
        &[r"\", r#""\\""#],
    ]) {
        for key in same {
            let answer = create.invoke(post(key));
            assert_eq!(answer.status, 201, "{key}: {answer:?}");
            assert_eq!(created(&answer), id, "{key}");
        }
    }
}

#[test]
fn a_key_has_1_to_255_characters_whatever_it_takes_to_write_it() {
    let database = Database::new();
    let create = start("create-user", &database);
    for (id, key) in (1..).zip([
        "k".repeat(255),
        format!("\"{}\"", "q".repeat(255)),
        format!("\"{}\"", r#"\""#.repeat(255)),
        format!("\"{}\"", r"\\".repeat(255)),
        format!("\"a{}b\"", " ".repeat(253)),
    ]) {
        assert_eq!(created(&create.invoke(post(&key))), id, "{key}");
    }
}

#[test]
fn what_is_no_key_is_400_and_names_the_header() {
    let database = Database::new();
    let create = start("create-user", &database);
    for key in [
        "",
        "\"\"",
        "\"",
        "\"8e03",
        "\"8e03\\\"",
        "\"8e03\\",
        // With parameters, which say that it is meant as something else.
        "\"8e03\";a=1",
        "\"8e03\"; a",
        "\"8e03\" x",
        "\"8e03\"x",
        // Twice, or a list: API Gateway joins the lines of a header.
        "\"8e03\",\"8e04\"",
        "\"8e03\", \"8e03\"",
        "8e03, 8e03",
        "order 17",
        r#""a\b""#,
        "\"a\tb\"",
        "a\tb",
        "ä",
        "\"ä\"",
        &"k".repeat(256),
        &format!("\"{}\"", "k".repeat(256)),
        &format!("\"{}\"", r"\\".repeat(256)),
    ] {
        let answer = create.invoke(post(key));
        assert_eq!(answer.status, 400, "{key}: {answer:?}");
        assert_problem(&answer, 400, "Bad Request", "Invalid input");
        let errors = &answer.json()["errors"];
        assert_eq!(errors[0]["header"], "Idempotency-Key", "{key}");
        let rule = "must be 1 to 255 visible ASCII characters, or a string in quotes (RFC 9651)";
        assert_eq!(errors[0]["detail"], rule, "{key}");
    }
    assert_eq!(rows(&database), []);
}

#[test]
fn a_key_of_a_client_is_never_taken_for_the_id_of_an_invocation() {
    let database = Database::new();
    let create = start("create-user", &database);
    create.invoke_as("the-same", Event::post("/api/users").json(&user("Alice", 30)));
    let stored = stored(&mut database.client());
    for (id, key) in (2..).zip(["the-same", "invocation%20the-same", &stored[0], &stored[0][1..]]) {
        assert_eq!(created(&create.invoke(post(key))), id, "{key}");
    }
    assert_eq!(rows(&database).len(), 5);
}

#[test]
fn neither_a_key_nor_its_caller_is_kept_but_a_digest_of_both() {
    let database = Database::new();
    let create = start("create-user", &database);
    let caller = Caller::Iam("arn:aws:iam::123456789012:user/alice@example.com");
    for (key, caller) in [("8e03", Caller::Anybody), ("8e03", caller), ("alice@example.com", caller)] {
        created(&create.invoke(post(key).by(caller)));
    }
    create.invoke_as("8e03", Event::post("/api/users").json(&user("Alice", 30)));

    let mut client = database.client();
    let stored = stored(&mut client);
    assert_eq!(stored.len(), 4);
    for key in &stored {
        let digest = key.strip_prefix('c').or(key.strip_prefix('i')).unwrap_or_default();
        let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        assert!(digest.len() == 64 && digest.chars().all(hexadecimal), "{key}");
    }
    // Of nobody and the key, each with its length in front. By this form keys of all versions find each other.
    for (kind, key) in [("c", "8e03"), ("i", "8e03")] {
        let digest = "
            SELECT $1::text
                || encode(sha256(int8send(0) || int8send(length($2::text)) || convert_to($2, 'UTF8')), 'hex')";
        let digest = client.query_one(digest, &[&kind, &key]).expect("a digest").get::<_, String>(0);
        assert!(stored.contains(&digest), "{kind} {key}: {stored:?}");
    }
    let fingerprints = "SELECT count(DISTINCT fingerprint) FROM idempotency_keys";
    let fingerprints: i64 = client.query_one(fingerprints, &[]).expect("counting").get(0);
    assert_eq!(fingerprints, 1, "what was asked for is the same, whoever asked");
}

fn stored(client: &mut Client) -> Vec<String> {
    let keys = client.query("SELECT key FROM idempotency_keys ORDER BY created_id", &[]).expect("the keys");
    keys.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_twin_is_recognised_where_the_server_does_not_name_the_table() {
    let database = Database::new();
    database.execute(
        "CREATE SEQUENCE tries;
         CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             IF nextval('tries') = 1 THEN RAISE unique_violation; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER collide BEFORE INSERT ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION collide()",
    );
    let answer = start("create-user", &database).invoke(post("8e03"));
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(rows(&database).len(), 1);
}
