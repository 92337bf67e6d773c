//! `GET /api/users/{id}`: one user.

use functions::{Database, Error, Request, Response, StartError, extract, preconditions, response, run};
use shared::users::{self, Precondition};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), StartError> {
    run(handle).await
}

async fn handle(db: &Database, event: Request) -> Result<Response, Error> {
    let id = extract::user_id(&event)?;
    let preconditions = preconditions::of(&event)?;
    let user = users::get(db, id).await?;
    match preconditions.failed_by(&user) {
        None => Ok(response::user(&user)),
        Some(Precondition::IfNoneMatch) => Ok(response::not_modified(&user)),
        Some(Precondition::IfMatch) => Err(shared::Error::PreconditionFailed.into()),
    }
}
