//! Any sequence of the five operations is answered as a map in memory says.

use std::{cell::RefCell, collections::BTreeMap};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
    test_runner::TestCaseResult,
};
use serde_json::{Value, json};
use testkit::{Answer, Caller, Database, Event};

use crate::{
    properties::check,
    support::{endpoints, rows, start},
};

#[test]
fn any_sequence_of_operations_is_answered_as_a_map_in_memory_says() {
    let database = Database::new();
    let client = RefCell::new(database.client());
    let functions = endpoints().into_iter().map(|it| (it.binary, start(it.binary, &database)));
    let functions: BTreeMap<_, _> = functions.collect();
    check(100, vec(operation(), 1..50), |operations| {
        let empty = "TRUNCATE users, idempotency_keys RESTART IDENTITY";
        client.borrow_mut().batch_execute(empty).expect("an empty table");
        let mut model = Model::default();
        for operation in operations {
            let (binary, event) = model.request(&operation);
            let answer = functions[binary].invoke(event.clone());
            let expected = model.apply(&operation, &answer).unwrap_or_else(|problem| problem);
            model.compare(expected, &answer).map_err(|error| {
                TestCaseError::fail(format!("{error}\n{operation:?}\nEvent: {event}\n{answer:?}"))
            })?;
        }
        let users = model.users.into_iter().map(|(id, (name, age))| (id, Some(name), Some(age)));
        prop_assert_eq!(rows(&database), users.collect::<Vec<_>>());
        Ok(())
    });
}

type Content = (String, i32);

#[derive(Clone, Debug)]
enum Operation {
    List(Query, Conditions),
    Get(Id, Conditions),
    Create(Body, Option<Key>, Conditions),
    Update(Id, Body, Conditions),
    Delete(Id, Conditions),
}

/// Preconditions, which every operation takes.
#[derive(Clone, Debug)]
struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

#[derive(Clone, Debug)]
enum Query {
    Page(Option<i64>, Option<u16>),
    Wrong(&'static str),
}

#[derive(Clone, Debug)]
enum Id {
    /// One that was given to a user, who may be gone.
    Given(Index),
    Other(&'static str),
}

#[derive(Clone, Debug)]
enum Body {
    User(Content),
    /// With the answer's member `error`.
    Wrong(&'static str, &'static str),
}

#[derive(Clone, Debug)]
struct Key {
    /// With or without quotes.
    text: &'static str,
    /// The name of a role; nobody where anybody may call.
    role: Option<&'static str>,
    session: &'static str,
}

impl Key {
    /// What makes a key another one.
    fn identity(&self) -> (Option<&'static str>, &'static str) {
        (self.role, self.text.trim_matches('"'))
    }
}

#[derive(Clone, Debug)]
enum Tags {
    List(Vec<Tag>),
    Any,
    Malformed,
}

#[derive(Clone, Debug)]
struct Tag {
    weak: bool,
    of: Of,
}

/// What an entity tag belongs to.
#[derive(Clone, Debug)]
enum Of {
    /// What the user has now.
    Current,
    /// What some user has, or had.
    Known(Index),
    Nothing,
}

fn operation() -> impl Strategy<Value = Operation> {
    let after = option::of(prop_oneof![3 => -1..12_i64, 1 => select(vec![i64::MIN, i64::MAX])]);
    let limit = option::of(prop_oneof![3 => 1..4_u16, 1 => Just(1000)]);
    let wrong = ["limit=0", "limit=1001&after=01", "after=1&after=2", "after=%2B1", "limit=0&_=17"];
    let query = prop_oneof![
        4 => (after, limit).prop_map(|(after, limit)| Query::Page(after, limit)),
        1 => select(wrong.to_vec()).prop_map(Query::Wrong),
    ];
    let other = ["1000000", "9223372036854775807", "9223372036854775808", "0", "-1", "01", "1.0", "x"];
    let other = select(other.to_vec()).prop_map(Id::Other);
    let id = prop_oneof![6 => any::<Index>().prop_map(Id::Given), 1 => other].boxed();
    let name = prop_oneof![
        4 => select(vec!["Alice", "Bob", " Bob", "😀"]).prop_map(str::to_owned),
        1 => "\\PC{1,100}".prop_filter("blank", |name| !name.trim().is_empty()),
    ];
    let wrong = [
        ("{", "Invalid input"),
        (r#"["Alice",30]"#, "Invalid input"),
        (r#"{"name":"Alice","age":151}"#, "Invalid input"),
        (r#"{"name":"Alice"}"#, "Missing required fields"),
    ];
    let body = prop_oneof![
        6 => (name, prop_oneof![3 => 30..32, 1 => 0..=150]).prop_map(Body::User),
        1 => select(wrong.to_vec()).prop_map(|(text, error)| Body::Wrong(text, error)),
    ]
    .boxed();
    let text = select(vec!["a", "\"a\"", "b", "\"b c\"", "not visible"]);
    let role = select(vec![None, Some("Ann"), Some("Ann"), Some("Ben")]);
    let key = (text, role, select(vec!["one", "two"])).prop_map(|(text, role, session)| Key {
        text,
        role,
        session,
    });
    let of =
        prop_oneof![3 => Just(Of::Current), 2 => any::<Index>().prop_map(Of::Known), 1 => Just(Of::Nothing)];
    let tag = (prop::bool::weighted(0.2), of).prop_map(|(weak, of)| Tag { weak, of });
    let tags = prop_oneof![
        6 => vec(tag, 1..3).prop_map(Tags::List),
        1 => select(vec![Tags::Any, Tags::Malformed]),
    ];
    let often = (option::of(tags.clone()), option::weighted(0.3, tags.clone()));
    let seldom = (option::weighted(0.1, tags.clone()), option::weighted(0.1, tags));
    let conditions = |(if_match, if_none_match)| Conditions { if_match, if_none_match };
    let (often, seldom) = (often.prop_map(conditions).boxed(), seldom.prop_map(conditions).boxed());
    prop_oneof![
        2 => (query, seldom.clone()).prop_map(|(query, them)| Operation::List(query, them)),
        2 => (id.clone(), often.clone()).prop_map(|(id, them)| Operation::Get(id, them)),
        4 => (body.clone(), option::of(key), seldom)
            .prop_map(|(body, key, them)| Operation::Create(body, key, them)),
        3 => (id.clone(), body, often.clone()).prop_map(|(id, body, them)| Operation::Update(id, body, them)),
        1 => (id, often).prop_map(|(id, them)| Operation::Delete(id, them)),
    ]
}

/// What the database would hold if it were a few maps.
#[derive(Debug, Default)]
struct Model {
    users: BTreeMap<i64, Content>,
    /// All ids that were ever given, in order.
    given: Vec<i64>,
    /// What was asked for with each caller's key, and the id that was answered.
    keys: BTreeMap<(Option<&'static str>, &'static str), (Content, i64)>,
    /// The entity tag that each content was seen with.
    tags: BTreeMap<Content, String>,
}

/// The answer that there must be.
#[derive(Debug, Default)]
struct Expected {
    status: u16,
    body: Value,
    /// The content whose entity tag it has.
    tag_of: Option<Content>,
    link: Option<String>,
    location: Option<String>,
}

impl Expected {
    fn user(status: u16, id: i64, content: &Content) -> Self {
        let body = json!({ "id": id, "name": content.0, "age": content.1 });
        let location = (status == 201).then(|| format!("users/{id}"));
        Self { status, body, tag_of: Some(content.clone()), location, link: None }
    }

    fn problem(status: u16, title: &str, error: &str) -> Self {
        let body = json!({ "type": "about:blank", "title": title, "status": status, "error": error });
        Self { status, body, ..Self::default() }
    }

    fn invalid() -> Self {
        Self::problem(400, "Bad Request", "Invalid input")
    }

    fn precondition() -> Self {
        let text = "A precondition does not hold: see If-Match and If-None-Match";
        Self::problem(412, "Precondition Failed", text)
    }

    fn not_found() -> Self {
        Self::problem(404, "Not Found", "User not found")
    }
}

impl Conditions {
    fn well_formed(&self) -> Result<(), Expected> {
        let malformed = |tags: &Option<Tags>| matches!(tags, Some(Tags::Malformed));
        if malformed(&self.if_match) || malformed(&self.if_none_match) {
            return Err(Expected::invalid());
        }
        Ok(())
    }

    /// Which of them keeps a request from the list.
    fn refused_by_list(&self) -> Option<&'static str> {
        if matches!(self.if_match, Some(Tags::List(_))) {
            return Some("If-Match");
        }
        matches!(self.if_none_match, Some(Tags::Any)).then_some("If-None-Match")
    }
}

impl Model {
    /// The binary that serves an operation, and its event.
    fn request(&self, operation: &Operation) -> (&'static str, Value) {
        let path = |id| format!("/api/users/{}", self.id(id));
        let with_body = |event: Event, body: &Body| match body {
            // A client may send back all that it got; the id doesn't count.
            Body::User((name, age)) => event.json(&json!({ "id": 0, "name": name, "age": age })),
            Body::Wrong(text, _) => event.body(text),
        };
        let with_tags =
            |event: Event, header: &str, current: Option<&Content>, tags: &Option<Tags>| match tags {
                None => event,
                Some(Tags::Any) => event.header(header, "*"),
                Some(Tags::Malformed) => event.header(header, "x"),
                Some(Tags::List(tags)) => {
                    let tags = tags.iter().map(|tag| {
                        format!("{}{}", if tag.weak { "W/" } else { "" }, self.tag(&tag.of, current))
                    });
                    event.header(header, &tags.collect::<Vec<_>>().join(", "))
                }
            };
        let with = |event: Event, id: Option<&Id>, conditions: &Conditions| {
            let current = id.and_then(|id| self.possible(id).ok()).and_then(|id| self.users.get(&id));
            let event = with_tags(event, "if-match", current, &conditions.if_match);
            Value::from(with_tags(event, "if-none-match", current, &conditions.if_none_match))
        };
        match operation {
            Operation::List(query, conditions) => {
                let query = match query {
                    Query::Wrong(text) => (*text).to_owned(),
                    Query::Page(None, None) => String::new(),
                    Query::Page(Some(after), None) => format!("after={after}"),
                    Query::Page(None, Some(limit)) => format!("limit={limit}"),
                    Query::Page(Some(after), Some(limit)) => format!("after={after}&limit={limit}"),
                };
                ("list-users", with(Event::get("/api/users").query(&query), None, conditions))
            }
            Operation::Get(id, conditions) => ("get-user", with(Event::get(&path(id)), Some(id), conditions)),
            Operation::Create(body, key, conditions) => {
                let mut event = with_body(Event::post("/api/users"), body);
                if let Some(Key { text, role, session }) = key {
                    event = event.header("idempotency-key", text);
                    if let Some(role) = role {
                        let arn = format!("arn:aws:sts::123456789012:assumed-role/{role}/{session}");
                        event = event.by(Caller::Iam(&arn));
                    }
                }
                ("create-user", with(event, None, conditions))
            }
            Operation::Update(id, body, conditions) => {
                ("update-user", with(with_body(Event::put(&path(id)), body), Some(id), conditions))
            }
            Operation::Delete(id, conditions) => {
                ("delete-user", with(Event::delete(&path(id)), Some(id), conditions))
            }
        }
    }

    fn id(&self, id: &Id) -> String {
        match id {
            Id::Given(_) if self.given.is_empty() => "1".to_owned(),
            Id::Given(index) => index.get(&self.given).to_string(),
            Id::Other(text) => (*text).to_owned(),
        }
    }

    fn tag(&self, of: &Of, current: Option<&Content>) -> &str {
        let known: Vec<_> = self.tags.values().map(String::as_str).collect();
        match (of, current) {
            (Of::Current, Some(content)) => &self.tags[content],
            (Of::Known(index), _) if !known.is_empty() => known[index.index(known.len())],
            _ => "\"nothing's\"",
        }
    }

    /// Does the operation and tells what must be answered. The id of a new user is the answer's to choose.
    fn apply(&mut self, operation: &Operation, answer: &Answer) -> Result<Expected, Expected> {
        match operation {
            Operation::List(query, conditions) => {
                let Query::Page(after, limit) = query else { return Err(Expected::invalid()) };
                conditions.well_formed()?;
                match conditions.refused_by_list() {
                    Some("If-None-Match") => Err(Expected { status: 304, ..Expected::default() }),
                    Some(_) => Err(Expected::precondition()),
                    None => Ok(self.page(*after, limit.unwrap_or(1000))),
                }
            }
            Operation::Get(id, conditions) => {
                let (id, content) = self.existing(self.possible(id)?, conditions)?;
                Ok(match &conditions.if_none_match {
                    Some(known) if self.matches(known, &content, true) => {
                        Expected { status: 304, tag_of: Some(content), ..Expected::default() }
                    }
                    _ => Expected::user(200, id, &content),
                })
            }
            Operation::Create(body, key, conditions) => {
                self.create(valid(body)?, key.as_ref(), conditions, answer)
            }
            Operation::Update(id, body, conditions) => {
                let (id, content) = (self.possible(id)?, valid(body)?);
                self.changeable(id, conditions)?;
                self.users.insert(id, content.clone());
                Ok(Expected::user(200, id, content))
            }
            Operation::Delete(id, conditions) => {
                let id = self.possible(id)?;
                self.changeable(id, conditions)?;
                self.users.remove(&id);
                let body = json!({ "message": format!("User {id} deleted") });
                Ok(Expected { status: 200, body, ..Expected::default() })
            }
        }
    }

    fn page(&self, after: Option<i64>, limit: u16) -> Expected {
        let mut users = self.users.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        let page: Vec<_> = users.by_ref().take(limit.into()).collect();
        let last = page.last().filter(|_| users.next().is_some());
        let link = last.map(|(id, _)| format!("<?after={id}&limit={limit}>; rel=\"next\""));
        let body =
            page.iter().map(|(id, (name, age))| json!({ "id": id, "name": name, "age": age })).collect();
        Expected { status: 200, body, link, ..Expected::default() }
    }

    fn create(
        &mut self,
        content: &Content,
        key: Option<&Key>,
        conditions: &Conditions,
        answer: &Answer,
    ) -> Result<Expected, Expected> {
        if key.is_some_and(|key| key.text == "not visible") {
            return Err(Expected::invalid());
        }
        conditions.well_formed()?;
        let first = key.and_then(|key| self.keys.get(&key.identity()));
        let reused = first.is_some_and(|(first, _)| first != content);
        // Where both are wrong, either may be told.
        if conditions.refused_by_list().is_some() && !(reused && answer.status == 422) {
            return Err(Expected::precondition());
        }
        if reused {
            let error = "Idempotency-Key was used for another request";
            return Err(Expected::problem(422, "Unprocessable Entity", error));
        }
        if let Some((_, id)) = first {
            return Ok(Expected::user(201, *id, content));
        }
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let last = self.given.last().copied().unwrap_or_default();
        let id = body["id"].as_i64().filter(|id| *id > last).unwrap_or(last + 1);
        self.given.push(id);
        self.users.insert(id, content.clone());
        self.keys.extend(key.map(|key| (key.identity(), (content.clone(), id))));
        Ok(Expected::user(201, id, content))
    }

    /// The number that an id is.
    fn possible(&self, id: &Id) -> Result<i64, Expected> {
        let text = self.id(id);
        text.parse().ok().filter(|id: &i64| *id > 0 && id.to_string() == text).ok_or_else(Expected::not_found)
    }

    /// The user, if there is one with which `If-Match` is content.
    fn existing(&self, id: i64, conditions: &Conditions) -> Result<(i64, Content), Expected> {
        conditions.well_formed()?;
        let content = self.users.get(&id).cloned().ok_or_else(Expected::not_found)?;
        match &conditions.if_match {
            Some(tags) if !self.matches(tags, &content, false) => Err(Expected::precondition()),
            _ => Ok((id, content)),
        }
    }

    fn changeable(&self, id: i64, conditions: &Conditions) -> Result<(), Expected> {
        let (_, content) = self.existing(id, conditions)?;
        match &conditions.if_none_match {
            Some(tags) if self.matches(tags, &content, true) => Err(Expected::precondition()),
            _ => Ok(()),
        }
    }

    fn matches(&self, tags: &Tags, content: &Content, weakly: bool) -> bool {
        match tags {
            Tags::Any => true,
            Tags::Malformed => false,
            Tags::List(tags) => tags
                .iter()
                .any(|tag| (weakly || !tag.weak) && self.tag(&tag.of, Some(content)) == self.tags[content]),
        }
    }

    fn compare(&mut self, expected: Expected, answer: &Answer) -> TestCaseResult {
        prop_assert_eq!(answer.status, expected.status);
        let mut body = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
        // Which faults there are is tested with the input.
        let faults = body.as_object_mut().and_then(|body| body.remove("errors"));
        prop_assert_eq!(faults.is_some(), expected.status == 400);
        prop_assert_eq!(body, expected.body);
        prop_assert_eq!(answer.header("link"), expected.link.as_deref());
        prop_assert_eq!(answer.header("location"), expected.location.as_deref());
        let tag = answer.header("etag");
        prop_assert_eq!(tag.is_some(), expected.tag_of.is_some());
        if let (Some(tag), Some(content)) = (tag, expected.tag_of) {
            // One content, one tag, and no two contents with the same.
            let others = self.tags.iter().filter(|(known, _)| **known != content);
            prop_assert!(others.clone().all(|(_, known)| known != tag));
            let known = self.tags.entry(content).or_insert_with(|| tag.to_owned());
            prop_assert_eq!(known, tag);
        }
        Ok(())
    }
}

fn valid(body: &Body) -> Result<&Content, Expected> {
    match body {
        Body::User(content) => Ok(content),
        Body::Wrong(_, error) => Err(Expected::problem(400, "Bad Request", error)),
    }
}
