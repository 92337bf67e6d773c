//! From an event to typed input, or a [`Rejection`]. Nothing here touches the database.

use std::fmt;

use lambda_http::{RequestExt, http::header::CONTENT_TYPE};
use serde::{
    Deserialize, Serialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::Value;
use shared::users::{Age, Name, NewUser};

use crate::Request;

/// The largest request body, in bytes, after base64 decoding.
const MAX_BODY: usize = 16 * 1024;

/// The largest page of a list, and the one a client gets that doesn't ask.
const MAX_LIMIT: u16 = 1000;

/// Why a request is turned away.
#[derive(Debug)]
pub enum Rejection {
    /// Body or query are wrong; all faults that were found.
    Invalid(Vec<Fault>),
    /// The path holds no possible id of a user.
    NoSuchUser,
    /// The body is over 16 KiB.
    BodyTooLarge,
    /// The body is declared to be something else than JSON.
    UnsupportedMediaType,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What would be right.
    pub detail: String,
    /// Whether something is missing rather than wrong.
    #[serde(skip)]
    pub missing: bool,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A JSON Pointer (RFC 6901) into the body, as a URI fragment.
    Pointer(&'static str),
    /// A parameter of the query.
    Parameter(String),
}

impl Fault {
    fn new(place: Place, detail: impl Into<String>) -> Self {
        Self { place, detail: detail.into(), missing: false }
    }

    fn of_body(detail: impl Into<String>) -> Self {
        Self::new(Place::Pointer("#"), detail)
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        Self::Invalid(vec![fault])
    }
}

/// The id in the path.
///
/// # Errors
/// [`Rejection::NoSuchUser`] for anything but a positive integer of 64 bits without leading zeros.
pub fn user_id(event: &Request) -> Result<i64, Rejection> {
    event
        .path_parameters_ref()
        .and_then(|parameters| parameters.first("id"))
        .and_then(integer)
        .filter(|id| *id > 0)
        .ok_or(Rejection::NoSuchUser)
}

/// Which part of the list a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Only users with greater ids.
    pub after: Option<i64>,
    /// 1 to 1000.
    pub limit: u16,
}

/// The query parameters `after` and `limit`.
///
/// # Errors
/// [`Rejection::Invalid`] for a value out of range, a repeated or an unknown parameter.
pub fn page(event: &Request) -> Result<PageRequest, Rejection> {
    let (mut after, mut limit) = (None, None);
    let mut faults = Vec::new();
    let query = event.query_string_parameters_ref();
    for (name, value) in query.into_iter().flat_map(|query| query.iter()) {
        let rule = match name {
            "after" if after.is_none() => {
                after = Some(integer(value));
                after.flatten().is_none().then_some("must be the id of a user: an integer")
            }
            "limit" if limit.is_none() => {
                limit = Some(integer(value).and_then(|limit| u16::try_from(limit).ok()));
                let valid = limit.flatten().is_some_and(|limit| (1..=MAX_LIMIT).contains(&limit));
                (!valid).then_some("must be an integer from 1 to 1000")
            }
            "after" | "limit" => Some("must be given once"),
            _ => Some("is unknown: use after and limit"),
        };
        faults.extend(rule.map(|rule| Fault::new(Place::Parameter(name.to_owned()), rule)));
    }
    if faults.is_empty() {
        Ok(PageRequest { after: after.flatten(), limit: limit.flatten().unwrap_or(MAX_LIMIT) })
    } else {
        Err(Rejection::Invalid(faults))
    }
}

/// The user in the body.
///
/// # Errors
/// [`Rejection::BodyTooLarge`], [`Rejection::UnsupportedMediaType`], or [`Rejection::Invalid`] with every fault.
pub fn new_user(event: &Request) -> Result<NewUser, Rejection> {
    let body: &[u8] = event.body();
    if body.len() > MAX_BODY {
        return Err(Rejection::BodyTooLarge);
    }
    if !event.headers().get_all(CONTENT_TYPE).iter().all(|value| is_json(value.as_bytes())) {
        return Err(Rejection::UnsupportedMediaType);
    }
    // serde_json doesn't look for bad UTF-8 in what it skips, so all of it is checked first.
    let text = str::from_utf8(body).map_err(|_| Fault::of_body("must be UTF-8"))?;
    let members: Members = serde_json::from_str(text).map_err(|error| {
        // The text of serde_json's error may quote the body.
        Fault::of_body(match error.classify() {
            serde_json::error::Category::Data => "must be a JSON object".to_owned(),
            _ => format!("must be valid JSON: see line {}, column {}", error.line(), error.column()),
        })
    })?;

    let name = members.name.read("#/name", Name::RULE, |value| match value {
        Value::String(name) => Name::new(name),
        _ => None,
    });
    let age = members.age.read("#/age", Age::RULE, |value| Age::new(value.as_i64()?));
    match (name, age) {
        (Ok(name), Ok(age)) => Ok(NewUser { name, age }),
        (name, age) => Err(Rejection::Invalid(name.err().into_iter().chain(age.err()).collect())),
    }
}

/// A decimal integer in its one canonical form: no plus sign, no leading zeros.
fn integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

fn is_json(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// The members of a JSON object that count. The others are read, so that the whole body is known to be JSON of
/// bounded depth, and dropped.
#[derive(Default)]
struct Members {
    name: Member,
    age: Member,
}

#[derive(Default)]
enum Member {
    #[default]
    Missing,
    Once(Value),
    Repeated,
}

impl Member {
    fn add(&mut self, value: Value) {
        *self = match self {
            Self::Missing => Self::Once(value),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }

    fn read<T>(
        self,
        pointer: &'static str,
        rule: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<T, Fault> {
        let place = Place::Pointer(pointer);
        match self {
            Self::Once(value) => read(value).ok_or_else(|| Fault::new(place, rule)),
            Self::Repeated => Err(Fault::new(place, "must be given once")),
            Self::Missing => Err(Fault { missing: true, ..Fault::new(place, "is required") }),
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some((key, value)) = object.next_entry::<String, Value>()? {
                    match key.as_str() {
                        "name" => members.name.add(value),
                        "age" => members.age.add(value),
                        _ => {}
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Object)
    }
}
