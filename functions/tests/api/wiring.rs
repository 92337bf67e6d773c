//! The places that list the endpoints: each has all of them, and no others.

use std::{collections::BTreeSet, fs, path::PathBuf};

use lambda_http::{RequestExt, RequestPayloadExt, request};
use regex::Regex;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    openapi::contract,
    support::{Endpoint, endpoints, pascal_case, start, with_alice},
};

/// An endpoint: binary, method, path.
type Route = (String, String, String);

#[test]
fn every_place_that_lists_endpoints_has_those_of_the_binaries() {
    let binaries = routes_of_binaries();
    let whole = |(binary, method, path): &Route| format!("{binary}: {method} {path}");
    let binary = |(binary, ..): &Route| binary.clone();
    let function = |(binary, ..): &Route| pascal_case(binary);
    let route = |(_, method, path): &Route| format!("{method} {path}");
    let mut differences = Vec::new();
    let mut compare = |place: &str, expected: BTreeSet<String>, found: BTreeSet<String>| {
        differences.extend(expected.difference(&found).map(|it| format!("{place} lacks {it}")));
        differences.extend(found.difference(&expected).map(|it| format!("{place} has {it}, and no binary")));
    };
    for (place, found) in [
        ("Cargo.toml, in the router,", routes_of_router()),
        ("events/", routes_of_events()),
        ("openapi.yaml", routes_of_contract()),
        ("template.yaml", routes_of_template()),
        ("functions/tests/api/support.rs", routes_of_tests()),
        ("README.md, in the table,", routes_of_readme()),
    ] {
        let found = found.iter().map(whole).collect();
        compare(place, binaries.iter().map(whole).collect(), found);
    }
    let all = |named: &dyn Fn(&Route) -> String| binaries.iter().map(named).collect::<BTreeSet<_>>();
    compare(
        "README.md, in the diagram,",
        all(&binary),
        found_in("README.md", r"(?m)^ +\w+\[(\w+-[\w-]+)\]$"),
    );
    let warm_up = routes_of_warm_up();
    compare("dev/xtask/src/dev.rs", all(&route), warm_up.iter().map(route).collect());
    let template_tests = r#"(?m)^    "(\w+)": \("[A-Z]+", "/"#;
    compare(
        "dev/template/test_template.py",
        all(&function),
        found_in("dev/template/test_template.py", template_tests),
    );
    let scenario = r#"(?m)^    "(\w+)": "users_\w+","#;
    compare("dev/deployment/scenario.py", all(&function), found_in("dev/deployment/scenario.py", scenario));
    compare("dev/contract/schemathesis.toml", refused_for_what_is_stored(), operations_of_schemathesis());
    let files = names("functions/tests/api").into_iter().map(|file| file.replace('_', "-"));
    let files = files.filter(|file| all(&binary).contains(file)).collect();
    compare("functions/tests/api", all(&binary), files);
    assert!(differences.is_empty(), "\n{}\n", differences.join("\n"));
}

#[test]
fn every_event_gets_a_success_from_its_binary() {
    for Endpoint { binary, success, .. } in with_files() {
        let answer = start(binary, &with_alice()).invoke(event_of(binary));
        assert_eq!(answer.status, success, "{binary}: {answer:?}");
    }
}

#[test]
fn every_event_is_understood_by_lambda_http() {
    for Endpoint { binary, event, .. } in with_files() {
        let request = request::from_str(&event_of(binary).to_string()).expect("an event of an HTTP API");
        let (method, path) = event.route().split_once(' ').expect("a method and a path");
        assert_eq!(request.method().as_str(), method, "{binary}");
        let id =
            request.path_parameters_ref().and_then(|parameters| parameters.first("id")).unwrap_or_default();
        assert_eq!(request.raw_http_path(), path.replace("{id}", id), "{binary}");
        let body: Option<Value> = request.json().expect("JSON");
        let expected =
            Value::from(event)["body"].as_str().map(|body| serde_json::from_str(body).expect("JSON"));
        assert_eq!(members(&body.unwrap_or_default()), members(&expected.unwrap_or_default()), "{binary}");
    }
}

#[test]
fn every_event_says_the_same_wherever_it_says_it() {
    for Endpoint { binary, .. } in with_files() {
        let event = event_of(binary);
        let (method, path) = event["routeKey"].as_str().and_then(route).expect("a route key");
        let context = &event["requestContext"];
        assert_eq!(event["version"], "2.0", "{binary}");
        assert_eq!(context["routeKey"], event["routeKey"], "{binary}");
        assert_eq!(context["http"]["method"], method, "{binary}");
        assert_eq!(context["http"]["path"], event["rawPath"], "{binary}");
        let id = event["pathParameters"]["id"].as_str().unwrap_or_default();
        assert_eq!(event["rawPath"], path.replace("{id}", id), "{binary}");
    }
}

#[test]
fn the_events_of_the_tests_have_the_members_of_those_in_the_files() {
    for Endpoint { binary, event, .. } in with_files() {
        let (built, file) = (Value::from(event), event_of(binary));
        for part in ["", "/headers", "/requestContext", "/requestContext/http", "/pathParameters"] {
            let [built, file] =
                [&built, &file].map(|event| event.pointer(part).map(members).unwrap_or_default());
            assert_eq!(built, file, "{binary} {part}");
        }
    }
}

/// The endpoints that have a file in `events`; whether all have one is said above.
fn with_files() -> impl Iterator<Item = Endpoint> {
    let files = names("events");
    endpoints().into_iter().filter(move |it| files.iter().any(|file| file == it.binary))
}

fn members(value: &Value) -> BTreeSet<String> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

pub(crate) fn root(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README and what stands beside it for those who want more.
pub(crate) fn documents() -> Vec<String> {
    let more = fs::read_dir(root("docs"))
        .into_iter()
        .flatten()
        .map(|entry| format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy()));
    let more = more.filter(|path| path.ends_with(".md"));
    std::iter::once("README.md".to_owned()).chain(more).collect()
}

/// The names of the files in a folder, without their extension.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    entries
        .map(|entry| {
            entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect()
}

/// Splits `METHOD /path`.
fn route(text: &str) -> Option<(String, String)> {
    let (method, path) = text.split_once(' ')?;
    let is_route =
        !method.is_empty() && method.chars().all(|c| c.is_ascii_uppercase()) && path.starts_with('/');
    is_route.then(|| (method.to_owned(), path.to_owned()))
}

/// From the first line of each binary's doc. `migrate` is no endpoint.
fn routes_of_binaries() -> BTreeSet<Route> {
    names("functions/src/bin")
        .into_iter()
        .filter(|binary| binary != "migrate")
        .map(|binary| {
            let source = read(&format!("functions/src/bin/{binary}.rs"));
            let first = source.lines().next().unwrap_or_default();
            let (method, path) = first
                .strip_prefix("//! `")
                .and_then(|rest| rest.split_once("`: "))
                .and_then(|(text, _)| route(text))
                .unwrap_or_else(|| panic!("{binary}.rs does not begin with its route: {first}"));
            (binary, method, path)
        })
        .collect()
}

fn routes_of_template() -> BTreeSet<Route> {
    let template = YamlLoader::load_from_str(&read("template.yaml")).expect("template.yaml is YAML");
    let resources = template[0]["Resources"].as_hash().expect("resources");
    let functions = resources.iter().filter(|(_, resource)| {
        let binary = &resource["Metadata"]["BuildProperties"]["Binary"];
        resource["Type"].as_str() == Some("AWS::Serverless::Function") && binary.as_str() != Some("migrate")
    });
    functions
        .flat_map(|(name, function)| {
            let text = |value: &Yaml| {
                value.as_str().unwrap_or_else(|| panic!("{name:?} lacks something: {function:?}")).to_owned()
            };
            let binary = text(&function["Metadata"]["BuildProperties"]["Binary"]);
            let events = function["Properties"]["Events"].as_hash().expect("events").values();
            events
                .filter(|event| event["Type"].as_str() == Some("HttpApi"))
                .map(move |event| {
                    let event = &event["Properties"];
                    (binary.clone(), text(&event["Method"]), text(&event["Path"]))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

fn routes_of_router() -> BTreeSet<Route> {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("Cargo.toml is TOML");
    let router =
        manifest["workspace"]["metadata"]["lambda"]["watch"]["router"].as_table().expect("the router");
    router
        .iter()
        .flat_map(|(path, functions)| {
            functions.as_array().expect("functions").iter().map(|function| {
                let text = |member: &str| function[member].as_str().expect("text").to_owned();
                (text("function"), text("method"), path.clone())
            })
        })
        .collect()
}

fn event_of(binary: &str) -> Value {
    serde_json::from_str(&read(&format!("events/{binary}.json"))).expect("an event is JSON")
}

fn routes_of_events() -> BTreeSet<Route> {
    names("events")
        .into_iter()
        .map(|binary| {
            let event = event_of(&binary);
            let (method, path) = event["routeKey"].as_str().and_then(route).expect("a route key");
            (binary, method, path)
        })
        .collect()
}

fn routes_of_contract() -> BTreeSet<Route> {
    let (contract, capital) = (contract(), Regex::new("[A-Z]").expect("a regular expression"));
    let paths = contract["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, it)| {
            let methods = it.as_object().into_iter().flatten().filter(|(name, _)| *name != "parameters");
            methods.map(|(method, it)| {
                let id = it["operationId"].as_str().expect("an id");
                let binary = capital.replace_all(id, "-$0").to_lowercase();
                (binary, method.to_uppercase(), path.clone())
            })
        })
        .collect()
}

fn routes_of_tests() -> BTreeSet<Route> {
    let routes = endpoints().into_iter().map(|it| (it.binary.to_owned(), it.event.route().to_owned()));
    routes.filter_map(|(binary, text)| route(&text).map(|(method, path)| (binary, method, path))).collect()
}

/// Rows with a binary and a route, each in a cell of its own and in backticks.
fn routes_of_readme() -> BTreeSet<Route> {
    read("README.md")
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|row| {
            let mut cells =
                row.split('|').filter_map(|cell| cell.trim().strip_prefix('`')?.strip_suffix('`'));
            let (binary, (method, path)) = (cells.next()?.to_owned(), route(cells.next()?)?);
            Some((binary, method, path))
        })
        .collect()
}

/// The requests with which the local start warms the functions: a method and a path as two strings.
fn routes_of_warm_up() -> BTreeSet<Route> {
    let request = Regex::new(r#""([A-Z]+)",\s*"(/api/[^"]*)""#).expect("a regular expression");
    let id = Regex::new(r"/\d+$").expect("a regular expression");
    let source = read("dev/xtask/src/dev.rs");
    let requests = request.captures_iter(&source).map(|found| {
        let path = found[2].split('?').next().unwrap_or_default();
        (String::new(), found[1].to_owned(), id.replace(path, "/{id}").into_owned())
    });
    requests.collect()
}

/// The operations whose valid requests may be refused for what is stored, which Schemathesis has to be told: those that
/// answer 404 or 422.
fn refused_for_what_is_stored() -> BTreeSet<String> {
    let contract = contract();
    let paths = contract["paths"].as_object().expect("paths").values();
    let operations = paths.flat_map(|path| path.as_object().into_iter().flatten());
    let refused =
        operations.filter(|(_, it)| ["404", "422"].iter().any(|status| !it["responses"][status].is_null()));
    refused.filter_map(|(_, it)| it["operationId"].as_str().map(str::to_owned)).collect()
}

fn operations_of_schemathesis() -> BTreeSet<String> {
    let settings: toml::Table = read("dev/contract/schemathesis.toml").parse().expect("TOML");
    let operations = settings["operations"].as_array().expect("a list").iter();
    let ids = operations.flat_map(|it| match &it["include-operation-id"] {
        toml::Value::Array(ids) => ids.clone(),
        id => vec![id.clone()],
    });
    ids.filter_map(|id| id.as_str().map(str::to_owned)).collect()
}

/// What the group of a regular expression finds in a file.
fn found_in(path: &str, expression: &str) -> BTreeSet<String> {
    let expression = Regex::new(expression).expect("a regular expression");
    expression.captures_iter(&read(path)).map(|found| found[1].to_owned()).collect()
}
