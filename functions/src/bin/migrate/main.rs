//! No endpoint: prepares and tends the database when CloudFormation, the hourly schedule or a person asks for it.
//!
//! | event | what happens | answer |
//! |---|---|---|
//! | a request of a [custom resource](cloudformation) | Create and Update: migrations, then `Roles`; Delete: nothing | to the `ResponseURL` |
//! | `{"task": "migrate"}`, perhaps with `Roles` | migrations, then `Roles` | `{"applied": ["0001_create_users"]}` |
//! | `{"task": "delete-old-keys"}`, perhaps with a `slice` from 0 to 23 | [old idempotency keys](delete_old_keys) are deleted, clients' only in this slice | `{"deleted": 12}` |
//! | a [scheduled event](https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-run-lambda-schedule.html) of EventBridge | the same; the slice is the hour of its time | `{"deleted": 12}` |
//!
//! `Roles` is a list of [`Role`]s: `{"Name": "users_reader", "Access": "read", "IamRoles": ["arn:…"]}`.

mod cloudformation;

use std::time::Duration;

use functions::{
    Database,
    runtime::{catch_panic, start_logging},
};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    Config,
    idempotency::{Slice, delete_old_keys},
    migrate::apply,
    roles::{Role, grant},
};
use tokio::time::{Instant, sleep, timeout};

/// In a stack that was just made, the database's name and the permission to connect take a moment to be known
/// everywhere. Until this has passed, a database that can't be reached is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

/// For all of an event's work. Below the function's timeout of 120 seconds, which leaves time to answer, and that below
/// the custom resource's `ServiceTimeout`.
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
    Migrate(Properties),
    DeleteOldKeys { slice: Option<u8> },
}

/// The properties of the custom resource, as far as they say what is to be done.
#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "Roles", default)]
    roles: Vec<Role>,
}

impl Task {
    fn of(event: &Value) -> Result<Self, Error> {
        if event["detail-type"] == "Scheduled Event" {
            let slice = event["time"].as_str().and_then(hour).ok_or("the event's time can't be read")?;
            return Ok(Self::DeleteOldKeys { slice: Some(slice) });
        }
        Ok(Self::deserialize(event).map_err(|error| format!("the event can't be read: {error}"))?)
    }
}

/// The hour of `2026-11-25T07:00:00Z`.
fn hour(time: &str) -> Option<u8> {
    time.split_once('T')?.1.get(..2)?.parse().ok()
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    if event.get("ResponseURL").is_none() {
        return perform(Task::of(&event)?).await; // the runtime logs a failure
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
    migrate(&Properties::deserialize(&request.resource_properties)?).await
}

async fn perform(task: Task) -> Result<Value, Error> {
    match task {
        Task::Migrate(properties) => migrate(&properties).await,
        Task::DeleteOldKeys { slice } => {
            let slice = match slice {
                Some(number) => Slice::new(number).ok_or("a slice is a number from 0 to 23")?,
                None => Slice::ALL,
            };
            let deleted = delete_old_keys(&Database::from_env(), slice, WORK).await?;
            Ok(json!({ "deleted": deleted }))
        }
    }
}

async fn migrate(properties: &Properties) -> Result<Value, Error> {
    let config = Config::from_env()?;
    let applied = reached(|| apply(&config)).await?;
    if !properties.roles.is_empty() {
        reached(|| grant(&config, &properties.roles)).await?;
    }
    Ok(json!({ "applied": applied }))
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
