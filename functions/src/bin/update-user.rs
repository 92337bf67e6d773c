//! `PUT /api/users/{id}`: replaces the name and age of a user.

use functions::{
    Database, Error, Request, Response, StartError, body, extract, preconditions, response, run,
};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    run(handle).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let id = extract::user_id(&event)?;
    let content = body::user(&event)?;
    let preconditions = preconditions::of(&event)?;
    let user = users::update(db, id, &content, &preconditions).await?;
    Ok(response::updated(&user))
}
