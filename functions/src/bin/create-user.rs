//! `POST /api/users`: a new user.

use functions::{Database, Error, Request, Response, StartError, request, response, serve, start};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    let db = start().await;
    serve(|event| handle(db, event)).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let new = request::new_user(&event)?;
    let key = request::key(&event)?;
    let user = users::create(db, &new, &key).await?;
    Ok(response::created(&user))
}
