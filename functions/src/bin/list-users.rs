//! `GET /api/users`: all users, a page at a time.

use functions::{Database, Error, Request, Response, StartError, extract, preconditions, response, run};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    run(handle).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let page = extract::page(&event)?;
    if preconditions::of_collection(&event)? {
        return Ok(response::list_not_modified());
    }
    let rows = users::list(db, page.after, page.size).await?;
    Ok(response::page(&rows.page()?, page.size))
}
