//! How old idempotency keys are deleted: by the function `migrate`, every hour a 24th of the clients' keys.

use std::time::Duration;

use postgres::Client;
use serde_json::{Value, json};
use shared::{
    Config,
    idempotency::{Slice, delete_old_keys},
};
use testkit::Database;

use crate::migrate::{by_hand, start_migrate};

/// How many keys an event has deleted, in an execution environment of its own.
fn delete(database: &Database, event: &Value) -> i64 {
    let result = by_hand(&start_migrate(&database.url(), &[]), event);
    let result = result.unwrap_or_else(|error| panic!("{event}: {error}"));
    assert_eq!(result.as_object().map(|members| members.len()), Some(1), "{result}");
    result["deleted"].as_i64().unwrap_or_else(|| panic!("{event}: {result}"))
}

fn of_slice(slice: i64) -> Value {
    json!({ "task": "delete-old-keys", "slice": slice })
}

fn count(client: &mut Client, condition: &str) -> i64 {
    let count = format!("SELECT count(*) FROM idempotency_keys WHERE {condition}");
    client.query_one(&count, &[]).expect("counting").get(0)
}

#[test]
fn a_clients_key_is_kept_for_a_day_and_that_of_an_invocation_for_an_hour() {
    let database = Database::new();
    // More than a page of each.
    database.execute(
        "INSERT INTO idempotency_keys (key, fingerprint, created_id, created_at)
         SELECT kind || encode(sha256(n::text::bytea), 'hex'), '', n,
                now() - CASE kind WHEN 'c' THEN interval '23 hours 59 minutes' ELSE interval '59 minutes' END
                      - (n % 2) * interval '2 minutes'
         FROM generate_series(1, 5001) AS n, unnest(ARRAY['c', 'i']) AS kind;
         INSERT INTO users (name, age) VALUES ('Alice', 30)",
    );
    for deleted in [2 * 2501, 0] {
        assert_eq!(delete(&database, &json!({ "task": "delete-old-keys" })), deleted);
    }
    let mut client = database.client();
    for kind in ["c", "i"] {
        assert_eq!(count(&mut client, &format!("starts_with(key, '{kind}')")), 2500, "{kind}");
    }
    assert_eq!(count(&mut client, "created_id % 2 = 1"), 0);
    assert_eq!(client.query("SELECT FROM users", &[]).expect("the users").len(), 1);
}

/// Two old keys of clients in the middle of each 24th of the digests and one young one, and an old and a young key of
/// an invocation.
fn with_keys_in_each_slice() -> Database {
    let database = Database::new();
    database.execute(
        "INSERT INTO idempotency_keys (key, fingerprint, created_id, created_at)
         SELECT 'c' || lpad(to_hex(((2 * slice + 1) * 4294967296) / 48 + n), 8, '0') || repeat('0', 56), '', slice,
                now() - CASE n WHEN 0 THEN interval '1 hour' ELSE interval '25 hours' END
         FROM generate_series(0::bigint, 23) AS slice, generate_series(0, 2) AS n;
         INSERT INTO idempotency_keys (key, fingerprint, created_id, created_at)
         SELECT 'i' || repeat(n::text, 64), '', 0, now() - n * interval '40 minutes' FROM generate_series(1, 2) AS n",
    );
    database
}

#[test]
fn an_event_may_name_a_24th_of_the_clients_keys() {
    let database = with_keys_in_each_slice();
    let mut client = database.client();
    for slice in (0..24).rev() {
        // The first finds that of the invocation, too.
        assert_eq!(delete(&database, &of_slice(slice)), if slice == 23 { 3 } else { 2 }, "{slice}");
        let left = count(&mut client, &format!("created_id = {slice} AND starts_with(key, 'c')"));
        assert_eq!(left, 1, "{slice}: the young one");
        assert_eq!(delete(&database, &of_slice(slice)), 0, "{slice}");
    }
    assert_eq!(count(&mut client, "starts_with(key, 'i')"), 1);
    for event in [of_slice(24), of_slice(-1), scheduled("2026-11-25T24:00:00Z"), scheduled("seven")] {
        by_hand(&start_migrate(&database.url(), &[]), &event).expect_err("there is no such slice");
    }
}

/// As EventBridge sends it by a schedule.
fn scheduled(time: &str) -> Value {
    json!({
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": time,
        "region": "eu-central-1",
        "resources": ["arn:aws:events:eu-central-1:123456789012:rule/users-MigrateHourly-xmpl"],
        "detail": {},
    })
}

#[test]
fn the_hour_of_a_scheduled_event_names_the_24th() {
    for (time, slice) in
        [("2026-11-25T07:30:00Z", 7), ("2026-11-25T00:00:00Z", 0), ("2026-12-31T23:59:59Z", 23)]
    {
        let database = with_keys_in_each_slice();
        assert_eq!(delete(&database, &scheduled(time)), 3, "{time}");
        let mut client = database.client();
        assert_eq!(
            count(&mut client, &format!("created_id = {slice} AND starts_with(key, 'c')")),
            1,
            "{time}"
        );
        assert_eq!(count(&mut client, "true"), 3 * 24 - 2 + 1, "{time}");
    }
}

#[test]
fn of_a_million_keys_24_runs_delete_every_old_one_and_none_looks_at_more_than_a_twentieth() {
    const KEYS: i64 = 1_000_000;
    const OLD: i64 = KEYS / 20;
    let database = Database::new();
    // What reads the table is counted, so nobody else may.
    database.execute(
        "ALTER TABLE idempotency_keys SET (autovacuum_enabled = off);
             INSERT INTO idempotency_keys (key, fingerprint, created_id, created_at)
             SELECT 'c' || encode(sha256(n::text::bytea), 'hex'), sha256(''), n,
                    now() - CASE n % 20 WHEN 0 THEN interval '25 hours' ELSE interval '12 hours' END
             FROM generate_series(1, 1000000) AS n ORDER BY 1;
             INSERT INTO idempotency_keys (key, fingerprint, created_id, created_at)
             SELECT 'i' || encode(sha256(n::text::bytea), 'hex'), sha256(''), n,
                    now() - CASE n % 2 WHEN 0 THEN interval '2 hours' ELSE interval '1 minute' END
             FROM generate_series(1, 1000) AS n",
    );
    database.execute("VACUUM ANALYZE idempotency_keys");
    let mut client = database.client();

    let mut deleted = 0;
    let mut read = rows_read(&mut client);
    for slice in 0..24 {
        deleted += delete(&database, &of_slice(slice));
        let now = rows_read(&mut client);
        assert!(now - read <= KEYS / 20, "slice {slice} looks at {} keys", now - read);
        assert!(now - read >= KEYS / 30, "slice {slice} looks at {} keys: not counted?", now - read);
        read = now;
    }
    assert_eq!(deleted, OLD + 500);
    assert_eq!(count(&mut client, "true"), KEYS - OLD + 500);
}

/// How many rows of the table the server has read so far, by index or one after the other, counted once all sessions
/// but ours have ended: only then is it sure that theirs are in.
fn rows_read(client: &mut Client) -> i64 {
    let others = "SELECT count(*) FROM pg_stat_activity, pg_sleep(0.01)
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for _ in 0..1000 {
        if client.query_one(others, &[]).expect("asking for sessions").get::<_, i64>(0) == 0 {
            let read = "SELECT (seq_tup_read + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes AS i
                                                WHERE i.relid = t.relid))::bigint
                        FROM pg_stat_user_tables AS t WHERE relname = 'idempotency_keys'";
            return client.query_one(read, &[]).expect("the statistics").get(0);
        }
    }
    panic!("a session did not end");
}

#[test]
fn a_run_stops_in_time_and_has_looked_at_keys_of_both_kinds() {
    let database = Database::new();
    // A page takes half a second, and there are twenty of each kind.
    database.execute(
        "INSERT INTO idempotency_keys (key, fingerprint, created_id, created_at)
         SELECT kind || encode(sha256(n::text::bytea), 'hex'), '', n, now() - interval '25 hours'
         FROM generate_series(1, 20000) AS n, unnest(ARRAY['c', 'i']) AS kind;
         CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_sleep(0.5);
             RETURN NULL;
         END $$;
         CREATE TRIGGER dawdle AFTER DELETE ON idempotency_keys FOR EACH STATEMENT EXECUTE FUNCTION dawdle()",
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let deleted = runtime.block_on(async {
        let handle = shared::Database::new(Config::from_url(&database.url(), None));
        delete_old_keys(&handle, Slice::ALL, Duration::from_secs(4)).await.expect("a success")
    });
    let mut client = database.client();
    let left = ["c", "i"].map(|kind| count(&mut client, &format!("starts_with(key, '{kind}')")));
    assert_eq!(left[0] + left[1] + deleted, 40_000);
    assert!(left.iter().all(|left| (1..20_000).contains(left)), "{left:?}");
}
