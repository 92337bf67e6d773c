//! `GET /api/users/{id}`: one user.

use functions::{Database, Error, Request, Response, StartError, request, response, serve, start};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    let db = start().await;
    serve(|event| handle(db, event)).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let id = request::user_id(&event)?;
    let known = request::if_none_match(&event)?;
    let user = users::get(db, id).await?;
    Ok(if known.includes(&user) { response::not_modified(&user) } else { response::user(&user) })
}
