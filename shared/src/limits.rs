//! Every time limit, and that they are nested: who waits longer must outlive whom it waits for.
//!
//! No limit looks at the age of a connection: an environment may be frozen for hours, and its clocks with it.

use std::time::Duration;

/// How long a statement may wait for a lock, enforced by the server. [Set](crate::roles) on the database roles.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a statement may run, enforced by the server. [Set](crate::roles) on the database roles.
pub const SERVER_STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the kernel keeps undelivered data. It gives up before we give up the statement: otherwise a network that
/// heals could deliver a write that has been answered as failed.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How long we wait for a statement, from handing it to the connection to its last row.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// All of a connect: credential, name resolution, TCP, TLS and authentication.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// An operation with all its attempts.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);

/// When Lambda ends an invocation of an endpoint; `template.yaml` sets it.
pub const LAMBDA_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = {
    assert!(LOCK_TIMEOUT.as_millis() < SERVER_STATEMENT_TIMEOUT.as_millis());
    assert!(SERVER_STATEMENT_TIMEOUT.as_millis() < TCP_USER_TIMEOUT.as_millis());
    assert!(TCP_USER_TIMEOUT.as_millis() < STATEMENT_TIMEOUT.as_millis());
    // A statement that was lost, a fresh connection, and the statement once more.
    assert!(2 * STATEMENT_TIMEOUT.as_millis() + CONNECT_TIMEOUT.as_millis() <= OPERATION_TIMEOUT.as_millis());
    assert!(OPERATION_TIMEOUT.as_millis() < LAMBDA_TIMEOUT.as_millis());
};
