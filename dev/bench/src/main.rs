//! Measures the functions, as they ship, beside what users would pick instead; see `cargo xtask bench`.
//!
//! What to measure comes from the environment: `BENCH_FUNCTIONS`, `BENCH_PROBES`, `BENCH_PYTHON`, `BENCH_PYTHON_CLIENT`,
//! `BENCH_NODE`, `BENCH_NODE_CLIENT`, `BENCH_FLASK`, `BENCH_FLASK_PACKAGES` and `BENCH_LAYER` are folders; what is not
//! set is left out. `TEST_DATABASE_URL` is as for the tests.

mod gateway;
mod host;
mod instructions;
mod measure;
mod plot;
mod process;
mod report;
mod subject;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use measure::{Bench, FLASK, Figures};
use subject::Subject;

/// Fresh environments of each subject.
const ROUNDS: usize = 15;

/// How often the wire and the load are measured.
const FEWER_ROUNDS: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fits = match arguments[..] {
        [] | ["--rounds", _] => {
            let rounds = arguments.get(1).and_then(|rounds| rounds.parse().ok());
            bench(rounds.unwrap_or(ROUNDS), &folder.join("results"));
            true
        }
        ["instructions"] => instructions::run(&folder.join("instructions.txt"), false),
        ["instructions", "--record"] => instructions::run(&folder.join("instructions.txt"), true),
        _ => {
            eprintln!("Usage: bench [--rounds N] | bench instructions [--record]");
            false
        }
    };
    if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bench(rounds: usize, results: &Path) {
    let started = Instant::now();
    let bench = Bench::new();
    let subjects = Subject::all();
    let mut figures: Vec<Figures> = subjects
        .iter()
        .map(|subject| Figures { name: subject.name, package: subject.package(), ..Figures::default() })
        .collect();
    let mut flask = Figures { name: FLASK, ..Figures::default() };

    let pinned = bench.pin(true);
    // The first start of each compiles bytecode and fills caches.
    bench.round(0, &subjects, &mut subjects.iter().map(|_| Figures::default()).collect::<Vec<_>>());
    let mut has_flask = false;
    for round in 1..=rounds {
        println!("· environments, round {round} of {rounds}");
        bench.round(round, &subjects, &mut figures);
        has_flask = bench.flask_round(&mut flask);
    }
    for round in 1..=FEWER_ROUNDS {
        println!("· the wire, round {round} of {FEWER_ROUNDS}");
        for (subject, figures) in subjects.iter().zip(&mut figures) {
            bench.on_the_wire(subject, figures);
        }
        bench.flask_on_the_wire(&mut flask);
    }
    bench.pin(false);
    if has_flask {
        figures.push(flask);
    }
    for round in 1..=FEWER_ROUNDS {
        println!("· load, round {round} of {FEWER_ROUNDS}");
        bench.load(&subjects, &mut figures, Duration::from_secs(3));
    }
    for round in 1..=FEWER_ROUNDS {
        println!("· several at once, round {round} of {FEWER_ROUNDS}");
        for (subject, figures) in subjects.iter().zip(&mut figures).filter(|(it, _)| it.serves_several()) {
            bench.at_once(subject, figures, Duration::from_secs(3));
        }
    }
    report::write(results, &bench, pinned, rounds, started, &figures);
    println!("· the results are in {}", results.display());
}
