//! The doors of the databases in an account of a local AWS, as a process: see `dev/deployment`.

use testkit::{Account, IamGate, Service};

fn main() {
    let text = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let port = |name| text(name).parse().unwrap_or_else(|_| panic!("{name} is no port"));
    let (aws, proxy, door) = (port("GATEWAY_PORT"), port("PGPROXY"), port("DOOR"));
    let account = Account::new(text("SESSIONS").into(), aws, proxy, text("RESOURCE_ID"), door);
    let dsql = IamGate::of_account(Service::Dsql, port("GATE"), account.clone());
    let rds = IamGate::of_account(Service::Rds, port("RDS_GATE"), account);
    for (gate, file) in [(&dsql, "AUTHORITY"), (&rds, "RDS_AUTHORITY")] {
        std::fs::copy(gate.authority(), text(file)).expect("the authority's file");
    }
    loop {
        std::thread::park();
    }
}
