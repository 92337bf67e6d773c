//! `POST /api/users`: creates a user.

use functions::{
    Database, Error, Request, Response, StartError, body, error::Rejection, extract, preconditions, response,
    run,
};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    run(handle).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let new = body::user(&event)?;
    let key = extract::idempotency_key(&event)?;
    if preconditions::of_collection(&event)? {
        return Err(Rejection::PreconditionFailed.into());
    }
    let user = users::create(db, &new, &key).await?;
    Ok(response::created(&user))
}
