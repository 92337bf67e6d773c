//! Environments to which everything happens that can happen.

use std::{
    collections::BTreeMap,
    io::Write,
    iter::repeat_n,
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use rand::{
    RngExt,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use testkit::{Answer, Database, Event, Function, Greeting, Proxy, role};

use crate::support::{access_of, start_with};

/// How many environments each function has. Those of one function can get into each other's way.
const ENVIRONMENTS: [(&str, usize); 5] =
    [("create-user", 3), ("get-user", 2), ("update-user", 4), ("delete-user", 2), ("list-users", 1)];

/// The time in which every answer must come.
const PATIENCE: Duration = Duration::from_millis(8_500);

/// How the name of each user begins that a client stores. It must not be logged.
pub(crate) const NAME: &str = "Nemo";

/// Past the capture of a test's output: the figures of a soak that has passed are worth reading as well.
pub(crate) fn print(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr");
}

/// The process of one function, and its network.
pub(crate) struct Environment {
    pub(crate) binary: &'static str,
    function: Function,
    proxy: Proxy,
    tls: bool,
    /// One for each request that the process serves at once.
    turns: Vec<Mutex<()>>,
    frozen: Mutex<Frozen>,
}

#[derive(Default)]
struct Frozen {
    total: Duration,
    since: Option<Instant>,
}

impl Environment {
    fn start(binary: &'static str, database: &Database, tls: bool, at_once: usize) -> Self {
        let proxy = Proxy::new();
        let url = if tls { database.url_via(&proxy) } else { database.plain_url_via(&proxy) };
        let pooler = if at_once > 1 { "none" } else { "transaction" };
        let env = [("AWS_LAMBDA_MAX_CONCURRENCY", &*at_once.to_string()), ("DATABASE_POOLER", pooler)];
        let function = start_with(binary, &url, &env);
        function.wait_for_init();
        let turns = (0..at_once).map(|_| Mutex::default()).collect();
        Self { binary, function, proxy, tls, turns, frozen: Mutex::default() }
    }

    fn freeze(&self, time: Duration) {
        self.function.freeze();
        self.frozen.lock().expect("a lock").since = Some(Instant::now());
        thread::sleep(time);
        let total = self.frozen();
        *self.frozen.lock().expect("a lock") = Frozen { total, since: None };
        self.function.thaw();
    }

    /// For how long the process has been frozen so far.
    fn frozen(&self) -> Duration {
        let frozen = self.frozen.lock().expect("a lock");
        frozen.total + frozen.since.map(|since| since.elapsed()).unwrap_or_default()
    }
}

/// What happens to an environment.
const FAULTS: [&str; 11] = [
    "connections closed",
    "connections reset",
    "connections silenced",
    "next request lost",
    "next answer lost",
    "delay",
    "server hangs up",
    "server is silent",
    "server is starting",
    "backends terminated",
    "process frozen",
];

/// All environments of all functions, on one database.
pub(crate) struct Chaos {
    pub(crate) environments: Vec<Environment>,
    figures: Mutex<BTreeMap<String, u64>>,
    slowest: Mutex<Duration>,
}

impl Chaos {
    /// Environments that are ready, in turn with and without TLS, and with one request and three at once.
    pub(crate) fn new(database: &Database) -> Self {
        // Shorter than in a deployment: the server keeps the sessions of silenced connections until then, and it has
        // only so many.
        for (binary, _) in ENVIRONMENTS {
            let (role, name) = (role(access_of(binary)), database.name());
            database
                .execute(&format!("ALTER ROLE {role} IN DATABASE {name} SET idle_session_timeout = '10s'"));
        }
        let binaries = ENVIRONMENTS.iter().flat_map(|(binary, times)| repeat_n(*binary, *times));
        let kinds = [(true, 1), (false, 3), (true, 3), (false, 1)];
        let environments = binaries.zip(kinds.into_iter().cycle());
        let environments =
            environments.map(|(binary, (tls, at_once))| Environment::start(binary, database, tls, at_once));
        Self { environments: environments.collect(), figures: Mutex::default(), slowest: Mutex::default() }
    }

    pub(crate) fn count(&self, what: String) {
        *self.figures.lock().expect("a lock").entry(what).or_default() += 1;
    }

    /// The answer of one of a function's environments: as in Lambda, of one that is not busy, if there is any.
    pub(crate) fn call(&self, random: &mut StdRng, binary: &str, event: &Event) -> Answer {
        let mut all: Vec<_> =
            self.environments.iter().filter(|environment| environment.binary == binary).collect();
        all.shuffle(random);
        let idle = all.iter().find_map(|environment| {
            let turn = environment.turns.iter().find_map(|turn| turn.try_lock().ok())?;
            Some((environment, turn))
        });
        match idle {
            Some((environment, turn)) => self.call_in_turn(environment, turn, event),
            None => self.call_at(all[0], event),
        }
    }

    pub(crate) fn call_at(&self, environment: &Environment, event: &Event) -> Answer {
        self.call_in_turn(environment, environment.turns[0].lock().expect("a turn"), event)
    }

    fn call_in_turn(&self, environment: &Environment, turn: MutexGuard<()>, event: &Event) -> Answer {
        let (start, frozen) = (Instant::now(), environment.frozen());
        let answer = environment.function.invoke(event.clone());
        // The time for which a process is frozen is not its own.
        let time = start.elapsed().saturating_sub(environment.frozen() - frozen);
        drop(turn);
        assert!(time < PATIENCE, "{time:?} for {answer:?}");
        assert!(answer.status < 500 || answer.status == 503, "{answer:?}");
        assert!(!answer.log.iter().any(|line| line.contains(NAME)), "a name in the log of {answer:?}");
        self.count(format!("{} {}", environment.binary, answer.status));
        let mut slowest = self.slowest.lock().expect("a lock");
        *slowest = time.max(*slowest);
        answer
    }

    /// Makes one fault after the other until then, in every n-th environment from `first` on. Nothing waits for a
    /// fault, so the pauses between them are sleeps.
    pub(crate) fn disturb(
        &self,
        (first, n): (usize, usize),
        database: &Database,
        until: Instant,
        mut random: StdRng,
    ) {
        let environments: Vec<_> = self.environments.iter().skip(first).step_by(n).collect();
        let mut client = database.client();
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(random.random_range(20..250)));
            let environment = environments.choose(&mut random).expect("an environment");
            let proxy = &environment.proxy;
            // Mostly shorter than three attempts to connect take, sometimes longer than any of the product's patience.
            let long = random.random_ratio(1, 8);
            let time = Duration::from_millis(random.random_range(if long { 600..3_500 } else { 50..600 }));
            let last = [Proxy::close, Proxy::lose_next_request, Proxy::lose_next_answer];
            let last = last.choose(&mut random).expect("an end");
            // What is open ends, and what follows is no better. An answer that is lost here was given by a server that
            // can't be asked again.
            let outage = |greeting| {
                proxy.greet(greeting);
                last(proxy);
                thread::sleep(time);
                proxy.greet(Greeting::Server);
            };
            // The one that finds most is made most.
            let lost = random.random_ratio(1, 4).then_some(&"next answer lost");
            let fault = lost.or_else(|| FAULTS.choose(&mut random)).expect("a fault");
            match *fault {
                "connections closed" => proxy.close(),
                "connections reset" => proxy.reset(),
                "connections silenced" => proxy.silence(),
                "next request lost" => proxy.lose_next_request(),
                "next answer lost" => proxy.lose_next_answer(),
                "delay" => {
                    proxy.delay(Duration::from_millis(random.random_range(1..150)));
                    thread::sleep(time);
                    proxy.delay(Duration::ZERO);
                }
                "server hangs up" => outage(Greeting::Hangup),
                "server is silent" => outage(Greeting::Silence),
                "server is starting" if !environment.tls => outage(Greeting::Fatal("57P03")),
                "server is starting" => continue,
                "backends terminated" => {
                    let some = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                                WHERE datname = current_database() AND usename <> current_user AND random() < 0.3";
                    client.query(some, &[]).expect("terminating backends");
                }
                // Shorter than the patience with a statement: one that was given up while it was still unsent would be
                // executed later than its answer. Lambda freezes nobody in the middle of a request.
                "process frozen" => environment.freeze(time.min(Duration::from_millis(1_500))),
                fault => panic!("what is {fault}?"),
            }
            self.count(format!("fault: {fault}"));
        }
    }

    /// Ends all faults but one: nobody is told that the connections of now are gone.
    pub(crate) fn end(&self) {
        for environment in &self.environments {
            environment.proxy.heal();
            environment.proxy.silence();
        }
    }

    /// Ends the processes, waits for the server to end what they have begun, and prints the figures.
    pub(crate) fn finish(self, database: &Database) {
        let connections: usize =
            self.environments.iter().map(|environment| environment.proxy.connections()).sum();
        drop(self.environments);
        let mut client = database.client();
        let busy = "SELECT count(*), pg_sleep(0.01)::text FROM pg_stat_activity
                    WHERE datname = current_database() AND usename <> current_user";
        while client.query_one(busy, &[]).expect("counting").get::<_, i64>(0) > 0 {}
        for (what, times) in self.figures.into_inner().expect("figures") {
            print(&format!("  {what}: {times}"));
        }
        print(&format!("  connections: {connections}"));
        print(&format!("  slowest answer: {:?}", self.slowest.into_inner().expect("a time")));
    }
}
