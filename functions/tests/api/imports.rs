//! The direction of the code: what a module uses stands below it.

use std::{collections::BTreeSet, fs};

use regex::Regex;

use crate::wiring::{read, root};

/// The modules of `shared`, each above all that it may use.
const SHARED: [&str; 10] =
    ["users", "idempotency", "migrate", "roles", "admin", "db", "config", "credentials", "limits", "error"];

/// Those of `functions`: the runtime around what makes responses, and what reads requests.
const FUNCTIONS: [&str; 6] = ["runtime", "response", "extract", "preconditions", "body", "error"];

#[test]
fn every_module_uses_only_what_stands_below_it() {
    for (package, order) in [("shared", SHARED.as_slice()), ("functions", &FUNCTIONS)] {
        let folder = root(&format!("{package}/src"));
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let module = path.file_stem().expect("a name").to_string_lossy().into_owned();
            if path.extension().is_none_or(|extension| extension != "rs") || module == "lib" {
                continue;
            }
            let place = order.iter().position(|known| *known == module);
            let place = place.unwrap_or_else(|| panic!("{package}: where does {module} stand?"));
            for used in used_by(&fs::read_to_string(&path).expect("a file")) {
                // What is in lib.rs is a name for something below.
                let below = order.iter().position(|known| *known == used).is_none_or(|it| it > place);
                assert!(below, "{package}: {module} uses {used}, which stands above it");
            }
            found.insert(module);
        }
        assert_eq!(found, order.iter().map(|name| (*name).to_owned()).collect(), "{package}");
    }
}

#[test]
fn shared_knows_nothing_of_http_or_lambda_and_functions_nothing_of_postgresql() {
    for (package, foreign) in [
        ("shared", ["lambda_http", "lambda_runtime", "http"].as_slice()),
        ("functions", &["tokio-postgres", "postgres-native-tls", "native-tls"]),
    ] {
        let manifest = read(&format!("{package}/Cargo.toml"));
        let manifest: toml::Table = manifest.parse().expect("TOML");
        let dependencies = manifest["dependencies"].as_table().expect("a table");
        let found: Vec<_> = dependencies.keys().filter(|name| foreign.contains(&name.as_str())).collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
    }
}

/// The modules that a file names, in its `use` lines and elsewhere.
fn used_by(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let comment = Regex::new("(?m)^ *//.*$").expect("a regular expression");
    let source = comment.replace_all(source, "");
    let path = Regex::new(r"crate::(\w+)").expect("a regular expression");
    let group = Regex::new(r"use crate::\{([^;]*)\};").expect("a regular expression");
    let member = Regex::new(r"(?:^|,)\s*(\w+)").expect("a regular expression");
    let mut used: BTreeSet<_> = path.captures_iter(&source).map(|found| found[1].to_owned()).collect();
    // Without what stands within inner braces, each element of a group begins with the name of a module.
    let inner = Regex::new(r"\{[^{}]*\}").expect("a regular expression");
    for group in group.captures_iter(&source) {
        let outer = inner.replace_all(&group[1], "");
        used.extend(member.captures_iter(&outer).map(|found| found[1].to_owned()));
    }
    used
}
