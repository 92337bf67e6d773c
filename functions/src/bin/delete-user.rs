//! `DELETE /api/users/{id}`: removes a user.

use functions::{Database, Error, Request, Response, StartError, request, response, serve, start};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    let db = start().await;
    serve(|event| handle(db, event)).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let id = request::user_id(&event)?;
    let expected = request::if_match(&event)?;
    users::delete(db, id, &expected).await?;
    Ok(response::deleted(id))
}
