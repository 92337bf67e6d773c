//! Instructions, counted by valgrind's callgrind: the one figure that is the same on a busy machine.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use shared::roles::Access;
use testkit::{Database, Event, IamGate, Service, role};

use crate::{
    host::Environment,
    subject::{bootstrap, folder},
};

/// The requests over which the cost of one is averaged.
const REQUESTS: u64 = 100;

/// How much more than recorded is a regression, in percent.
const TOLERANCE: u64 = 3;

/// Counts for init with the first request and for a warm request, and compares with what `file` has recorded, or records.
pub(crate) fn run(file: &Path, record: bool) -> bool {
    let functions = folder("BENCH_FUNCTIONS").expect("BENCH_FUNCTIONS, where the functions are");
    let database = Database::new();
    database.execute(
        "INSERT INTO users (name, age) SELECT 'User number ' || n, n FROM generate_series(1, 100) n",
    );
    let recorded = fs::read_to_string(file).unwrap_or_default();
    let mut counted = String::new();
    let mut fits = true;
    for (binary, access, event) in [
        ("get-user", Access::Read, Event::get("/api/users/1")),
        ("list-users", Access::Read, Event::get("/api/users").query("limit=100")),
        (
            "create-user",
            Access::Create,
            Event::post("/api/users").json(&json!({ "name": "Alice", "age": 30 })),
        ),
    ] {
        let event = Value::from(event).to_string();
        let count = |requests| {
            instructions(&bootstrap(&functions, binary), &database, &role(access), &event, requests)
        };
        let cold = count(1);
        let warm = (count(1 + REQUESTS) - cold) / REQUESTS;
        let line = recorded.lines().find_map(|line| line.strip_prefix(binary)).unwrap_or_default();
        let before: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        println!("{binary}: init and first request {cold}, warm request {warm}; recorded {before:?}");
        fits &= before.len() == 2
            && [cold, warm].iter().zip(&before).all(|(now, then)| now * 100 <= then * (100 + TOLERANCE));
        counted += &format!("{binary} {cold} {warm}\n");
    }
    if record {
        fs::write(file, counted).expect("recording the counts");
        return true;
    }
    if !fits {
        eprintln!(
            "more than {TOLERANCE}% above what {} has recorded: find out why, or accept it with --record",
            file.display()
        );
    }
    fits
}

/// Connects with an IAM token: PBKDF2 of SCRAM, without the processor's instructions for it, would hide all else.
fn instructions(program: &Path, database: &Database, user: &str, event: &str, requests: u64) -> u64 {
    let gate = IamGate::new(Service::Dsql);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.env_clear().envs(gate.env(database, user));
    let mut environment = Environment::start("valgrind", command);
    for _ in 0..requests {
        let (_, answer) = environment.invoke(event);
        let answer: Value = serde_json::from_slice(&answer).expect("an answer in JSON");
        assert!(answer["statusCode"].as_u64() < Some(300), "{answer}");
    }
    let log = environment.end();
    let total = log.lines().find_map(|line| line.split_once("Collected : ")?.1.parse().ok());
    total.unwrap_or_else(|| panic!("callgrind has counted nothing:\n{log}"))
}
