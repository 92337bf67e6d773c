//! Part 1 of the guide, *Basic PostgreSQL Operations with Python*, in Rust: each paragraph has the number of its
//! section in the guide.
//!
//! It connects to `DATABASE_URL` or the guide's database. It uses a temporary table with a name that nothing else uses,
//! so it doesn't touch stored data.
#![expect(clippy::disallowed_macros, reason = "a command line tool prints")]

use std::{env, error::Error};

use native_tls::TlsConnector;
use postgres_native_tls::MakeTlsConnector;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // 1. Connect. A separate task reads from and writes to the socket; the client talks to the task.
    let mut options = options()?;
    options.ssl_mode(if is_local(&options) { SslMode::Disable } else { SslMode::Require });
    let (mut client, connection) = options.connect(MakeTlsConnector::new(TlsConnector::new()?)).await?;
    let connection = tokio::spawn(connection);

    let version = client.query_one("SELECT version()", &[]).await?;
    println!("PostgreSQL version: {}", version.try_get::<_, &str>(0)?);

    // 2. Create a table. A statement outside a transaction commits by itself.
    let create = "\
        CREATE TEMPORARY TABLE IF NOT EXISTS basics_users (\
            id SERIAL PRIMARY KEY, \
            name VARCHAR(100), \
            age INT)";
    client.batch_execute(create).await?;

    // 3. Insert data. Statements that belong together need a transaction, which is rolled back unless it is committed:
    // an early return with `?` undoes it.
    let insert = "INSERT INTO basics_users (name, age) VALUES ($1, $2)";
    let transaction = client.transaction().await?;
    transaction.execute(insert, &[&"Alice", &30]).await?;
    transaction.execute(insert, &[&"Bob", &41]).await?;
    transaction.commit().await?;

    // 4. Query data, with columns by position.
    for row in client.query("SELECT id, name, age FROM basics_users ORDER BY id", &[]).await? {
        let (id, name, age): (i32, &str, i32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        println!("ID: {id}, Name: {name}, Age: {age}");
    }

    // 5. Update data.
    let updated =
        client.execute("UPDATE basics_users SET age = $1 WHERE name = $2", &[&31, &"Alice"]).await?;
    println!("Updated: {updated}");

    // 6. Delete data.
    let deleted = client.execute("DELETE FROM basics_users WHERE name = $1", &[&"Alice"]).await?;
    println!("Deleted: {deleted}");

    // 8. Columns by name, without a different kind of cursor.
    for row in client.query("SELECT name, age FROM basics_users", &[]).await? {
        println!("{} {}", row.try_get::<_, &str>("name")?, row.try_get::<_, i32>("age")?);
    }

    // 7. Close the connection. Dropping the client is enough, at the latest at the end of its scope; waiting for the
    // task makes sure that the server has been notified.
    drop(client);
    connection.await??;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "an example has no configuration module")]
fn options() -> Result<Config, tokio_postgres::Error> {
    if let Ok(url) = env::var("DATABASE_URL") {
        return url.parse();
    }
    let mut options = Config::new();
    options.host("localhost").dbname("mydb").user("myuser").password("mypassword");
    Ok(options)
}

fn is_local(options: &Config) -> bool {
    let local = |host: &Host| match host {
        Host::Tcp(name) => ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()),
        _ => true, // a socket in the file system
    };
    options.get_hosts().iter().all(local)
}
