//! No endpoint: prepares the database when CloudFormation, the daily schedule or a person asks for it.
//!
//! | event | what happens | answer |
//! |---|---|---|
//! | a request of a [custom resource](cloudformation) | Create and Update: migrations, then `Roles`; Delete: nothing | to the `ResponseURL` |
//! | `{"task": "migrate"}`, perhaps with `Roles` | migrations, then `Roles` | `{"applied": ["0001_create_users"]}` |
//! | `{"task": "delete-old-keys"}` | idempotency keys older than 24 hours are deleted | `{"deleted": 12}` |
//!
//! `Roles` is a list of [`Role`]s: `{"Name": "users_reader", "Duty": "reader", "IamRoles": ["arn:…"]}`.

mod cloudformation;

use std::time::Duration;

use functions::{Database, catch_panic, start_logging};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    Config,
    migrate::{Role, apply, grant},
    users,
};
use tokio::time::{Instant, sleep, timeout};

/// In a stack that was just made, the database's name and the permission to connect take a moment to be known
/// everywhere. Until this has passed, a database that can't be reached is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

/// For all of a custom resource's work. Below the function's timeout of 120 seconds, which leaves time to answer, and
/// that below the resource's `ServiceTimeout`.
const WORK: Duration = Duration::from_secs(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start_logging();
    run(service_fn(handle)).await
}

/// What is to be done with the database.
#[derive(Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
enum Task {
    Migrate {
        #[serde(rename = "Roles", default)]
        roles: Vec<Role>,
    },
    DeleteOldKeys,
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    if event.get("ResponseURL").is_none() {
        return perform(&event).await; // the runtime logs a failure
    }
    let request = cloudformation::Request::deserialize(event)?;
    let outcome = match timeout(WORK, catch_panic(prepare(&request))).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(place)) => Err(format!("panicked at {place}").into()),
        Err(_) => Err(format!("not done within {} seconds", WORK.as_secs()).into()),
    };
    match &outcome {
        Ok(result) => tracing::info!("{result}"),
        Err(error) => tracing::error!("{error}"),
    }
    cloudformation::answer(&request, outcome).await?;
    Ok(Value::Null)
}

/// Does what CloudFormation asks for. To delete the resource nothing is needed: whether the data go is decided for the
/// database.
async fn prepare(request: &cloudformation::Request) -> Result<Value, Error> {
    if request.is_delete() {
        return Ok(json!({}));
    }
    let mut task = request.resource_properties.clone();
    task["task"] = json!("migrate");
    perform(&task).await
}

async fn perform(task: &Value) -> Result<Value, Error> {
    let task = Task::deserialize(task).map_err(|error| format!("the event can't be read: {error}"))?;
    match task {
        Task::Migrate { roles } => {
            let config = Config::from_env()?;
            let applied = reached(|| apply(&config)).await?;
            if !roles.is_empty() {
                reached(|| grant(&config, &roles)).await?;
            }
            Ok(json!({ "applied": applied }))
        }
        Task::DeleteOldKeys => {
            let deleted = users::delete_old_keys(&Database::from_env()).await?;
            Ok(json!({ "deleted": deleted }))
        }
    }
}

/// Repeats what fails because the database can't be reached.
async fn reached<T, F>(attempt: impl Fn() -> F) -> Result<T, shared::Error>
where
    F: Future<Output = Result<T, shared::Error>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(shared::Error::Unavailable(_)) if Instant::now() < deadline => {
                sleep(Duration::from_secs(1)).await;
            }
            result => return result,
        }
    }
}
