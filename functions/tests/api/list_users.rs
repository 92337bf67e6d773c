//! `GET /api/users`

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Answer, Database, Event, Function};

use crate::support::{assert_problem, assert_success, resolved, start, start_with_database_down};

#[test]
fn no_users_are_an_empty_array() {
    let database = Database::new();
    let answer = start("list-users", &database).invoke(Event::get("/api/users"));
    assert_success(&answer, 200, &json!([]));
    assert_eq!(answer.header("link"), None);
}

#[test]
fn users_come_in_the_order_of_their_ids() {
    let database = Database::new();
    database.execute(
        "INSERT INTO users (id, name, age) VALUES (30, 'Carol', 3), (7, 'Alice', 1), (100, 'Dave', 4)",
    );
    // A row that was changed stands elsewhere in the heap.
    database.execute(
        "INSERT INTO users (id, name, age) VALUES (9, 'Bob', 1); UPDATE users SET age = 2 WHERE id = 9",
    );

    let answer = start("list-users", &database).invoke(Event::get("/api/users"));

    assert_success(
        &answer,
        200,
        &json!([
            { "id": 7, "name": "Alice", "age": 1 },
            { "id": 9, "name": "Bob", "age": 2 },
            { "id": 30, "name": "Carol", "age": 3 },
            { "id": 100, "name": "Dave", "age": 4 },
        ]),
    );
    assert_eq!(answer.header("link"), None);
}

#[test]
fn null_of_another_program_is_served_as_null() {
    let database = Database::new();
    database.execute("INSERT INTO users (id, name, age) VALUES (1, NULL, 30), (2, 'Bob', NULL)");
    let answer = start("list-users", &database).invoke(Event::get("/api/users"));
    let expected = json!([{ "id": 1, "name": null, "age": 30 }, { "id": 2, "name": "Bob", "age": null }]);
    assert_success(&answer, 200, &expected);
}

#[test]
fn a_page_holds_1000_users_unless_told_otherwise() {
    let database = Database::new();
    database.execute(
        "INSERT INTO users (id, name, age) SELECT n, 'User ' || n, 30 FROM generate_series(1, 1001) AS n",
    );
    let list = start("list-users", &database);

    let first = list.invoke(Event::get("/api/users"));
    assert_eq!(ids(&first), (1..=1000).collect::<Vec<_>>());
    assert_eq!(first.header("link"), Some("<?after=1000&limit=1000>; rel=\"next\""));

    let second = list.invoke(Event::get("/api/users").query("limit=1000&after=1000"));
    assert_eq!(ids(&second), [1001]);
    assert_eq!(second.header("link"), None);
}

#[test]
fn a_page_that_ends_with_the_last_user_has_no_link() {
    let database = Database::new();
    database.execute(
        "INSERT INTO users (id, name, age) SELECT n, 'User ' || n, 30 FROM generate_series(1, 1000) AS n",
    );
    let list = start("list-users", &database);

    for query in ["", "limit=1000", "limit=500&after=500", "after=999", "limit=1&after=999"] {
        let answer = list.invoke(Event::get("/api/users").query(query));
        assert_eq!(ids(&answer).last(), Some(&1000), "{query}");
        assert_eq!(answer.header("link"), None, "{query}");
    }
    let answer = list.invoke(Event::get("/api/users").query("limit=999"));
    assert_eq!(answer.header("link"), Some("<?after=999&limit=999>; rel=\"next\""));
}

#[test]
fn limit_and_after_choose_a_page() {
    let database = Database::new();
    database.execute(
        "INSERT INTO users (id, name, age) SELECT n * 10, 'User', 30 FROM generate_series(1, 10) AS n",
    );
    let list = start("list-users", &database);

    for (query, expected, link) in [
        ("limit=3", vec![10, 20, 30], Some(("3", "30"))),
        ("limit=3&after=30", vec![40, 50, 60], Some(("3", "60"))),
        ("after=30&limit=3", vec![40, 50, 60], Some(("3", "60"))),
        // Not the id of a row: the place in the order counts.
        ("limit=2&after=35", vec![40, 50], Some(("2", "50"))),
        ("limit=1", vec![10], Some(("1", "10"))),
        ("after=80", vec![90, 100], None),
        ("after=100", vec![], None),
        ("after=3000000000", vec![], None),
        ("after=9223372036854775807", vec![], None),
    ] {
        let answer = list.invoke(Event::get("/api/users").query(query));
        assert_eq!(ids(&answer), expected, "{query}");
        let link = link.map(|(limit, after)| format!("<?after={after}&limit={limit}>; rel=\"next\""));
        assert_eq!(answer.header("link"), link.as_deref(), "{query}");
    }
}

#[test]
fn following_the_links_shows_every_user_once() {
    let database = Database::new();
    database.execute(
        "INSERT INTO users (id, name, age) SELECT n * n + 5000000000, 'User', 30 FROM generate_series(1, 25) AS n",
    );
    let found = walk(&start("list-users", &database), "limit=10");
    assert_eq!(found, (1..=25).map(|n| n * n + 5_000_000_000).collect::<Vec<_>>());
}

#[test]
fn our_own_links_work_where_another_program_chose_ids_below_1() {
    let database = Database::new();
    database
        .execute("INSERT INTO users (id, name, age) SELECT n, 'User', 30 FROM generate_series(-3, 3) AS n");
    let list = start("list-users", &database);
    for limit in 1..=4 {
        assert_eq!(walk(&list, &format!("limit={limit}")), [-3, -2, -1, 0, 1, 2, 3]);
    }
}

#[test]
fn a_full_page_of_the_longest_names_fits() {
    let database = Database::new();
    database
        .execute("INSERT INTO users (name, age) SELECT repeat('🦀', 100), 30 FROM generate_series(1, 1000)");
    let answer = start("list-users", &database).invoke(Event::get("/api/users"));
    let users = answer.json();
    let users = users.as_array().expect("an array");
    assert_eq!(users.len(), 1000);
    assert!(users.iter().all(|user| user["name"] == "🦀".repeat(100)));
}

#[test]
fn percent_encoded_parameters_are_understood() {
    let database = Database::new();
    database
        .execute("INSERT INTO users (id, name, age) SELECT n, 'User', 30 FROM generate_series(1, 20) AS n");
    let list = start("list-users", &database);
    for query in ["limit=%31%30&after=5", "%6Cimit=10&%61fter=%35"] {
        let answer = list.invoke(Event::get("/api/users").query(query));
        assert_eq!(ids(&answer), (6..=15).collect::<Vec<_>>(), "{query}");
        // In our own words again.
        assert_eq!(answer.header("link"), Some("<?after=15&limit=10>; rel=\"next\""), "{query}");
    }
}

#[test]
fn a_bad_or_repeated_parameter_is_400_with_the_database_down() {
    let list = start_with_database_down("list-users");
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=65537",
        "limit=4294967297",
        "limit=18446744073709551617",
        "limit=abc",
        "limit=",
        "limit",
        "limit=1.0",
        "limit=1e2",
        "limit=0x10",
        "limit=%201",
        "limit=1%20",
        "limit=+1",
        "limit=%2B1",
        "limit=%EF%BC%91",
        "limit=1%00",
        "limit=%",
        "limit=%zz",
        "limit=%ff",
        "limit=1,2",
        "limit=1;after=2",
        "after=",
        "after",
        "after=abc",
        "after=1.5",
        "after=%2B1",
        "after=9223372036854775808",
        "after=99999999999999999999",
        "after=1%20",
        "limit=1&limit=2",
        "limit=1&limit=1",
        "after=1&after=2",
        "after=1&after=1",
        "limit=5&after=1&limit=5",
        "limit=1&%6Cimit=1",
        // Also beside others, which don't count.
        "limit=0&page=2",
        "_=17&after=x",
    ] {
        let answer = list.invoke(Event::get("/api/users").query(query));
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert_problem(&answer, 400, "Bad Request", "Invalid input");
        assert_eq!(answer.header("link"), None, "{query}");
    }
}

#[test]
fn every_bad_parameter_is_listed() {
    let list = start_with_database_down("list-users");
    let answer = list.invoke(Event::get("/api/users").query("limit=0&after=x&page=2"));
    assert_problem(&answer, 400, "Bad Request", "Invalid input");
    let body = answer.json();
    let parameters = body["errors"].as_array().into_iter().flatten().map(|error| &error["parameter"]);
    let parameters: BTreeSet<_> = parameters.map(|it| it.as_str().unwrap_or_default()).collect();
    assert_eq!(parameters, BTreeSet::from(["after", "limit"]), "{body}");
}

#[test]
fn other_parameters_are_ignored_also_when_they_are_repeated() {
    let database = Database::new();
    database
        .execute("INSERT INTO users (id, name, age) SELECT n, 'User', 30 FROM generate_series(1, 20) AS n");
    let list = start("list-users", &database);
    for query in [
        "_=17",
        "utm_source=x&utm_medium=y",
        "page=2",
        "offset=10",
        "Limit=0",
        "LIMIT=x",
        "limit[]=1",
        "limit%20=0",
        "=1",
        "x",
        "x=1&x=2",
        "name=%3Cscript%3E",
        "%00=%ff",
    ] {
        let answer = list.invoke(Event::get("/api/users").query(query));
        assert_eq!(ids(&answer), (1..=20).collect::<Vec<_>>(), "{query}");
        // They don't come back in our link.
        let answer =
            list.invoke(Event::get("/api/users").query(&format!("{query}&limit=10&after=5&{query}")));
        assert_eq!(ids(&answer), (6..=15).collect::<Vec<_>>(), "{query}");
        assert_eq!(answer.header("link"), Some("<?after=15&limit=10>; rel=\"next\""), "{query}");
    }
}

#[test]
fn a_link_leads_on_wherever_the_api_is_and_its_parameters_are_sorted() {
    let database = Database::new();
    database
        .execute("INSERT INTO users (id, name, age) SELECT n, 'User', 30 FROM generate_series(1, 3) AS n");
    let list = start("list-users", &database);
    for (base, stage) in [
        ("https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com", None),
        ("https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/prod", Some("prod")),
        // A custom domain's base path, which is no part of the event.
        ("https://api.example.com/people/v1", None),
    ] {
        let mut url = format!("{base}/api/users?limit=2");
        let mut found = Vec::new();
        loop {
            let (path, query) = url.split_once('?').expect("a query");
            assert_eq!(path, format!("{base}/api/users"));
            // As signatures want it, so that clients which sign what they are given get by.
            let mut sorted: Vec<_> = query.split('&').collect();
            sorted.sort_unstable();
            assert_eq!(sorted.join("&"), query);
            let event = Event::get("/api/users").query(query);
            let page = list.invoke(stage.map_or(event.clone(), |stage| event.stage(stage)));
            found.extend(ids(&page));
            let Some(link) = page.header("link") else { break };
            let link = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
            url = resolved(&url, link.unwrap_or_else(|| panic!("no link to the next page: {page:?}")));
        }
        assert_eq!(found, [1, 2, 3], "{base}");
    }
}

fn ids(page: &Answer) -> Vec<i64> {
    assert_eq!(page.status, 200, "{page:?}");
    let users = page.json();
    users.as_array().expect("an array").iter().map(|user| user["id"].as_i64().expect("an id")).collect()
}

/// All ids, page after page, until there is no link.
fn walk(list: &Function, query: &str) -> Vec<i64> {
    let mut found = Vec::new();
    let mut query = query.to_owned();
    loop {
        let page = list.invoke(Event::get("/api/users").query(&query));
        let on_page = ids(&page);
        assert!(!on_page.is_empty(), "an empty page after a link: {query}");
        found.extend(on_page);
        assert!(found.len() < 1000, "the links lead in a circle: {found:?}");
        let Some(link) = page.header("link") else { return found };
        let target = link.strip_prefix("<?").and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        query = target.unwrap_or_else(|| panic!("not a link to the next page: {link}")).to_owned();
    }
}

/// The costs of a page, from a table of a million rows.
mod cost {
    use super::*;
    use postgres::types::{ToSql, Type};

    #[test]
    fn a_page_costs_the_same_everywhere_in_a_million_rows() {
        assert_same_cost_everywhere(&Database::new());
    }

    #[test]
    fn a_page_costs_the_same_everywhere_in_a_million_rows_of_the_guides_table() {
        let database = Database::empty();
        database.execute("CREATE TABLE users (id SERIAL PRIMARY KEY, name VARCHAR(100), age INT)");
        database.migrate().expect("adopting the guide's table");
        assert_same_cost_everywhere(&database);
    }

    fn assert_same_cost_everywhere(database: &Database) {
        const ROWS: i64 = 1_000_000;
        let mut client = database.client();
        let fill = "INSERT INTO users (name, age) SELECT 'User ' || n, n % 100 FROM generate_series(1, 1000000) AS n";
        client.batch_execute(fill).expect("filling the table");
        // Sets what a running server sets in passing, so that the first reader's cost is not special.
        client.batch_execute("VACUUM ANALYZE users").expect("vacuum");

        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}", shared::users::LIST);
        let limit = 101_i64;
        let mut plan_after = |after: i64| {
            let parameters = [(&after as &(dyn ToSql + Sync), Type::INT8), (&limit, Type::INT8)];
            let plan = client.query_typed(&explain, &parameters).expect("explaining the statement of a page");
            plan[0].get::<_, Value>(0)[0]["Plan"].take()
        };
        // A session's first statement also reads the catalogue.
        plan_after(0);
        let positions = [i64::MIN, 0, ROWS / 2, ROWS - limit];
        let costs = positions.map(|after| {
            let plan = plan_after(after);
            assert_eq!(plan["Actual Rows"].as_f64(), Some(101.0), "{plan}");
            assert!(nodes(&plan).iter().any(|node| node.starts_with("Index")), "{plan}");
            assert!(
                nodes(&plan).iter().all(|node| !node.contains("Sort") && !node.contains("Seq")),
                "{plan}"
            );
            let blocks = |kind: &str| plan[kind].as_i64().expect("a number of blocks");
            blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
        });

        let (least, most) = (costs.iter().min().expect("costs"), costs.iter().max().expect("costs"));
        // The hundred rows and the way down the index; one block more where they straddle a border.
        assert!(*most <= 8 && most - least <= 2, "blocks by position: {costs:?}");
    }

    fn nodes(plan: &Value) -> Vec<&str> {
        let children = plan["Plans"].as_array().into_iter().flatten();
        std::iter::once(plan["Node Type"].as_str().expect("a node")).chain(children.flat_map(nodes)).collect()
    }
}
