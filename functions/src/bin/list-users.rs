//! `GET /api/users`: all users, a page at a time.

use functions::{Database, Error, Request, Response, StartError, request, response, serve, start};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    let db = start().await;
    serve(|event| handle(db, event)).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let page = request::page(&event)?;
    let rows = users::list(db, page.after, page.limit).await?;
    Ok(response::page(&rows.page()?, page.limit))
}
