//! `DELETE /api/users/{id}`: deletes a user.

use functions::{Database, Error, Request, Response, StartError, extract, preconditions, response, run};
use shared::users;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    run(handle).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let id = extract::user_id(&event)?;
    let preconditions = preconditions::of(&event)?;
    users::delete(db, id, &preconditions).await?;
    Ok(response::deleted(id))
}
