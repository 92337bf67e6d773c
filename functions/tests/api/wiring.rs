//! The lists that must agree: binaries, `template.yaml`, the local router, `events/`, `openapi.yaml` and README's table.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use lambda_http::{RequestExt, RequestPayloadExt, request};
use serde_json::Value;
use testkit::Database;
use yaml_rust2::{Yaml, YamlLoader};

use crate::openapi::{contract, operation_of};
use crate::support::{endpoints, start, user};

/// An endpoint: binary, method, path.
type Endpoints = BTreeSet<(String, String, String)>;

#[test]
fn template_router_events_contract_and_readme_agree_with_the_binaries() {
    let binaries = endpoints_of_binaries();
    assert_eq!(endpoints_of_template(), binaries, "template.yaml");
    assert_eq!(endpoints_of_router(), binaries, "router in Cargo.toml");
    assert_eq!(endpoints_of_events(), binaries, "events/");
    assert_eq!(endpoints_of_contract(), binaries, "openapi.yaml");
    assert_eq!(endpoints_of_readme(), binaries, "README.md");
}

#[test]
fn every_endpoint_is_run_by_these_tests() {
    let tested: BTreeSet<_> = endpoints().into_iter().map(|(binary, _)| binary.to_owned()).collect();
    let built: BTreeSet<_> = endpoints_of_binaries().into_iter().map(|(binary, ..)| binary).collect();
    assert_eq!(tested, built);
}

#[test]
fn every_event_gets_a_success_from_its_binary() {
    for (binary, ..) in endpoints_of_binaries() {
        let event = event_of(&binary);
        let database = Database::new();
        if let Some(id) = event["pathParameters"]["id"].as_str() {
            database.execute(&format!("INSERT INTO users (id, name, age) VALUES ({id}, 'Alice', 30)"));
        }
        let answer = start(&binary, &database).invoke(event);
        let success = if binary == "create-user" { 201 } else { 200 };
        assert_eq!(answer.status, success, "{binary}: {answer:?}");
    }
}

#[test]
fn every_event_is_understood_by_lambda_http() {
    for (binary, method, path) in endpoints_of_binaries() {
        let request = request::from_str(&event_of(&binary).to_string()).expect("an event of an HTTP API");
        assert_eq!(request.method().as_str(), method, "{binary}");
        let id =
            request.path_parameters_ref().and_then(|parameters| parameters.first("id")).unwrap_or_default();
        assert_eq!(request.raw_http_path(), path.replace("{id}", id), "{binary}");
        if ["POST", "PUT"].contains(&method.as_str()) {
            let body: Value = request.json().expect("JSON").expect("a body");
            let members: BTreeSet<_> = body.as_object().expect("an object").keys().cloned().collect();
            assert_eq!(
                members,
                user("", 0).as_object().expect("an object").keys().cloned().collect(),
                "{binary}"
            );
        }
    }
}

#[test]
fn the_events_of_the_tests_have_the_members_of_those_in_the_files() {
    let members = |value: &Value| -> BTreeSet<String> {
        value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    for (binary, event) in endpoints() {
        let (built, file) = (Value::from(event), event_of(binary));
        for part in ["", "/headers", "/requestContext", "/requestContext/http", "/pathParameters"] {
            let [built, file] =
                [&built, &file].map(|event| event.pointer(part).map(members).unwrap_or_default());
            assert_eq!(built, file, "{binary} {part}");
        }
    }
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
fn endpoints_of_binaries() -> Endpoints {
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

fn endpoints_of_template() -> Endpoints {
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

fn endpoints_of_router() -> Endpoints {
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

fn endpoints_of_events() -> Endpoints {
    names("events")
        .into_iter()
        .map(|binary| {
            let event = event_of(&binary);
            let (method, path) = event["routeKey"].as_str().and_then(route).expect("a route key");
            let context = &event["requestContext"];
            assert_eq!(event["version"], "2.0", "{binary}");
            assert_eq!(context["routeKey"], event["routeKey"], "{binary}");
            assert_eq!(context["http"]["method"], method, "{binary}");
            assert_eq!(context["http"]["path"], event["rawPath"], "{binary}");
            let id = event["pathParameters"]["id"].as_str().unwrap_or_default();
            assert_eq!(event["rawPath"], path.replace("{id}", id), "{binary}");
            (binary, method, path)
        })
        .collect()
}

fn endpoints_of_contract() -> Endpoints {
    let (contract, binaries) = (contract(), names("functions/src/bin"));
    let paths = contract["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, it)| {
            let methods = it.as_object().into_iter().flatten().filter(|(name, _)| *name != "parameters");
            methods.map(|(method, it)| {
                let id = it["operationId"].as_str().expect("an id");
                let binary = binaries.iter().find(|binary| operation_of(binary) == id).cloned();
                (binary.unwrap_or_else(|| format!("no binary for {id}")), method.to_uppercase(), path.clone())
            })
        })
        .collect()
}

/// Rows with a binary and a route, each in a cell of its own and in backticks.
fn endpoints_of_readme() -> Endpoints {
    let binaries: Vec<_> = endpoints_of_binaries().into_iter().map(|(binary, ..)| binary).collect();
    read("README.md")
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|row| {
            let cells: Vec<_> =
                row.split('|').filter_map(|cell| cell.trim().strip_prefix('`')?.strip_suffix('`')).collect();
            let (method, path) = cells.iter().find_map(|cell| route(cell))?;
            // A row about something that is no binary counts too: it is one too many.
            let binary = cells.iter().find(|cell| binaries.iter().any(|binary| binary == *cell));
            Some((binary.map_or("no binary", |binary| *binary).to_owned(), method, path))
        })
        .collect()
}
