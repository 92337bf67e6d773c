//! The time limits of a request, and a compile-time check that they are nested: whoever waits must wait longer than
//! what it waits for may take.
//!
//! There is no limit on the age of a connection: an environment may be frozen for hours, along with its clocks.

use std::time::Duration;

/// How long a statement may wait for a lock, enforced by the server. [Set](crate::roles) on the database roles.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a statement may run, enforced by the server. [Set](crate::roles) on the database roles.
pub const SERVER_STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the kernel keeps trying to deliver data (`TCP_USER_TIMEOUT`). It gives up before we give up on the
/// statement: otherwise a network that recovers could deliver a write that has been reported as failed.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How long we wait for a statement, from handing it to the connection until its last row.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long connecting may take: credential, name resolution, TCP, TLS and authentication.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an operation may take, including all its attempts and the pauses between them.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(8);

/// When Lambda ends an invocation of an endpoint; set in `template.yaml`.
pub const LAMBDA_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = {
    assert!(LOCK_TIMEOUT.as_millis() < SERVER_STATEMENT_TIMEOUT.as_millis());
    assert!(SERVER_STATEMENT_TIMEOUT.as_millis() < TCP_USER_TIMEOUT.as_millis());
    assert!(TCP_USER_TIMEOUT.as_millis() < STATEMENT_TIMEOUT.as_millis());
    // A lost statement, a new connection, and the statement once more.
    assert!(2 * STATEMENT_TIMEOUT.as_millis() + CONNECT_TIMEOUT.as_millis() <= OPERATION_TIMEOUT.as_millis());
    assert!(OPERATION_TIMEOUT.as_millis() < LAMBDA_TIMEOUT.as_millis());
};
