//! The HTTP edge of the five functions: what they share around their handlers, and `migrate` with them.
//!
//! A request runs strictly downwards: event → `bin/<operation>.rs` → [`request`] → [`shared::users`] → [`response`].

pub mod request;
pub mod response;

use std::{
    cell::Cell,
    convert::Infallible,
    env,
    future::{self, Future},
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    time::Instant,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::FutureExt;
use lambda_http::{
    Adapter, IntoResponse, LambdaEvent, RequestExt, http::header::HOST, request::LambdaRequest, service_fn,
    tower::ServiceExt,
};
use lambda_runtime::Runtime;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tracing::Level;

pub use lambda_http::{Error as StartError, Request};
pub use request::Rejection;
pub use response::Response;
pub use shared::Database;

/// Why a handler has no success to answer.
#[derive(Debug)]
pub enum Error {
    /// The request is not what it should be; the database was not asked.
    Rejected(Rejection),
    /// The operation was refused or failed.
    Refused(shared::Error),
    /// The handler panicked at this place.
    Panicked(String),
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<shared::Error> for Error {
    fn from(error: shared::Error) -> Self {
        Self::Refused(error)
    }
}

thread_local! {
    /// Where this thread last panicked.
    static PANICKED_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Sets up logging: a line of JSON for each record from Lambda's level on, and nothing of a panic but its place.
#[expect(clippy::disallowed_methods, reason = "how much is logged is set by Lambda, as for every function")]
pub fn start_logging() {
    let level = env::var("AWS_LAMBDA_LOG_LEVEL").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .json()
        .with_max_level(level.unwrap_or(Level::INFO))
        .with_target(false)
        .without_time()
        .init();
    // The message of a panic may hold a user's data; its place doesn't.
    panic::set_hook(Box::new(|info| PANICKED_AT.set(info.location().map(ToString::to_string))));
}

/// What a future gives, or the place where it panicked.
///
/// # Errors
/// The place, after [`start_logging`].
pub async fn catch_panic<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let caught = AssertUnwindSafe(future).catch_unwind().await;
    caught.map_err(|_| PANICKED_AT.take().unwrap_or_default())
}

/// Sets up logging and the database handle, which lives as long as the process, and uses the init phase to connect.
///
/// It never fails: a process that exits here leaves callers waiting while Lambda starts it again and again.
pub async fn start() -> &'static Database {
    start_logging();
    let database = Box::leak(Box::new(Database::from_env()));
    database.warm_up().await;
    database
}

/// Serves events with `handler` until Lambda ends the process. Every event gets an answer: errors and panics of
/// the handler become responses, never errors of the function.
///
/// # Errors
/// If Lambda's Runtime API can't be reached.
pub async fn serve<H, F>(handler: H) -> Result<(), StartError>
where
    H: Fn(Request) -> F + Send + 'static,
    F: Future<Output = Result<Response, Error>> + Send + 'static,
{
    let service = Adapter::from(service_fn(move |event: Request| {
        let request_id = event.lambda_context_ref().map(|context| context.request_id.clone());
        let start = Instant::now();
        let answer = catch_panic(handler(event));
        async move {
            let result = answer.await.unwrap_or_else(|place| Err(Error::Panicked(place)));
            Ok::<_, Infallible>(Answer(result.unwrap_or_else(|error| {
                response::problem(&error, &request_id.unwrap_or_default(), start.elapsed())
            })))
        }
    }));
    // Not `lambda_runtime::run`, which prepares the context of a record for each request. A task of its own, since to
    // wake the program's main future tokio asks the kernel for events once more, three times a request.
    let serving = tokio::spawn(Runtime::new(service.map_request(well_formed)).run());
    serving.await.map_err(|_| "the runtime has panicked")?
}

/// A response that is taken as it is: `lambda_http` would copy its body, looking for other character sets than UTF-8.
struct Answer(Response);

impl IntoResponse for Answer {
    fn into_response(self) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        Box::pin(future::ready(self.0))
    }
}

/// Bytes that `http::Uri` refuses in a query.
const NOT_IN_A_QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Before any handler runs, `lambda_http` decodes the body and makes a URI of host, path and query, and panics if it
/// can't. Clients choose all four, so what it could stumble over is taken out of its way: handlers read path
/// parameters and query parameters, never the URI.
fn well_formed(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
    if let LambdaRequest::ApiGatewayV2(request) = &mut event.payload {
        request.headers.remove(HOST);
        request.raw_path = None;
        request.request_context.domain_name = None;
        if let Some(query) = &mut request.raw_query_string {
            *query = utf8_percent_encode(query, NOT_IN_A_QUERY).to_string();
        }
        if request.is_base64_encoded {
            let body = request.body.as_deref().unwrap_or_default();
            request.is_base64_encoded = BASE64_STANDARD.decode(body).is_ok();
        }
    }
    event
}
