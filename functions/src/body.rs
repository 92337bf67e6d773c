//! The request body: the members that each resource requires, and below that how the members of a JSON object are read.

use std::fmt;

use lambda_http::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Value, error::Category};
use shared::users::{Age, Name, UserContent};

use crate::{
    Request,
    error::{Place, Rejection, Violation},
};

/// The largest request body, in bytes, after base64 decoding.
const MAX_BODY: usize = 16 * 1024;

/// Some clients put this in front of UTF-8 (RFC 8259, section 8.1, allows a parser to skip it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The user in the body.
///
/// # Errors
/// [`Rejection::BodyTooLarge`], [`Rejection::UnsupportedMediaType`], [`Rejection::UnsupportedContentEncoding`], or
/// [`Rejection::Invalid`] with every violation.
pub fn user(event: &Request) -> Result<UserContent, Rejection> {
    let [name, age] = members(event, ["#/name", "#/age"])?;
    let name = name.read(Name::RULE, |value| match value {
        Value::String(name) => Name::new(name),
        _ => None,
    });
    let age = age.read(Age::RULE, |value| Age::new(value.as_i64()?));
    match (name, age) {
        (Ok(name), Ok(age)) => Ok(UserContent { name, age }),
        (name, age) => Err(Rejection::Invalid(name.err().into_iter().chain(age.err()).collect())),
    }
}

/// The members of the JSON object in the body that these JSON Pointers refer to.
fn members<const N: usize>(event: &Request, pointers: [&'static str; N]) -> Result<[Member; N], Rejection> {
    let body: &[u8] = event.body();
    if body.len() > MAX_BODY {
        return Err(Rejection::BodyTooLarge);
    }
    if !event.headers().get_all(CONTENT_TYPE).iter().all(|value| is_json(value.as_bytes())) {
        return Err(Rejection::UnsupportedMediaType);
    }
    let members = Members(pointers.map(|pointer| Member { pointer, found: Found::Nothing }));
    parse(body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body), members).map_err(|violation| {
        // Some gateways decompress the body but keep the header, so it counts only if the body can't be read.
        let identity = |value: &[u8]| value.eq_ignore_ascii_case(b"identity");
        if event.headers().get_all(CONTENT_ENCODING).iter().all(|value| identity(value.as_bytes())) {
            violation.into()
        } else {
            Rejection::UnsupportedContentEncoding
        }
    })
}

fn parse<const N: usize>(body: &[u8], members: Members<N>) -> Result<[Member; N], Violation> {
    let of_body = |detail: String| Violation::new(Place::Pointer("#"), detail);
    // serde_json doesn't check what it skips for invalid UTF-8, so the whole body is checked first.
    let text = str::from_utf8(body).map_err(|_| of_body("must be UTF-8".to_owned()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(members).and_then(|members| json.end().map(|()| members)).map_err(|error| {
        // serde_json's error message may quote the body.
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

/// A required member of a JSON object.
struct Member {
    /// A JSON Pointer (RFC 6901), as a URI fragment.
    pointer: &'static str,
    found: Found,
}

enum Found {
    Nothing,
    Once(Value),
    Repeated,
}

impl Member {
    fn is_named(&self, key: &str) -> bool {
        self.pointer.strip_prefix("#/") == Some(key)
    }

    fn add(&mut self, value: Value) {
        self.found = match self.found {
            Found::Nothing => Found::Once(value),
            Found::Once(_) | Found::Repeated => Found::Repeated,
        };
    }

    fn read<T>(self, rule: &str, read: impl FnOnce(Value) -> Option<T>) -> Result<T, Violation> {
        let place = Place::Pointer(self.pointer);
        match self.found {
            Found::Once(value) => read(value).ok_or_else(|| Violation::new(place, rule)),
            Found::Repeated => Err(Violation::new(place, "must be given once")),
            Found::Nothing => Err(Violation { missing: true, ..Violation::new(place, "is required") }),
        }
    }
}

/// Collects the required members. The others are parsed, so that the whole body is known to be JSON of limited depth,
/// and then dropped.
struct Members<const N: usize>([Member; N]);

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Member; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<Self::Value, A::Error> {
        while let Some((key, value)) = object.next_entry::<String, Value>()? {
            if let Some(member) = self.0.iter_mut().find(|member| member.is_named(&key)) {
                member.add(value);
            }
        }
        Ok(self.0)
    }
}
