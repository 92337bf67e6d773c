//! From a result to a response. The only place that knows status codes, and the one that logs failures.

use std::{iter, time::Duration};

use lambda_http::{
    Body,
    http::{
        HeaderName, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LINK, LOCATION, RETRY_AFTER},
    },
};
use serde::Serialize;
use serde_json::json;
use shared::users::{Page, User};

use crate::{Error, Rejection};

/// A response with its whole body.
pub type Response = lambda_http::Response<Body>;

/// 200 with a user, for GET.
pub fn user(user: &User) -> Response {
    answer(StatusCode::OK, JSON, [etag(user), caching()], user)
}

/// 304: the client has this user already.
pub fn not_modified(user: &User) -> Response {
    let (mut parts, _) = answer(StatusCode::NOT_MODIFIED, JSON, [etag(user), caching()], &()).into_parts();
    parts.headers.remove(CONTENT_TYPE);
    Response::from_parts(parts, Body::Empty)
}

/// 201 with a new user, and where it is.
pub fn created(user: &User) -> Response {
    let location = (LOCATION, format!("/api/users/{}", user.id));
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

/// 200 with an array of users and, if there are more, a link to the next page (RFC 8288).
pub fn page(page: &Page<'_>, limit: u16) -> Response {
    let next = page.next_after.map(|after| format!("</api/users?limit={limit}&after={after}>; rel=\"next\""));
    answer(StatusCode::OK, JSON, iter::once(caching()).chain(next.map(|next| (LINK, next))), &page.users)
}

fn etag(user: &User) -> (HeaderName, String) {
    (ETAG, format!("\"{}\"", user.tag()))
}

/// A client may keep the answer for itself, and asks whether it still holds.
fn caching() -> (HeaderName, String) {
    (CACHE_CONTROL, "private, no-cache".to_owned())
}

/// The problem document (RFC 9457) for an error, with the guide's own member `error`. A failure of ours is
/// logged, once, with what `request_id` stands for; the client gets only the id.
pub fn problem(error: &Error, request_id: &str, elapsed: Duration) -> Response {
    let (status, text) = match error {
        Error::Rejected(Rejection::Invalid(faults)) if faults.iter().any(|fault| fault.missing) => {
            (StatusCode::BAD_REQUEST, "Missing required fields")
        }
        Error::Rejected(Rejection::Invalid(_)) => (StatusCode::BAD_REQUEST, "Invalid input"),
        Error::Rejected(Rejection::NoSuchUser) | Error::Refused(shared::Error::UserNotFound) => {
            (StatusCode::NOT_FOUND, "User not found")
        }
        Error::Refused(shared::Error::Changed) => {
            (StatusCode::PRECONDITION_FAILED, "The user has changed: If-Match does not match")
        }
        Error::Refused(shared::Error::KeyReused) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "Idempotency-Key was used for another request")
        }
        Error::Rejected(Rejection::BodyTooLarge) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "The body must not be larger than 16 KiB")
        }
        Error::Rejected(Rejection::UnsupportedMediaType) => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")
        }
        Error::Refused(shared::Error::Unavailable(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, "The database is not available; try again")
        }
        Error::Refused(shared::Error::OutcomeUnknown(_)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "It is not known whether the user was created; with an Idempotency-Key, trying again is safe",
        ),
        Error::Refused(shared::Error::Internal(_) | shared::Error::Config(_)) | Error::Panicked(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
    };

    let mut document = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "error": text,
    });
    if let Error::Rejected(Rejection::Invalid(faults)) = error {
        document["errors"] = json!(faults);
    }
    if status.is_server_error() {
        document["requestId"] = json!(request_id);
        log(error, status, request_id, elapsed);
    }
    // Only where trying again is safe: clients act on this header by themselves.
    let retry =
        matches!(error, Error::Refused(shared::Error::Unavailable(_))).then(|| (RETRY_AFTER, "1".to_owned()));
    answer(status, "application/problem+json", retry, &document)
}

fn log(error: &Error, status: StatusCode, request_id: &str, elapsed: Duration) {
    let (reason, failure) = match error {
        Error::Refused(error) => (error.to_string(), error.failure()),
        Error::Panicked(place) => (format!("panicked at {place}"), None),
        Error::Rejected(_) => return,
    };
    tracing::error!(
        "requestId" = request_id,
        status = status.as_u16(),
        sqlstate = failure.and_then(|failure| failure.sqlstate.as_deref()),
        attempts = failure.map(|failure| failure.attempts),
        elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        "{reason}"
    );
}

const JSON: &str = "application/json";

fn answer(
    status: StatusCode,
    content_type: &str,
    headers: impl IntoIterator<Item = (HeaderName, String)>,
    body: &impl Serialize,
) -> Response {
    let body = serde_json::to_string(body).expect("strings and numbers are JSON");
    let response = lambda_http::Response::builder().status(status).header(CONTENT_TYPE, content_type);
    headers
        .into_iter()
        .fold(response, |response, (name, value)| response.header(name, value))
        .body(body.into())
        .expect("header values are ASCII")
}
