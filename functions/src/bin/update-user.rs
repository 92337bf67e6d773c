//! `PUT /api/users/{id}`: replaces name and age of a user.

use functions::{Database, Error, Request, Response, StartError, request, response, serve, start};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    let db = start().await;
    serve(|event| handle(db, event)).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let id = request::user_id(&event)?;
    let new = request::new_user(&event)?;
    let expected = request::if_match(&event)?;
    let user = users::update(db, id, &new, &expected).await?;
    Ok(response::updated(&user))
}
