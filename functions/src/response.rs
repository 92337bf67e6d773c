//! From a result to a response: the only module that chooses status codes.

use std::iter;

use lambda_http::{
    Body,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LINK, LOCATION, RETRY_AFTER},
    },
};
use serde::Serialize;
use serde_json::json;
use shared::users::{Page, PageSize, User};

use crate::error::{Error, Place, Rejection, Violation};

/// A response with its whole body.
pub type Response = lambda_http::Response<Body>;

/// 200 with a user, for GET.
pub fn user(user: &User) -> Response {
    answer(StatusCode::OK, JSON, [etag(user), caching()], user)
}

/// 304: the client already has this user.
pub fn not_modified(user: &User) -> Response {
    respond(StatusCode::NOT_MODIFIED, [etag(user), caching()], Body::Empty)
}

/// 304: the client says that it already has the list.
pub fn list_not_modified() -> Response {
    respond(StatusCode::NOT_MODIFIED, [caching()], Body::Empty)
}

/// 201 with a new user and its location, a relative reference, so that it also works behind a stage or a base path.
pub fn created(user: &User) -> Response {
    let location = (LOCATION, format!("users/{}", user.id));
    answer(StatusCode::CREATED, JSON, [etag(user), location], user)
}

/// 200 with a user, for PUT.
pub fn updated(user: &User) -> Response {
    answer(StatusCode::OK, JSON, [etag(user)], user)
}

/// 200 with the guide's message.
pub fn deleted(id: i64) -> Response {
    answer(StatusCode::OK, JSON, [], &json!({ "message": format!("User {id} deleted") }))
}

/// 200 with an array of users and, if there are more, a link to the next page (RFC 8288). Its parameters are sorted,
/// because some clients sign only sorted ones correctly.
pub fn page(page: &Page<'_>, size: PageSize) -> Response {
    let limit = size.get();
    let next = page.next_after.map(|after| format!("<?after={after}&limit={limit}>; rel=\"next\""));
    answer(StatusCode::OK, JSON, iter::once(caching()).chain(next.map(|next| (LINK, next))), &page.users)
}

fn etag(user: &User) -> (HeaderName, String) {
    (ETAG, format!("\"{}\"", user.tag().as_str()))
}

/// Only the client itself may cache the response, and must revalidate it before reuse; the list has no entity tag, so
/// it is fetched again.
fn caching() -> (HeaderName, String) {
    (CACHE_CONTROL, "private, no-cache".to_owned())
}

/// A problem document (RFC 9457) with the guide's `error` member.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    error: &'static str,
    #[serde(skip_serializing_if = "<[Violation]>::is_empty")]
    errors: &'a [Violation],
    #[serde(rename = "requestId", skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// The response to an error. For a failure on our side, which is logged elsewhere, the client gets only the request id.
pub fn problem(error: &Error, request_id: &str) -> Response {
    let unencodable =
        [Violation::new(Place::Pointer("#/name"), "can't be stored in the database's encoding")];
    let violations = match error {
        Error::Rejected(Rejection::Invalid(violations)) => violations.as_slice(),
        Error::Operation(shared::Error::Unencodable) => &unencodable,
        _ => &[],
    };
    let (status, text) = status_and_text(error);
    let document = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        error: text,
        errors: violations,
        request_id: status.is_server_error().then_some(request_id),
    };
    // Only if repeating the request is safe: clients act on this header automatically.
    let safe = matches!(error, Error::Operation(shared::Error::Unavailable(_)));
    let retry = safe.then(|| (RETRY_AFTER, "1".to_owned()));
    answer(status, "application/problem+json", retry, &document)
}

/// The status code of the response to an error, and its text for humans.
pub(crate) fn status_and_text(error: &Error) -> (StatusCode, &'static str) {
    use shared::Error as Operation;

    match error {
        Error::Rejected(Rejection::Invalid(violations)) if violations.iter().any(|it| it.missing) => {
            (StatusCode::BAD_REQUEST, "Missing required fields")
        }
        Error::Rejected(Rejection::Invalid(_)) | Error::Operation(Operation::Unencodable) => {
            (StatusCode::BAD_REQUEST, "Invalid input")
        }
        Error::Rejected(Rejection::NoSuchUser) | Error::Operation(Operation::UserNotFound) => {
            (StatusCode::NOT_FOUND, "User not found")
        }
        Error::Rejected(Rejection::PreconditionFailed) | Error::Operation(Operation::PreconditionFailed) => {
            (StatusCode::PRECONDITION_FAILED, "A precondition does not hold: see If-Match and If-None-Match")
        }
        Error::Operation(Operation::KeyReused) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key was used for another request")
        }
        Error::Rejected(Rejection::BodyTooLarge) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "The body must not be larger than 16 KiB")
        }
        Error::Rejected(Rejection::UnsupportedMediaType) => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
        }
        Error::Rejected(Rejection::UnsupportedContentEncoding) => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Encoding must be identity")
        }
        Error::Operation(Operation::Unavailable(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, "The database is not available; try again")
        }
        Error::Operation(Operation::CreationUnknown(_)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "It is not known whether the user was created: look before trying again, or send an Idempotency-Key",
        ),
        Error::Operation(Operation::ChangeUnknown(_)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "It is not known whether the user was changed: look before trying again",
        ),
        Error::Operation(Operation::Internal(_) | Operation::Config(_)) | Error::Panicked(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
    }
}

const JSON: &str = "application/json";

fn answer(
    status: StatusCode,
    content_type: &'static str,
    headers: impl IntoIterator<Item = (HeaderName, String)>,
    body: &impl Serialize,
) -> Response {
    let body = serde_json::to_string(body).expect("strings and numbers are JSON");
    let mut response = respond(status, headers, body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn respond(
    status: StatusCode,
    headers: impl IntoIterator<Item = (HeaderName, String)>,
    body: Body,
) -> Response {
    let response = lambda_http::Response::builder().status(status);
    headers
        .into_iter()
        .fold(response, |response, (name, value)| response.header(name, value))
        .body(body)
        .expect("header values are ASCII")
}
