//! From an event to typed input, or a [`Rejection`]. Nothing here touches the database.

use std::fmt;

use lambda_http::{RequestExt, http::header::CONTENT_TYPE, request::RequestContext};
use serde::{
    Deserialize, Serialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::Value;
use shared::users::{Age, Expected, Key, Name, NewUser, User};

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
    /// A header.
    Header(&'static str),
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

/// By what a repetition of this request is recognised: its `Idempotency-Key`, or else the invocation.
///
/// # Errors
/// [`Rejection::Invalid`] unless the header is 1 to 255 visible ASCII characters.
pub fn key(event: &Request) -> Result<Key, Rejection> {
    const HEADER: &str = "Idempotency-Key";
    let mut values = event.headers().get_all(HEADER).iter();
    let Some(value) = values.next() else {
        // Not the request id of API Gateway: that one is constant in event files.
        return Ok(Key::Invocation(
            event.lambda_context_ref().map(|context| context.request_id.clone()).unwrap_or_default(),
        ));
    };
    let key = value.as_bytes();
    if values.next().is_some() || !(1..=255).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
        return Err(Fault::new(Place::Header(HEADER), "must be 1 to 255 visible ASCII characters").into());
    }
    Ok(Key::Client { key: String::from_utf8_lossy(key).into_owned(), caller: caller(event) })
}

/// Who calls, as API Gateway's authorizer says; empty where anybody may call.
fn caller(event: &Request) -> String {
    let Some(RequestContext::ApiGatewayV2(context)) = event.request_context_ref() else {
        return String::new();
    };
    let Some(authorizer) = &context.authorizer else { return String::new() };
    if let Some(iam) = &authorizer.iam {
        return format!("iam {}", iam.user_arn.as_deref().unwrap_or_default());
    }
    if let Some(jwt) = &authorizer.jwt {
        let claim = |name| jwt.claims.get(name).map(String::as_str).unwrap_or_default();
        return format!("jwt {} {}", claim("iss"), claim("sub"));
    }
    String::new()
}

/// The entity tags of `If-Match` (RFC 9110, section 13.1.1): `None` without the header or with `*`. Weak tags never
/// match strongly and are left out.
///
/// # Errors
/// [`Rejection::Invalid`] if the header is malformed.
pub fn if_match(event: &Request) -> Result<Expected, Rejection> {
    Ok(match entity_tags(event, "If-Match")? {
        None | Some(EntityTags::Any) => None,
        Some(EntityTags::List(tags)) => {
            Some(tags.into_iter().filter(|tag| !tag.weak).map(|tag| tag.opaque).collect())
        }
    })
}

/// What the client has already, by `If-None-Match` (RFC 9110, section 13.1.2).
#[derive(Debug)]
pub struct Known(Option<EntityTags>);

impl Known {
    /// Whether the client has this user's content; compared weakly. Nobody asks, as a rule, so no tag is made before.
    pub fn includes(&self, user: &User) -> bool {
        match &self.0 {
            None => false,
            Some(EntityTags::Any) => true,
            Some(EntityTags::List(tags)) => {
                let tag = user.tag();
                tags.iter().any(|known| known.opaque == tag)
            }
        }
    }
}

/// The header `If-None-Match`.
///
/// # Errors
/// [`Rejection::Invalid`] if it is malformed.
pub fn if_none_match(event: &Request) -> Result<Known, Rejection> {
    Ok(Known(entity_tags(event, "If-None-Match")?))
}

#[derive(Debug, PartialEq, Eq)]
enum EntityTags {
    Any,
    List(Vec<EntityTag>),
}

#[derive(Debug, PartialEq, Eq)]
struct EntityTag {
    weak: bool,
    /// Without the quotes.
    opaque: String,
}

fn entity_tags(event: &Request, header: &'static str) -> Result<Option<EntityTags>, Rejection> {
    let lines: Vec<_> = event.headers().get_all(header).iter().map(|value| value.as_bytes()).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let tags = parse_entity_tags(&lines.join(&b','));
    tags.map(Some).ok_or_else(|| {
        Fault::new(Place::Header(header), "must be * or a list of entity tags like \"abc\"").into()
    })
}

/// `*`, or entity tags separated by commas; elements of the list may be empty (RFC 9110, sections 5.6.1 and 8.8.3).
fn parse_entity_tags(field: &[u8]) -> Option<EntityTags> {
    let mut rest = field.trim_ascii();
    if rest == b"*" {
        return Some(EntityTags::Any);
    }
    let mut tags = Vec::new();
    loop {
        while let [b',' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(EntityTags::List(tags));
        }
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = opaque.iter().position(|byte| *byte == b'"')?;
        if opaque[..end].iter().any(|byte| matches!(byte, 0..=0x20 | 0x7f)) {
            return None;
        }
        tags.push(EntityTag { weak, opaque: String::from_utf8_lossy(&opaque[..end]).into_owned() });
        rest = opaque[end + 1..].trim_ascii_start();
        if !matches!(rest, [] | [b',', ..]) {
            return None;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(field: &str) -> Option<Vec<(bool, String)>> {
        match parse_entity_tags(field.as_bytes())? {
            EntityTags::Any => panic!("{field} is not any"),
            EntityTags::List(tags) => Some(tags.into_iter().map(|tag| (tag.weak, tag.opaque)).collect()),
        }
    }

    #[test]
    fn entity_tags_are_read_as_rfc_9110_says() {
        let strong = |tag: &str| (false, tag.to_owned());
        assert_eq!(tags(r#""a""#), Some(vec![strong("a")]));
        assert_eq!(
            tags(r#" , "a" ,W/"b",, "", "c,d" "#),
            Some(vec![strong("a"), (true, "b".to_owned()), strong(""), strong("c,d")])
        );
        assert_eq!(parse_entity_tags(b" * "), Some(EntityTags::Any));
    }

    #[test]
    fn malformed_entity_tags_are_refused() {
        for field in [
            "",
            ",",
            "a",
            "\"a",
            "a\"",
            "\"a\" \"b\"",
            "\"a\"b",
            "w/\"a\"",
            "W/ \"a\"",
            "*, \"a\"",
            "\"a b\"",
            "**",
        ] {
            assert_eq!(parse_entity_tags(field.as_bytes()), None, "{field}");
        }
    }
}
