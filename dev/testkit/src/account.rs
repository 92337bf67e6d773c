//! An account of a local AWS, whose policies decide who connects to a database.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    Server,
    database::PASSWORD,
    iam_gate::{ADMIN, Door, Service},
    token::{self, CREDENTIALS, Credentials, REGION},
};

/// The account. Tokens are right if they are signed with the keys of a session, and if the policies of its role allow
/// it.
#[derive(Clone)]
pub struct Account {
    /// A line of JSON for each session: its keys, by the names of their variables, and `Role`, an ARN.
    pub sessions: PathBuf,
    /// The port of the local AWS.
    pub aws: u16,
    /// The port of a proxy that refuses what Aurora DSQL does.
    pub proxy: u16,
    /// The resource id of the database behind [`Service::Rds`].
    pub resource_id: String,
    door: Arc<Door>,
}

/// How an admitted client goes on.
#[derive(Default)]
pub(crate) struct Admission {
    /// The database, if not that which was asked for.
    pub(crate) database: Option<String>,
    /// Port of a proxy, and what logs in behind it.
    pub(crate) by_way_of: Option<(u16, Arc<Door>)>,
}

impl Account {
    /// An account, and the door behind its proxy at a loopback port.
    pub fn new(sessions: PathBuf, aws: u16, proxy: u16, resource_id: String, door: u16) -> Self {
        let account = Self { sessions, aws, proxy, resource_id, door: Arc::default() };
        let serving = Arc::clone(&account.door).serve(door);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let end = runtime.and_then(|runtime| runtime.block_on(serving));
            println!("the door behind the proxy: {end:?}");
            std::process::exit(1);
        });
        account
    }

    /// # Errors
    /// Why this user can't connect with this token.
    pub(crate) fn admits(
        &self,
        service: Service,
        host: &str,
        user: &str,
        token: &str,
    ) -> Result<Admission, String> {
        let (role, credentials) = self.session(token)?;
        let keys = credentials.each_ref().map(|(name, value)| (*name, value.as_str()));
        let named = token.split("/?").next().unwrap_or_default();
        let suffix = format!(".dsql.{REGION}.on.aws");
        let cluster = named.strip_suffix(&suffix).filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()));
        let host = cluster.map_or(host, |_| named);
        token::check(token, &service.purpose(user, host), keys, SystemTime::now())?;

        let account = role.split(':').nth(4).ok_or("no role")?;
        let (action, resource) = match (service, cluster) {
            (Service::Rds, _) => {
                let id = &self.resource_id;
                ("rds-db:connect", format!("arn:aws:rds-db:{REGION}:{account}:dbuser:{id}/{user}"))
            }
            (Service::Dsql, None) => return Err(format!("{named} is no cluster")),
            (Service::Dsql, Some(id)) => {
                let action = if user == ADMIN { "dsql:DbConnectAdmin" } else { "dsql:DbConnect" };
                (action, format!("arn:aws:dsql:{REGION}:{account}:cluster/{id}"))
            }
        };
        if !self.allows(&role, action, &resource)? {
            return Err(format!("{role} may not {action} {resource}"));
        }
        match cluster {
            Some(id) => {
                prepare(id);
                if user != ADMIN {
                    let mapped = "SELECT FROM sys.iam_pg_role_mappings WHERE arn = $1 AND pg_role_name = $2";
                    log_in_as(id, user, mapped, &role)?;
                }
                let by_way_of = Some((self.proxy, Arc::clone(&self.door)));
                Ok(Admission { database: Some(id.to_owned()), by_way_of })
            }
            None => {
                let granted = "SELECT WHERE pg_has_role($2, 'mydb_rds_iam', 'MEMBER') AND $1 <> ''";
                log_in_as("mydb", user, granted, &role)?;
                Ok(Admission::default())
            }
        }
    }

    /// The role and the keys of the session that signed a token.
    fn session(&self, token: &str) -> Result<(String, Credentials<String>), String> {
        let key = token.split_once("X-Amz-Credential=").ok_or("no credential")?.1;
        let key = key.split('%').next().unwrap_or_default();
        let sessions = std::fs::read_to_string(&self.sessions).map_err(|error| error.to_string())?;
        let mut known = sessions.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |session: &Value, name: &str| session[name].as_str().unwrap_or_default().to_owned();
        let session = known.find(|it| it[CREDENTIALS[0].0] == key).ok_or(format!("{key} is nobody's key"))?;
        Ok((text(&session, "Role"), CREDENTIALS.map(|(name, _)| (name, text(&session, name)))))
    }

    /// What `iam:SimulatePrincipalPolicy` says.
    fn allows(&self, role: &str, action: &str, resource: &str) -> Result<bool, String> {
        let fields = [
            ("Action", "SimulatePrincipalPolicy"),
            ("Version", "2010-05-08"),
            ("PolicySourceArn", role),
            ("ActionNames.member.1", action),
            ("ResourceArns.member.1", resource),
        ];
        let encoded = |value| utf8_percent_encode(value, NON_ALPHANUMERIC);
        let fields = fields.map(|(name, value)| format!("{name}={}", encoded(value)));
        let body = fields.join("&");
        let request = format!(
            "POST / HTTP/1.1\r\nHost: iam.amazonaws.com\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=test/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        TcpStream::connect(("127.0.0.1", self.aws))
            .and_then(|mut aws| {
                aws.write_all(request.as_bytes()).and_then(|()| aws.read_to_string(&mut answer))
            })
            .map_err(|error| format!("the local AWS: {error}"))?;
        let decision = answer.split_once("<EvalDecision>").and_then(|(_, it)| it.split_once('<'));
        decision.map(|(decision, _)| decision == "allowed").ok_or(answer)
    }
}

/// The database of a cluster, made when it is first connected to.
fn prepare(cluster: &str) {
    let mut server = Server::current().client("postgres");
    // The second of two at once finds it made.
    if server.batch_execute(&format!("CREATE DATABASE \"{cluster}\"")).is_ok() {
        let isolation = "default_transaction_isolation = 'repeatable read'";
        server.batch_execute(&format!("ALTER DATABASE \"{cluster}\" SET {isolation}")).expect("a setting");
        let mappings =
            "CREATE SCHEMA sys; CREATE TABLE sys.iam_pg_role_mappings (arn text, pg_role_name text)";
        Server::current().client(cluster).batch_execute(mappings).expect("a table");
    }
}

/// Lets a user log in with the password for which the gate takes a token, if `admitted` has a row for role and user.
fn log_in_as(database: &str, user: &str, admitted: &str, role: &str) -> Result<(), String> {
    let mut server = Server::current().client(database);
    let rows = server.query(admitted, &[&role, &user]).map_err(|error| format!("{user}: {error:?}"))?;
    if rows.is_empty() {
        return Err(format!("the database does not let {role} connect as {user}"));
    }
    let quoted = user.replace('"', "\"\"");
    // Again and again, since `migrate` makes users at any time; two at once would conflict.
    let password = format!(
        "SELECT pg_advisory_lock(1); ALTER ROLE \"{quoted}\" PASSWORD '{PASSWORD}'; SELECT pg_advisory_unlock(1)"
    );
    server.batch_execute(&password).map_err(|error| format!("{user}: {error:?}"))
}
