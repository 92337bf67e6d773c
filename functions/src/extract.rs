//! What a handler extracts from an event: id, page and idempotency key.

use lambda_http::{
    RequestExt, aws_lambda_events::apigw::ApiGatewayV2httpRequestContext, request::RequestContext,
};
use shared::{idempotency::IdempotencyKey, users::PageSize};

use crate::{
    Request,
    error::{Place, Rejection, Violation},
};

/// The id in the path.
///
/// # Errors
/// [`Rejection::NoSuchUser`] for anything but a positive 64-bit integer without leading zeros.
pub fn user_id(event: &Request) -> Result<i64, Rejection> {
    event
        .path_parameters_ref()
        .and_then(|parameters| parameters.first("id"))
        .and_then(integer)
        .filter(|id| *id > 0)
        .ok_or(Rejection::NoSuchUser)
}

/// The part of the list that a client requests.
#[derive(Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Only users with ids greater than this.
    pub after: Option<i64>,
    /// The maximum number of users.
    pub size: PageSize,
}

/// The query parameters `after` and `limit`. Others are ignored, as are unknown members of a body.
///
/// # Errors
/// [`Rejection::Invalid`] for a value out of range or a repeated parameter.
pub fn page(event: &Request) -> Result<PageRequest, Rejection> {
    let (mut after, mut size) = (None, None);
    let mut violations = Vec::new();
    let query = event.query_string_parameters_ref();
    for (name, value) in query.into_iter().flat_map(|query| query.iter()) {
        let rule = match name {
            "after" if after.is_none() => {
                after = Some(integer(value));
                after.flatten().is_none().then_some("must be the id of a user: an integer")
            }
            "limit" if size.is_none() => {
                size = Some(integer(value).and_then(PageSize::new));
                size.flatten().is_none().then_some("must be an integer from 1 to 1000")
            }
            "after" | "limit" => Some("must be given once"),
            _ => None,
        };
        violations.extend(rule.map(|rule| Violation::new(Place::Parameter(name.to_owned()), rule)));
    }
    if violations.is_empty() {
        Ok(PageRequest { after: after.flatten(), size: size.flatten().unwrap_or(PageSize::MAX) })
    } else {
        Err(Rejection::Invalid(violations))
    }
}

/// What identifies a repetition of this request: its `Idempotency-Key`, or else the id of the invocation.
///
/// # Errors
/// [`Rejection::Invalid`] if the header is repeated or not a valid key.
pub fn idempotency_key(event: &Request) -> Result<IdempotencyKey, Rejection> {
    const HEADER: &str = "Idempotency-Key";
    const RULE: &str = "must be 1 to 255 visible ASCII characters, or a string in quotes (RFC 9651)";
    let mut values = event.headers().get_all(HEADER).iter();
    let Some(value) = values.next() else {
        // Not API Gateway's request id, which is constant in event files.
        return Ok(IdempotencyKey::Invocation(
            event.lambda_context_ref().map(|context| context.request_id.clone()).unwrap_or_default(),
        ));
    };
    match parse_key(value.as_bytes()).filter(|_| values.next().is_none()) {
        Some(key) => Ok(IdempotencyKey::Client { key, caller: caller(event) }),
        None => Err(Violation::new(Place::Header(HEADER), RULE).into()),
    }
}

/// A key as most clients write it, or as a string of structured fields (RFC 9651, section 3.3.3), as the IETF draft of
/// this header requires.
fn parse_key(value: &[u8]) -> Option<String> {
    let key = match value {
        [b'"', string @ .., b'"'] => unquoted(string)?,
        [b'"', ..] => return None,
        bare => bare.iter().all(u8::is_ascii_graphic).then(|| bare.to_vec())?,
    };
    if !(1..=255).contains(&key.len()) {
        return None;
    }
    String::from_utf8(key).ok()
}

fn unquoted(string: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = string.iter();
    let mut key = Vec::with_capacity(string.len());
    while let Some(byte) = bytes.next() {
        key.push(match byte {
            b'\\' => *bytes.next().filter(|escaped| matches!(escaped, b'"' | b'\\'))?,
            b'"' => return None,
            b' '..=b'~' => *byte,
            _ => return None,
        });
    }
    Some(key)
}

/// The caller according to API Gateway's authorizer, as far as that survives a restart of the client; empty if anyone
/// may call.
fn caller(event: &Request) -> String {
    match event.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => identity(context).unwrap_or_default(),
        _ => String::new(),
    }
}

fn identity(context: &ApiGatewayV2httpRequestContext) -> Option<String> {
    let authorizer = context.authorizer.as_ref()?;
    if let Some(iam) = &authorizer.iam {
        // Takes precedence over the role, which all identities of a pool share.
        let identity = iam.cognito_identity.as_ref().and_then(|cognito| cognito.identity_id.as_deref());
        let arn = without_session(iam.user_arn.as_deref().unwrap_or_default());
        return Some(identity.map_or_else(|| format!("iam {arn}"), |identity| format!("cognito {identity}")));
    }
    let claims = &authorizer.jwt.as_ref()?.claims;
    let claim = |name| claims.get(name).map(String::as_str).unwrap_or_default();
    // The token of an application that acts on its own behalf may have no subject.
    let subject = if claims.contains_key("sub") { "sub" } else { "client_id" };
    let issuer = claim("iss");
    // The length marks where the issuer ends, no matter what it contains.
    Some(format!("jwt {} {issuer} {subject} {}", issuer.len(), claim(subject)))
}

/// `arn:aws:sts::123456789012:assumed-role/ROLE/SESSION` without the session name, often a task, a timestamp or a UUID.
fn without_session(arn: &str) -> &str {
    match arn.rsplit_once('/') {
        Some((role, _)) if role.contains(":assumed-role/") => role,
        _ => arn,
    }
}

/// A 64-bit decimal integer in canonical form: no plus sign, no leading zeros, no `-0`.
fn integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}
