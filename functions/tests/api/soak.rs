//! Everything at once, for a while: many clients, many environments, many faults. In the end the table holds what the
//! answers have promised.
//!
//! `SOAK_SECONDS` says for how long (60). `SOAK_SEED` makes the choices of a run again, but not their timing.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use testkit::{Answer, Database, Event};

use crate::{
    chaos::{Chaos, Environment, NAME, print},
    support::{rows, user},
};

const CLIENTS: u64 = 16;

/// How many threads make faults, each in environments of its own.
const TROUBLEMAKERS: usize = 4;

/// The user whose name is a number, which all clients increment.
const COUNTER: i64 = 1;

/// Users up to this were there before.
const FIRST: i64 = 100;

#[test]
fn whatever_happens_no_write_is_lost_or_doubled_and_every_answer_is_in_time() {
    let seconds = setting("SOAK_SECONDS").unwrap_or(60);
    let seed = setting("SOAK_SEED").unwrap_or_else(rand::random);
    print(&format!("soak: SOAK_SECONDS={seconds} SOAK_SEED={seed}"));
    let random = |n: u64| StdRng::seed_from_u64(seed.wrapping_add(n));

    let database = Database::new();
    database
        .execute(&format!("INSERT INTO users (name, age) SELECT '0', 0 FROM generate_series(1, {FIRST})"));
    let chaos = Chaos::new(&database);
    let until = Instant::now() + Duration::from_secs(seconds);
    let memories: Vec<_> = thread::scope(|scope| {
        for first in 0..TROUBLEMAKERS {
            let (chaos, database, random) = (&chaos, &database, random(CLIENTS + first as u64));
            scope.spawn(move || chaos.disturb((first, TROUBLEMAKERS), database, until, random));
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| Client { number, chaos: &chaos, random: random(number), memory: Memory::default() })
            .map(|client| scope.spawn(move || client.run(until)))
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client's memory")).collect()
    });
    chaos.end();
    let probes = probe(&chaos);
    chaos.finish(&database);

    let rows = rows(&database).into_iter();
    let mut left: BTreeMap<i64, Content> =
        rows.map(|(id, name, age)| (id, (name.expect("a name"), age.expect("an age")))).collect();
    let value: u64 = left[&COUNTER].0.parse().expect("a number");
    let mut done: Vec<_> = memories.iter().flat_map(|memory| &memory.done).collect();
    let maybe: BTreeSet<_> = memories.iter().flat_map(|memory| &memory.maybe).collect();
    print(&format!("  counter: {value} after {} increments and some of {}", done.len(), maybe.len()));
    // Each number was somebody's, of those who have won it only one's, and none is beyond.
    done.sort_unstable();
    assert!(done.is_sorted_by(|one, next| one < next) && done.last() <= Some(&&value), "{done:?}");
    for number in 1..=value {
        assert!(done.contains(&&number) || maybe.contains(&number), "{number} of {done:?}, {maybe:?}");
    }
    let mut users = 0;
    for (id, known) in memories.iter().flat_map(|memory| &memory.users).chain(&probes) {
        let found = left.remove(id);
        users += u64::from(found.is_some());
        assert!(known.may_be.contains(&found), "user {id} is {found:?}, and not {known:?}");
    }
    let mut unknown: BTreeSet<_> = memories.iter().flat_map(|memory| &memory.unknown).collect();
    let unpromised = left.split_off(&(FIRST + 1));
    print(&format!("  users: {users}, and {} of {} of unknown outcome", unpromised.len(), unknown.len()));
    for (id, (name, _)) in unpromised {
        assert!(unknown.remove(&name), "user {id}, {name}, was not promised, or is there twice");
    }
}

/// The next request to each environment after the faults have ended succeeds. Returns what is known of the users that
/// were read and written.
fn probe(chaos: &Chaos) -> BTreeMap<i64, Known> {
    thread::scope(|scope| {
        let probes: Vec<_> = (COUNTER + 1..)
            .zip(&chaos.environments)
            .map(|(id, environment)| scope.spawn(move || probe_one(chaos, environment, id)))
            .collect();
        probes.into_iter().map(|probe| probe.join().expect("a success")).collect()
    })
}

fn probe_one(chaos: &Chaos, environment: &Environment, id: i64) -> (i64, Known) {
    let path = format!("/api/users/{id}");
    let content = (format!("Probe {id}"), 1);
    let body = user(&content.0, content.1);
    let event = match environment.binary {
        "list-users" => Event::get("/api/users"),
        "create-user" => Event::post("/api/users").json(&body),
        "get-user" => Event::get(&path),
        "update-user" => Event::put(&path).json(&body),
        _ => Event::delete(&path),
    };
    let answer = chaos.call_at(environment, &event);
    match (environment.binary, answer.status) {
        ("create-user", 201) => (answer.json()["id"].as_i64().expect("an id"), Known::new(content, &answer)),
        ("update-user", 200) => (id, Known::new(content, &answer)),
        ("delete-user", 200) => (id, Known { may_be: vec![None], tag: None }),
        (_, 200) => (id, Known::new(("0".to_owned(), 0), &answer)),
        _ => panic!("{answer:?} after all faults have ended"),
    }
}

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "not the product's configuration")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect(name))
}

type Content = (String, i32);

/// What the answers say about a user that only one client writes.
#[derive(Debug)]
struct Known {
    /// The contents that it may have; `None`: it may be gone.
    may_be: Vec<Option<Content>>,
    /// The last entity tag, and the content that it belongs to.
    tag: Option<(Content, String)>,
}

impl Known {
    fn new(content: Content, answer: &Answer) -> Self {
        let tag = answer.header("etag").map(|tag| (content.clone(), tag.to_owned()));
        Self { may_be: vec![Some(content)], tag }
    }

    /// Learns from the answer to a GET, a list, PUT with the content that it has become, or DELETE.
    fn saw(&mut self, is: Option<Content>, answer: &Answer) {
        assert!(self.may_be.contains(&is), "{is:?} and not {:?}: {answer:?}", self.may_be);
        *self = match is {
            Some(content) if answer.header("etag").is_some() => Self::new(content, answer),
            is => Self { may_be: vec![is], tag: self.tag.take() },
        }
    }

    /// Learns from the answer to a PUT of `new`, or to a DELETE (`None`), with `If-Match` for a content or without.
    fn written(&mut self, new: Option<Content>, expected: Option<&Content>, answer: &Answer) {
        let met = |is: &Option<Content>| {
            is.is_some() && expected.is_none_or(|content| is.as_ref() == Some(content))
        };
        let some = self.may_be.iter().any(met);
        match answer.status {
            503 if some => self.may_be.push(new),
            503 => {}
            // A DELETE of which an attempt was lost can't say who has removed the user.
            200 if some || new.is_none() && self.may_be.contains(&None) => {
                self.may_be = vec![new.clone()];
                self.saw(new, answer);
            }
            404 => self.saw(None, answer),
            412 if expected.is_some() => {
                self.may_be.retain(|is| is.is_some() && !met(is));
                assert!(!self.may_be.is_empty(), "If-Match did match: {answer:?}");
            }
            _ => panic!("{answer:?} to a write of {new:?} if {expected:?}, of {:?}", self.may_be),
        }
    }
}

/// Somebody who calls the functions.
struct Client<'a> {
    number: u64,
    chaos: &'a Chaos,
    random: StdRng,
    memory: Memory,
}

/// What a client remembers.
#[derive(Debug, Default)]
struct Memory {
    names: u64,
    users: BTreeMap<i64, Known>,
    /// The names of users of whom only 503 is known: each may be there, once.
    unknown: Vec<String>,
    /// The numbers to which it has incremented the counter.
    done: Vec<u64>,
    /// The numbers to which it may have in addition.
    maybe: Vec<u64>,
}

impl Client<'_> {
    fn run(mut self, until: Instant) -> Memory {
        while Instant::now() < until {
            match self.random.random_range(0..100) {
                0..20 => self.create(true),
                20..30 => self.create(false),
                30..32 => self.create_invalid(),
                32..55 => self.write("update-user"),
                55..65 => self.write("delete-user"),
                65..75 => self.read(),
                75..80 => self.list(),
                _ => self.increment(),
            }
        }
        self.memory
    }

    fn call(&mut self, binary: &str, event: &Event) -> Answer {
        self.chaos.call(&mut self.random, binary, event)
    }

    /// A content that no user ever had.
    fn content(&mut self) -> Content {
        self.memory.names += 1;
        (format!("{NAME} {} {}", self.number, self.memory.names), self.random.random_range(0..=150))
    }

    fn any_user(&mut self) -> Option<i64> {
        let ids: Vec<_> = self.memory.users.keys().copied().collect();
        ids.choose(&mut self.random).copied()
    }

    fn create(&mut self, keyed: bool) {
        let (content, other) = (self.content(), self.content());
        let key = content.0.replace(' ', "-");
        let post = |(name, age): &Content| {
            let event = Event::post("/api/users").json(&user(name, *age));
            if keyed { event.header("idempotency-key", &key) } else { event }
        };
        let mut answer = self.call("create-user", &post(&content));
        for _ in 0..3 {
            if keyed && answer.status == 503 {
                self.chaos.count("create-user repeated by the client".to_owned());
                answer = self.call("create-user", &post(&content));
            }
        }
        if answer.status == 503 {
            self.memory.unknown.push(content.0);
            return;
        }
        assert_eq!((answer.status, read(&answer.json())), (201, content.clone()));
        let id = answer.json()["id"].as_i64().expect("an id");
        if keyed && self.random.random_ratio(1, 4) {
            let again = self.call("create-user", &post(&content));
            assert!(again.status == 503 || again.status == 201 && again.body == answer.body, "{again:?}");
            let refused = self.call("create-user", &post(&other));
            assert!([422, 503].contains(&refused.status), "{refused:?}");
        }
        let known = Known::new(content, &answer);
        assert!(self.memory.users.insert(id, known).is_none(), "{id} was given twice");
    }

    fn create_invalid(&mut self) {
        let (name, _) = self.content();
        let event = Event::post("/api/users").json(&user(&name, 151));
        assert_eq!(self.call("create-user", &event).status, 400);
    }

    fn write(&mut self, binary: &str) {
        let Some(id) = self.any_user() else { return };
        let path = format!("/api/users/{id}");
        let new = (binary == "update-user").then(|| self.content());
        let mut event = match &new {
            Some((name, age)) => Event::put(&path).json(&user(name, *age)),
            None => Event::delete(&path),
        };
        let mut expected = None;
        if let (Some((content, tag)), true) =
            (self.memory.users[&id].tag.clone(), self.random.random_bool(0.5))
        {
            event = event.header("if-match", &tag);
            expected = Some(content);
        }
        for _ in 0..3 {
            let answer = self.call(binary, &event);
            if let (200, Some(new)) = (answer.status, &new) {
                assert_eq!(read(&answer.json()), *new);
            }
            let known = self.memory.users.get_mut(&id).expect("a user");
            known.written(new.clone(), expected.as_ref(), &answer);
            if answer.status != 503 || self.random.random_bool(0.5) {
                return;
            }
            self.chaos.count(format!("{binary} repeated by the client"));
        }
    }

    fn read(&mut self) {
        let Some(id) = self.any_user() else { return };
        let answer = self.call("get-user", &Event::get(&format!("/api/users/{id}")));
        let known = self.memory.users.get_mut(&id).expect("a user");
        match answer.status {
            200 => known.saw(Some(read(&answer.json())), &answer),
            404 => known.saw(None, &answer),
            _ => {}
        }
    }

    fn list(&mut self) {
        let Some(id) = self.any_user() else { return };
        let query = format!("limit=1&after={}", id - 1);
        let answer = self.call("list-users", &Event::get("/api/users").query(&query));
        if answer.status == 200 {
            let page = answer.json();
            // Null, and thus not this user, if the page is empty: the last of all was deleted.
            let first = &page[0];
            let is = (first["id"] == id).then(|| read(first));
            self.memory.users.get_mut(&id).expect("a user").saw(is, &answer);
        }
    }

    fn increment(&mut self) {
        let path = format!("/api/users/{COUNTER}");
        let before = self.call("get-user", &Event::get(&path));
        let Some(tag) = before.header("etag") else { return assert_eq!(before.status, 503, "{before:?}") };
        let next = read(&before.json()).0.parse::<u64>().expect("a number") + 1;
        let event = Event::put(&path).json(&user(&next.to_string(), 0)).header("if-match", tag);
        let answer = self.call("update-user", &event);
        match answer.status {
            200 => self.memory.done.push(next),
            503 => self.memory.maybe.push(next),
            status => assert_eq!(status, 412, "{answer:?}"),
        }
    }
}

fn read(user: &Value) -> Content {
    let age = user["age"].as_i64().and_then(|age| age.try_into().ok());
    (user["name"].as_str().expect("a name").to_owned(), age.expect("an age"))
}
