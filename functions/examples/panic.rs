//! Panics if the request has a query, with the start-up code of the real binaries; only for tests.

use functions::{Database, Error, Request, Response, StartError, response, run};
use lambda_http::RequestExt;
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    run(handle).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let user = users::get(db, 1).await?;
    assert!(
        event.query_string_parameters_ref().is_none_or(|query| query.is_empty()),
        "a user's secret: {user:?}"
    );
    Ok(response::user(&user))
}
