//! The body: a JSON object, and the user in it.

use std::fmt;

use lambda_http::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::{Value, error::Category};
use shared::users::{Age, Name, UserContent};

use crate::{
    Request,
    error::{Place, Rejection, Violation},
};

/// The largest request body, in bytes, after base64 decoding.
const MAX_BODY: usize = 16 * 1024;

/// What some clients put in front of UTF-8 (RFC 8259, section 8.1, lets a reader skip it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The user in the body.
///
/// # Errors
/// [`Rejection::BodyTooLarge`], [`Rejection::UnsupportedMediaType`], [`Rejection::UnsupportedContentEncoding`], or
/// [`Rejection::Invalid`] with every violation.
pub fn user(event: &Request) -> Result<UserContent, Rejection> {
    let members = object(event)?;
    let name = members.name.read("#/name", Name::RULE, |value| match value {
        Value::String(name) => Name::new(name),
        _ => None,
    });
    let age = members.age.read("#/age", Age::RULE, |value| Age::new(value.as_i64()?));
    match (name, age) {
        (Ok(name), Ok(age)) => Ok(UserContent { name, age }),
        (name, age) => Err(Rejection::Invalid(name.err().into_iter().chain(age.err()).collect())),
    }
}

fn object(event: &Request) -> Result<Members, Rejection> {
    let body: &[u8] = event.body();
    if body.len() > MAX_BODY {
        return Err(Rejection::BodyTooLarge);
    }
    if !event.headers().get_all(CONTENT_TYPE).iter().all(|value| is_json(value.as_bytes())) {
        return Err(Rejection::UnsupportedMediaType);
    }
    parse(body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)).map_err(|violation| {
        // Some gateways decompress and leave the header, so it counts only where the body can't be read.
        let identity = |value: &[u8]| value.eq_ignore_ascii_case(b"identity");
        if event.headers().get_all(CONTENT_ENCODING).iter().all(|value| identity(value.as_bytes())) {
            violation.into()
        } else {
            Rejection::UnsupportedContentEncoding
        }
    })
}

fn parse(body: &[u8]) -> Result<Members, Violation> {
    let of_body = |detail: String| Violation::new(Place::Pointer("#"), detail);
    // serde_json doesn't look for bad UTF-8 in what it skips, so all of it is checked first.
    let text = str::from_utf8(body).map_err(|_| of_body("must be UTF-8".to_owned()))?;
    serde_json::from_str(text).map_err(|error| {
        // The text of serde_json's error may quote the body.
        of_body(match error.classify() {
            Category::Data => "must be a JSON object".to_owned(),
            _ => format!("must be valid JSON: see line {}, column {}", error.line(), error.column()),
        })
    })
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
    ) -> Result<T, Violation> {
        let place = Place::Pointer(pointer);
        match self {
            Self::Once(value) => read(value).ok_or_else(|| Violation::new(place, rule)),
            Self::Repeated => Err(Violation::new(place, "must be given once")),
            Self::Missing => Err(Violation { missing: true, ..Violation::new(place, "is required") }),
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
