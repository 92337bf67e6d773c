//! Not an endpoint: prepares and maintains the database when invoked by CloudFormation, the hourly schedule or a
//! person.
//!
//! | event | what happens | response |
//! |---|---|---|
//! | a [custom resource](cloudformation) request | Create and Update: migrations, then `Roles`; Delete: nothing | to the `ResponseURL` |
//! | `{"task": "migrate"}`, optionally with `Roles` | migrations, then `Roles` | `{"applied": ["0001_create_users"]}` |
//! | `{"task": "delete-old-keys"}`, optionally with a `slice` from 0 to 23 | deletes [old idempotency keys](delete_old_keys), clients' keys only in this slice | `{"deleted": 12}` |
//! | a [scheduled event](https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-run-lambda-schedule.html) of EventBridge | the same; the slice is the hour of the event's time | `{"deleted": 12}` |
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

/// How long an unreachable database is retried: in a new stack, its DNS name and the permission to connect take a
/// moment to propagate.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a custom resource request or the deletion of old keys may take. It is below the function's timeout of 120
/// seconds, which leaves time to respond; that in turn is below the custom resource's `ServiceTimeout`.
const WORK: Duration = Duration::from_secs(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    start_logging();
    run(service_fn(handle)).await
}

/// What to do with the database.
#[derive(Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
enum Task {
    Migrate(Properties),
    DeleteOldKeys { slice: Option<u8> },
}

/// The properties of the custom resource that matter here.
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

/// Carries out a request of CloudFormation. Deleting the resource requires nothing: whether the data is deleted is
/// decided by the cluster's `DeletionPolicy`.
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

/// Retries `attempt` for [`PATIENCE`] while the database can't be reached.
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
