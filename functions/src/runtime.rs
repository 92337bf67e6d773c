//! The runtime: logging, and the loop that turns every event into a response, even if a handler panics.

use std::{
    cell::Cell,
    convert::Infallible,
    env, future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::FutureExt;
use lambda_http::{
    Adapter, Context, IntoResponse, LambdaEvent, RequestExt,
    http::header::HOST,
    request::{LambdaRequest, RequestContext},
    service_fn,
    tower::ServiceExt,
};
use lambda_runtime::Runtime;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shared::Database;
use tracing::Level;

use crate::{
    Request, StartError,
    error::Error,
    response::{self, Response},
};

/// Serves events with `handle` until Lambda ends the process: one at a time, or up to `AWS_LAMBDA_MAX_CONCURRENCY`,
/// which is set on Lambda Managed Instances. The database handle lives as long as the process and uses the init phase
/// to connect. Every event gets a response: the handler's errors and panics become responses, never function errors,
/// and a failure on our side is logged once.
///
/// A database failure doesn't make it fail: a process that exits in its init phase keeps callers waiting while Lambda
/// restarts it over and over.
///
/// # Errors
/// If Lambda's Runtime API can't be reached.
pub async fn run<H, F>(handle: H) -> Result<(), StartError>
where
    H: Fn(&'static Database, Request) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response, Error>> + Send + 'static,
{
    start_logging();
    let database: &'static Database = Box::leak(Box::new(Database::from_env()));
    database.warm_up().await;
    let service = Adapter::from(service_fn(move |event: Request| {
        let invocation = Invocation::of(&event);
        let answer = catch_panic(handle(database, event));
        async move {
            let result = answer.await.unwrap_or_else(|place| Err(Error::Panicked(place)));
            Ok::<_, Infallible>(Answer(result.unwrap_or_else(|error| {
                invocation.log(&error);
                response::problem(&error, &invocation.context.request_id)
            })))
        }
    }));
    // Not `lambda_runtime::run`, which creates a tracing span for each request. In a spawned task, because to wake the
    // program's main future, tokio polls the kernel for events one extra time, three times per request.
    let serving = tokio::spawn(Runtime::new(service.map_request(without_pitfalls)).run_concurrent());
    serving.await.map_err(|_| "the runtime has panicked")?
}

/// What the log record of a failure contains about its request.
struct Invocation {
    context: Context,
    route: Option<String>,
    start: Instant,
}

impl Invocation {
    fn of(event: &Request) -> Self {
        let route = match event.request_context_ref() {
            Some(RequestContext::ApiGatewayV2(context)) => context.route_key.clone(),
            _ => None,
        };
        let context = event.lambda_context_ref().cloned().unwrap_or_default();
        Self { context, route, start: Instant::now() }
    }

    /// Logs a failure on our side; for client errors the access log is enough.
    fn log(&self, error: &Error) {
        let (status, _) = response::status_and_text(error);
        let (reason, failure) = match error {
            _ if !status.is_server_error() => return,
            Error::Operation(error) => (error.to_string(), error.failure()),
            Error::Panicked(place) => (format!("panicked at {place}"), None),
            Error::Rejected(_) => return,
        };
        tracing::error!(
            "requestId" = self.context.request_id,
            function = self.context.env_config.function_name,
            route = self.route,
            status = status.as_u16(),
            sqlstate = failure.and_then(|failure| failure.sqlstate.as_deref()),
            attempts = failure.map(|failure| failure.attempts),
            elapsed_ms = milliseconds(self.start.elapsed()),
            "{reason}"
        );
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

thread_local! {
    /// Where this thread last panicked.
    static PANICKED_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Sets up logging to stdout: one line of JSON per record, from the level in `AWS_LAMBDA_LOG_LEVEL` (default: INFO).
/// For a panic, only its location is kept, for [`catch_panic`]; a debug build outside Lambda also prints its message.
#[expect(clippy::disallowed_methods, reason = "Lambda sets the log level and format, as for every function")]
pub fn start_logging() {
    let level = env::var("AWS_LAMBDA_LOG_LEVEL").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .json()
        .with_max_level(level.unwrap_or(Level::INFO))
        .with_target(false)
        .without_time()
        .init();
    // A panic's message may contain user data; its location doesn't. A debug build outside Lambda runs on a developer's
    // machine, where the message helps.
    let local = cfg!(debug_assertions) && env::var_os("AWS_LAMBDA_LOG_FORMAT").is_none_or(|it| it.is_empty());
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICKED_AT.set(info.location().map(ToString::to_string));
        if local {
            tell(info);
        }
    }));
}

/// The output of a future, or the location where it panicked.
///
/// # Errors
/// The location as `file:line:column`, or an empty string without [`start_logging`].
pub async fn catch_panic<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let caught = AssertUnwindSafe(future).catch_unwind().await;
    caught.map_err(|_| PANICKED_AT.take().unwrap_or_default())
}

/// A response that is passed on as is: `lambda_http` would copy its body to convert other character sets to UTF-8.
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

/// Before any handler runs, `lambda_http` decodes the body and builds a URI from host, path and query, and panics if it
/// can't. Clients control all four, so whatever could make it panic is removed or escaped here; handlers read path and
/// query parameters, never the URI.
fn without_pitfalls(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
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
