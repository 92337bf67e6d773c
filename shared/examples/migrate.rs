//! Applies the migrations to `DATABASE_URL`, as `cargo xtask migrate` does.
#![expect(clippy::disallowed_macros, reason = "a command line tool prints")]

use std::process::ExitCode;

use shared::{Config, Error, migrate};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match apply().await {
        Ok(applied) if applied.is_empty() => println!("The schema is up to date."),
        Ok(applied) => println!("Applied {}.", applied.join(", ")),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

async fn apply() -> Result<Vec<&'static str>, Error> {
    let config = Config::from_env()?;
    println!("Migrating {config}.");
    migrate::apply(&config).await
}
