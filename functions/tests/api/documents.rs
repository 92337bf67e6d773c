//! README and what stands beside it: their links lead somewhere, and their table of parameters is the template's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use yaml_rust2::YamlLoader;

use crate::wiring::{documents, read, root};

#[test]
fn every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let others = ["CHANGELOG.md", "dev/bench/results/README.md"].map(str::to_owned);
    let (mut links, mut dead) = (0, Vec::new());
    for document in documents().into_iter().chain(others) {
        for link in links_of(&read(&document)).iter().filter(|link| !link.contains("://")) {
            links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => Path::new(&document).with_file_name(path).display().to_string(),
            };
            let found = root(&target).exists() && (anchor.is_empty() || anchors_of(&target).contains(anchor));
            if !found {
                dead.push(format!("{document}: {link}"));
            }
        }
    }
    assert_eq!(dead, [""; 0]);
    assert!(links > 50, "only {links} links were seen");
}

#[test]
fn every_sentence_has_a_line_of_its_own() {
    let mut crowded = Vec::new();
    for document in documents() {
        let text = read(&document);
        let lines = prose(&text).filter(|line| !line.starts_with(['|', '#']) && !line.starts_with("    "));
        for line in lines {
            let next =
                line.split(". ").skip(1).any(|rest| rest.starts_with(|c: char| c.is_uppercase() || c == '`'));
            if next {
                crowded.push(format!("{document}: {line}"));
            }
        }
    }
    assert_eq!(crowded, [""; 0]);
}

#[test]
fn the_table_of_parameters_is_that_of_the_template() {
    let template = YamlLoader::load_from_str(&read("template.yaml")).expect("template.yaml is YAML");
    let parameters = template[0]["Parameters"].as_hash().expect("parameters").iter();
    let expected: BTreeMap<_, _> = parameters
        .map(|(name, parameter)| {
            let default = &parameter["Default"];
            let number = || default.as_i64().expect("a default").to_string();
            let default = default.as_str().map_or_else(number, str::to_owned);
            (name.as_str().expect("a name").to_owned(), default)
        })
        .collect();
    let deploy = read("docs/deploy.md");
    let (_, section) = deploy.split_once("\n## Parameters\n").expect("the section");
    let rows = section.split("\n## ").next().unwrap_or_default().lines();
    let told: BTreeMap<_, _> = rows
        .filter_map(|row| {
            let cells: Vec<_> = row.strip_prefix("| `")?.split(" | ").collect();
            let default = cells.last()?.trim_end_matches([' ', '|']).trim_matches('`');
            let default = if default == "empty" { "" } else { default };
            Some((cells[0].trim_end_matches('`').to_owned(), default.to_owned()))
        })
        .collect();
    assert_eq!(told, expected);
}

/// The text without its blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n```").step_by(2).flat_map(str::lines)
}

/// The targets of `[text](target)`.
fn links_of(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// The anchors that GitHub makes of a document's headings.
fn anchors_of(path: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    if !path.ends_with(".md") {
        return anchors;
    }
    for heading in prose(&read(path)).filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        // A heading that is repeated gets a number.
        let free = |n: &usize| !anchors.contains(&numbered(&anchor, *n));
        let n = (0..).find(free).unwrap_or_default();
        anchors.insert(numbered(&anchor, n));
    }
    anchors
}

fn numbered(anchor: &str, n: usize) -> String {
    if n == 0 { anchor.to_owned() } else { format!("{anchor}-{n}") }
}
