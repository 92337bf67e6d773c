//! The measurements.

use std::{process::Command, time::Duration};

use nix::unistd::Pid;
use serde_json::Value;
use testkit::{Database, Event, Proxy};

use crate::{
    gateway::{Client, load, throughput},
    host::Environment,
    process::{Tree, run_on},
    subject::{Flask, Operation, Subject},
};

/// The requests of a measurement that are not the first of their environment.
const WARM: usize = 200;

/// What a request is for.
pub(crate) const PATH: &str = "/api/users/1";

/// What an environment has cost.
#[derive(Default)]
pub(crate) struct Sample {
    pub(crate) init: Vec<Duration>,
    pub(crate) init_cpu: Vec<Duration>,
    pub(crate) first: Vec<Duration>,
    pub(crate) warm: Vec<Duration>,
    /// Per request.
    pub(crate) warm_cpu: Vec<Duration>,
    /// Per request, of the server process that it is connected to.
    pub(crate) database_cpu: Vec<Duration>,
    /// In KiB.
    pub(crate) peak_memory: Vec<u64>,
}

/// All about a subject, over all rounds.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) name: &'static str,
    pub(crate) package: (u64, u64),
    pub(crate) get: Sample,
    pub(crate) list: Sample,
    pub(crate) create: Sample,
    pub(crate) update: Sample,
    /// Until the first answer, and per request from then on.
    pub(crate) round_trips: (usize, usize),
    /// Init and first request, and warm requests, with [`DELAYS`].
    pub(crate) delayed: [(Vec<Duration>, Vec<Duration>); DELAYS.len()],
    pub(crate) requests_per_second: Vec<f64>,
    /// Of one environment with [`DISTANCE`], which has one event at a time, and [`AT_ONCE`].
    pub(crate) one_at_a_time: Vec<f64>,
    pub(crate) several_at_once: Vec<f64>,
}

/// How many events an environment has at once where it can.
pub(crate) const AT_ONCE: usize = 8;

/// How far away the database is then, in each direction.
pub(crate) const DISTANCE: Duration = Duration::from_millis(5);

/// The delays that are added in each direction, in milliseconds.
pub(crate) const DELAYS: [u64; 3] = [0, 1, 10];

/// The name of the guide's app in the tables.
pub(crate) const FLASK: &str = "The guide's Flask app";

/// Where everything runs.
pub(crate) struct Bench {
    /// Holds user 1, Alice, and 999 others, and is only read.
    pub(crate) database: Database,
    /// Holds user 1, gets new ones, and they are changed.
    pub(crate) written: Database,
    pub(crate) postmaster: Option<Pid>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let database = Database::new();
        database.execute(
            "INSERT INTO users (name, age) VALUES ('Alice', 30);
             INSERT INTO users (name, age) SELECT 'User number ' || n, n % 100 FROM generate_series(2, 1000) n;
             ANALYZE users",
        );
        let directory: String =
            database.client().query_one("SHOW data_directory", &[]).expect("the data directory").get(0);
        let pid = std::fs::read_to_string(format!("{directory}/postmaster.pid")).ok();
        let postmaster = pid.and_then(|pid| pid.lines().next()?.parse().ok()).map(Pid::from_raw);
        let written = Database::new();
        written.execute("INSERT INTO users (name, age) VALUES ('Alice', 30)");
        Self { database, written, postmaster }
    }

    /// Everything on one processor, so that nothing depends on where the scheduler puts whom; or on all.
    pub(crate) fn pin(&self, one: bool) -> bool {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let all: Vec<usize> = (0..processors.max(2)).collect();
        run_on(if one { &all[1..2] } else { &all }, self.postmaster)
    }

    /// A fresh environment of each subject, one after the other.
    pub(crate) fn round(&self, number: usize, subjects: &[Subject], figures: &mut [Figures]) {
        for index in 0..subjects.len() {
            let index = (index + number) % subjects.len();
            let (subject, figures) = (&subjects[index], &mut figures[index]);
            let url = self.database.url();
            self.sample(subject, Operation::GetOne, &url, WARM, &mut figures.get);
            if subject.does(Operation::List) {
                self.sample(subject, Operation::List, &url, WARM / 10, &mut figures.list);
                self.sample(subject, Operation::Update, &self.written.url(), WARM / 4, &mut figures.update);
                self.sample(subject, Operation::Create, &self.written.url(), WARM / 4, &mut figures.create);
            }
        }
    }

    fn sample(&self, subject: &Subject, operation: Operation, url: &str, warm: usize, sample: &mut Sample) {
        let mut environment = Environment::start(subject.name, subject.command(operation, url));
        let init = environment.init();
        let init_cpu = environment.tree().cpu();
        let ask = |environment: &mut Environment| {
            let (elapsed, answer) = environment.invoke(&event(operation));
            check(operation, &answer);
            elapsed
        };
        sample.init.push(init);
        sample.init_cpu.push(init_cpu);
        sample.first.push(ask(&mut environment));
        // psycopg prepares a statement when it comes for the sixth time.
        for _ in 0..10 {
            ask(&mut environment);
        }
        let (before, database_before) = (environment.tree().cpu(), self.sessions_cpu());
        sample.warm.extend((0..warm).map(|_| ask(&mut environment)));
        // Whoever has answered may still be at work: it is done when it asks again.
        environment.init();
        let requests = u32::try_from(warm).expect("a small number");
        sample.warm_cpu.push((environment.tree().cpu() - before) / requests);
        sample.database_cpu.push((self.sessions_cpu() - database_before) / requests);
        sample.peak_memory.push(environment.tree().peak_memory());
    }

    /// The processor time of the server processes of all sessions on the databases.
    fn sessions_cpu(&self) -> Duration {
        let sessions = "SELECT pid FROM pg_stat_activity WHERE datname = ANY($1) AND pid <> pg_backend_pid()";
        let names = [self.database.name(), self.written.name()];
        let sessions = self.database.client().query(sessions, &[&names.as_slice()]).expect("the sessions");
        sessions.iter().map(|row| Tree(row.get::<_, i32>(0).cast_unsigned()).cpu()).sum()
    }

    /// The processor time of the server processes of all sessions that have ended: the guide's app opens one for each
    /// request.
    fn ended_sessions_cpu(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.postmaster?)).ok()?;
        // Behind the name, which may hold spaces: `cutime` and `cstime`, in hundredths of a second.
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks =
            fields.get(13..15)?.iter().map(|field| field.parse::<u64>().unwrap_or_default()).sum::<u64>();
        Some(Duration::from_millis(ticks * 10))
    }

    /// One environment, and a database that is further away.
    pub(crate) fn at_once(&self, subject: &Subject, figures: &mut Figures, time: Duration) {
        let proxy = Proxy::new();
        proxy.delay_asleep(DISTANCE);
        let url = self.database.url_via(&proxy);
        let rate = |at_once: usize| {
            let mut command = subject.command(Operation::GetOne, &url);
            command.env("AWS_LAMBDA_MAX_CONCURRENCY", at_once.to_string());
            Environment::start(subject.name, command).rate(&event(Operation::GetOne), time)
        };
        figures.one_at_a_time.push(rate(1));
        figures.several_at_once.push(rate(AT_ONCE));
    }

    /// The same for the guide's app, over HTTP.
    pub(crate) fn flask_round(&self, figures: &mut Figures) -> bool {
        let Some(flask) = Flask::start(&self.database.url()) else { return false };
        let mut client = Client::new(flask.port);
        figures.get.first.push(client.get(PATH));
        let (before, database_before) = (flask.tree().cpu(), self.ended_sessions_cpu());
        let requests = 50;
        figures.get.warm.extend((0..requests).map(|_| client.get(PATH)));
        figures.get.warm_cpu.push((flask.tree().cpu() - before) / requests);
        if let (Some(before), Some(now)) = (database_before, self.ended_sessions_cpu()) {
            figures.get.database_cpu.push((now - before) / requests);
        }
        figures.get.peak_memory.push(flask.tree().peak_memory());
        true
    }

    /// Counts round trips, and asks with a delay.
    pub(crate) fn on_the_wire(&self, subject: &Subject, figures: &mut Figures) {
        let proxy = Proxy::new();
        let url = self.database.url_via(&proxy);
        let start =
            || -> Environment { Environment::start(subject.name, subject.command(Operation::GetOne, &url)) };
        let ask = |environment: &mut Environment| environment.invoke(&event(Operation::GetOne)).0;
        if figures.round_trips == (0, 0) {
            let mut environment = start();
            environment.init();
            ask(&mut environment);
            let cold = proxy.round_trips();
            // psycopg prepares a statement when it comes for the sixth time, which is a round trip more.
            let ask_ten = |environment: &mut Environment| {
                for _ in 0..10 {
                    ask(environment);
                }
            };
            ask_ten(&mut environment);
            let (warm, ()) = proxy.round_trips_of(|| ask_ten(&mut environment));
            assert_eq!(warm % 10, 0, "{}: the round trips of a request vary", subject.name);
            figures.round_trips = (cold, warm / 10);
        }
        for (delay, (cold, warm)) in DELAYS.iter().zip(&mut figures.delayed) {
            proxy.delay(Duration::from_millis(*delay));
            let mut environment = start();
            let init = environment.init();
            cold.push(init + ask(&mut environment));
            warm.extend((0..15).map(|_| ask(&mut environment)));
        }
    }

    /// The same for the guide's app.
    pub(crate) fn flask_on_the_wire(&self, figures: &mut Figures) -> bool {
        let proxy = Proxy::new();
        let Some(flask) = Flask::start(&self.database.url_via(&proxy)) else { return false };
        let mut client = Client::new(flask.port);
        client.get(PATH);
        let (round_trips, _) = proxy.round_trips_of(|| client.get(PATH));
        figures.round_trips = (round_trips, round_trips);
        for (delay, (_, warm)) in DELAYS.iter().zip(&mut figures.delayed) {
            proxy.delay(Duration::from_millis(*delay));
            warm.extend((0..5).map(|_| client.get(PATH)));
        }
        true
    }

    /// Requests per second of two environments, or of the app's two workers.
    pub(crate) fn load(&self, subjects: &[Subject], figures: &mut [Figures], time: Duration) {
        let url = self.database.url();
        for (subject, figures) in subjects.iter().zip(&mut *figures) {
            let start = |_| Environment::start(subject.name, subject.command(Operation::GetOne, &url));
            let mut environments: Vec<_> = (0..2).map(start).collect();
            for environment in &mut environments {
                environment.init();
            }
            figures.requests_per_second.push(throughput(environments, PATH, time));
        }
        if let (Some(flask), Some(figures)) = (Flask::start(&url), figures.last_mut()) {
            figures.requests_per_second.push(load(flask.port, PATH, time));
        }
    }
}

fn event(operation: Operation) -> String {
    let event = match operation {
        Operation::GetOne => Event::get(PATH),
        Operation::List => Event::get("/api/users"),
        Operation::Update => Event::put(PATH).json(&serde_json::json!({ "name": "Alice", "age": 31 })),
        Operation::Create => {
            Event::post("/api/users").json(&serde_json::json!({ "name": "Alice", "age": 30 }))
        }
    };
    Value::from(event).to_string()
}

/// An answer that is wrong must not be quick.
fn check(operation: Operation, answer: &[u8]) {
    let answer: Value = serde_json::from_slice(answer).expect("an answer in JSON");
    let body: Value =
        answer["body"].as_str().map_or(Value::Null, |body| serde_json::from_str(body).unwrap_or_default());
    let right = match operation {
        Operation::GetOne => answer["statusCode"] == 200 && body["id"] == 1 && body["name"] == "Alice",
        Operation::List => {
            answer["statusCode"] == 200 && body.as_array().is_some_and(|users| users.len() == 1000)
        }
        Operation::Update => answer["statusCode"] == 200 && body["age"] == 31,
        Operation::Create => answer["statusCode"] == 201 && body["age"] == 30,
    };
    assert!(right, "not an answer: {answer}");
}

/// The first line of what a program prints about its version.
pub(crate) fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
