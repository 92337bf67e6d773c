//! The results as Markdown and plots.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    measure::{AT_ONCE, Bench, DELAYS, DISTANCE, FLASK, Figures, version},
    plot::{Row, bars, lines, short},
};

/// The place in the middle, in the order of size, and those a quarter from both ends.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |quarters: usize| values.get(values.len() * quarters / 4).or(values.last()).copied();
    Some(Spread { low: at(1)?, median: at(2)?, high: at(3)? })
}

fn milliseconds(durations: &[Duration]) -> impl Iterator<Item = f64> {
    durations.iter().map(|duration| duration.as_secs_f64() * 1e3)
}

/// The median, in milliseconds; nothing where nothing was measured.
fn median(durations: &[Duration]) -> Option<f64> {
    Some(spread(milliseconds(durations))?.median)
}

fn percentile_99(durations: &[Duration]) -> Option<f64> {
    let mut values: Vec<f64> = milliseconds(durations).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() * 99 / 100).copied()
}

fn cell(values: Option<Spread>) -> String {
    let cell = |it: Spread| format!("{} ({}–{})", short(it.median), short(it.low), short(it.high));
    values.map_or_else(|| "–".to_owned(), cell)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), short)
}

fn megabytes(bytes: u64) -> f64 {
    Duration::from_micros(bytes).as_secs_f64()
}

/// Writes everything into `folder`.
pub(crate) fn write(
    folder: &Path,
    bench: &Bench,
    pinned: bool,
    rounds: usize,
    started: Instant,
    figures: &[Figures],
) {
    let mut text = format!(
        "# Measurements\n\n\
         Written by `cargo xtask bench` on {}. {}\n\n\
         Everything runs on one machine: the environment, a lean stand-in for Lambda's Runtime API, and PostgreSQL with \
         TLS and SCRAM on loopback{}. API Gateway's and Lambda's own share, and a real network, are not in it: only \
         ratios carry over. {rounds} rounds, a fresh environment of each in every round, in turn; medians, with the middle \
         half of the values in parentheses. The probe is the least program that answers `GET` one: the floor.\n",
        date(),
        machine(bench),
        if pinned { ", all on one processor" } else { " (they could not be kept on one processor here)" },
    );

    text += "\n## Cold start\n\nMilliseconds from the start of the process until it asks for its first event, connected, \
             and of the first request; megabytes of memory at the peak, and of what is deployed.\n\n\
             | | init | processor time of init | first request | peak memory | package | zipped |\n|---|---|---|---|---|---|---|\n";
    for it in figures.iter().filter(|it| it.name != FLASK) {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            it.name,
            cell(spread(milliseconds(&it.get.init))),
            cell(spread(milliseconds(&it.get.init_cpu))),
            cell(spread(milliseconds(&it.get.first))),
            number(peak(it)),
            short(megabytes(it.package.0)),
            short(megabytes(it.package.1)),
        );
    }

    text += "\n## Warm requests\n\nMilliseconds; the last column is requests per second over HTTP, two environments or \
             worker processes behind 8 clients on all processors.\n\n\
             | | GET one | p99 | list of 1,000 | PUT | POST | requests/s |\n|---|---|---|---|---|---|---|\n";
    for it in figures {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            it.name,
            cell(spread(milliseconds(&it.get.warm))),
            number(percentile_99(&it.get.warm)),
            number(median(&it.list.warm)),
            number(median(&it.update.warm)),
            number(median(&it.create.warm)),
            cell(spread(it.requests_per_second.iter().copied())),
        );
    }

    text += "\n## Processor time of a warm request\n\nMilliseconds, of the function and of the database's process for \
             its session. A POST of this project is exactly once; those of the others are an INSERT.\n\n\
             | | GET one | at the database | list of 1,000 | at the database | PUT | at the database | POST | at the database |\n\
             |---|---|---|---|---|---|---|---|---|\n";
    for it in figures {
        let cells = [&it.get, &it.list, &it.update, &it.create]
            .map(|it| format!("{} | {}", number(median(&it.warm_cpu)), number(median(&it.database_cpu))));
        text += &format!("| {} | {} |\n", it.name, cells.join(" | "));
    }

    text += &format!(
        "\n## Several requests at once\n\nRequests per second of one environment, with {} ms to the database in each \
         direction, where a subject can serve more than one at a time.\n\n| | one at a time | {AT_ONCE} at once |\n|---|---|---|\n",
        DISTANCE.as_millis()
    );
    for it in figures.iter().filter(|it| !it.several_at_once.is_empty()) {
        text += &format!(
            "| {} | {} | {} |\n",
            it.name,
            cell(spread(it.one_at_a_time.iter().copied())),
            cell(spread(it.several_at_once.iter().copied())),
        );
    }

    text += "\n## On the wire\n\nRound trips to the database until the first answer and for each request after it; \
             milliseconds of a cold start with its first request, and of a warm request, with a delay added in each direction.\n\n\
             | | round trips, cold | warm | cold, 0 ms | 1 ms | 10 ms | warm, 0 ms | 1 ms | 10 ms |\n\
             |---|---|---|---|---|---|---|---|---|\n";
    for it in figures {
        let cold: Vec<_> = it.delayed.iter().map(|(cold, _)| number(median(cold))).collect();
        let warm: Vec<_> = it.delayed.iter().map(|(_, warm)| number(median(warm))).collect();
        let (first, next) = it.round_trips;
        text +=
            &format!("| {} | {first} | {next} | {} | {} |\n", it.name, cold.join(" | "), warm.join(" | "));
    }

    text += &format!(
        "\nThe run took {} minutes after building.\n",
        short(started.elapsed().as_secs_f64() / 60.0)
    );

    fs::create_dir_all(folder).expect("the folder of the results");
    let save =
        |name: &str, content: &str| fs::write(folder.join(name), content).expect("writing the results");
    save("README.md", &text);
    let rows = |values: &dyn Fn(&Figures) -> Option<Vec<f64>>| -> Vec<Row> {
        let row = |(colour, it): (usize, &Figures)| Some(Row { name: it.name, colour, values: values(it)? });
        figures.iter().enumerate().filter_map(row).collect()
    };
    let cold = rows(&|it| Some(vec![median(&it.get.init)?, median(&it.get.init_cpu)?]));
    save("cold-start.svg", &bars("Cold start, connected", &["time", "processor time"], 1.0, &cold));
    let warm = rows(&|it| Some(vec![median(&it.get.warm)?, percentile_99(&it.get.warm)?]));
    save("warm.svg", &bars("A warm GET of one user", &["median", "99th percentile"], 0.01, &warm));
    let delayed = rows(&|it| it.delayed.iter().map(|(_, warm)| median(warm)).collect());
    save(
        "delay.svg",
        &lines(
            "A warm GET of one user, by distance to the database",
            "added delay in each direction, milliseconds",
            &DELAYS,
            &delayed,
        ),
    );
}

/// In megabytes.
fn peak(figures: &Figures) -> Option<f64> {
    let peaks = figures.get.peak_memory.iter().map(|kib| megabytes(kib * 1024));
    Some(spread(peaks)?.median)
}

fn date() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output().expect("the date");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn machine(bench: &Bench) -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let server: String =
        bench.database.client().query_one("SHOW server_version", &[]).expect("the server's version").get(0);
    let mut parts = vec![
        model.map_or("unknown processor", |(_, model)| model).to_owned(),
        format!("{} processors", thread::available_parallelism().map_or(1, usize::from)),
        format!("Linux {}", kernel.trim()),
        format!("PostgreSQL {}", server.split(' ').next().unwrap_or_default()),
    ];
    parts.extend(version("python3"));
    parts.extend(version("node").map(|version| format!("Node.js {version}")));
    parts.join(", ") + "."
}
