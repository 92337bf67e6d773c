//! The versions of everything that the commands fetch. Those of crates are in `Cargo.toml`.

// What ships is built with it, or it is what the tests run against.
pub(crate) const CARGO_LAMBDA: &str = "1.9.2";
pub(crate) const POSTGRES: &str = "18.4.0-beta.17";

// What the checks take.
pub(crate) const SAM: &str = "1.170.0";
pub(crate) const AWS_CLI: &str = "1.46.3";
pub(crate) const MINISTACK: &str = "1.5.33";
/// What MiniStack needs for SAM's templates, for TLS and tokens, and what the scenario asks PostgreSQL with.
pub(crate) const BESIDE_MINISTACK: [&str; 3] =
    ["aws-sam-translator==1.115.0", "cryptography==50.0.2", "pg8000==1.31.6"];
pub(crate) const CHECKOV: &str = "3.3.30";
pub(crate) const DSQL_LINT: &str = "0.2.22";
pub(crate) const REDOCLY: &str = "2.77.0";
pub(crate) const SCHEMATHESIS: &str = "4.32.5";
pub(crate) const CLIENT_GENERATOR: &str = "0.29.1";
pub(crate) const PLAYWRIGHT: &str = "1.65.1";
pub(crate) const CARGO_DENY: &str = "0.20.2";
pub(crate) const CARGO_MUTANTS: &str = "27.1.0";
pub(crate) const NODE: &str = "24.19.0";

// What the contract's page is made of.
pub(crate) const SCALAR: &str = "1.72.1";

// What the benchmark compares with.
pub(crate) const PSYCOPG: &str = "3.3.9";
pub(crate) const PYTHON_CLIENT: &str = "4.2.2";
pub(crate) const FLASK: [(&str, &str); 3] =
    [("flask", "3.1.3"), ("gunicorn", "27.0.1"), ("psycopg2-binary", "2.9.13")];
pub(crate) const PG: &str = "8.23.1";
pub(crate) const NODE_CLIENT: &str = "4.0.2";
pub(crate) const CMAKE: &str = "4.4.5";
