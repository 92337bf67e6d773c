//! What both probes do, whatever their TLS.

use std::env;

use lambda_http::{Body, Error, Request, RequestExt, Response, http::header::CONTENT_TYPE, run_concurrent, service_fn};
use serde_json::json;
use tokio_postgres::{
    Client, Config, Socket,
    config::SslMode,
    tls::{MakeTlsConnect, TlsConnect},
    types::Type,
};

/// The variable's value.
///
/// # Panics
/// When it is not set.
pub fn var(name: &str) -> String {
    env::var(name).expect(name)
}

/// Connects to `DATABASE_URL`, then answers `GET /api/users/{id}`.
///
/// # Errors
/// If the database or Lambda's Runtime API can't be reached.
pub async fn serve<T>(tls: T) -> Result<(), Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    lambda_http::tracing::init_default_subscriber();
    // The options are libpq's, not all of which tokio-postgres knows.
    let mut config: Config = var("DATABASE_URL").split('?').next().unwrap_or_default().parse()?;
    let (client, connection) = config.ssl_mode(SslMode::Require).connect(tls).await?;
    tokio::spawn(connection);
    let client: &'static Client = Box::leak(Box::new(client));
    run_concurrent(service_fn(move |event| get(client, event))).await
}

async fn get(client: &Client, event: Request) -> Result<Response<Body>, Error> {
    let id: i64 = event.path_parameters().first("id").unwrap_or_default().parse()?;
    let sql = "SELECT id::bigint, name, age FROM users WHERE id = $1";
    let rows = client.query_typed(sql, &[(&id, Type::INT8)]).await?;
    let row = rows.first().ok_or("no such user")?;
    let user = json!({
        "id": row.try_get::<_, i64>(0)?,
        "name": row.try_get::<_, Option<&str>>(1)?,
        "age": row.try_get::<_, Option<i32>>(2)?,
    });
    Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(user.to_string().into())?)
}
