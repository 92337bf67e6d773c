//! IAM tokens instead of passwords: a presigned URL without its scheme, signed locally, without any network access.
//!
//! Sources: [Aurora DSQL][dsql], [RDS][rds], [presigned requests of Signature Version 4][sigv4].
//!
//! [dsql]: https://docs.aws.amazon.com/aurora-dsql/latest/userguide/SECTION_authentication-token.html
//! [rds]: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html
//! [sigv4]: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html

use std::{
    error, iter,
    time::{Duration, SystemTime},
};

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_credential_types::{Credentials, provider::ProvideCredentials};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::Failure;

/// How long a token can be used to connect. The connection may outlive it.
const EXPIRES_IN: Duration = Duration::from_secs(900);

/// All characters except those that RFC 3986, section 2.3, calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The service that checks the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Aurora DSQL.
    Dsql,
    /// RDS, Aurora and RDS Proxy.
    Rds,
}

/// Makes the tokens of one database user.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    pub(crate) service: Service,
    pub(crate) region: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
}

impl Signer {
    /// A token valid from now for 15 minutes, signed with the environment's credentials: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub(crate) async fn token(&self) -> Result<String, Failure> {
        let credentials =
            EnvironmentVariableCredentialsProvider::new().provide_credentials().await.map_err(|_| {
                Failure::new("can't sign a token: AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set")
            })?;
        self.sign(credentials, SystemTime::now())
            .map_err(|error| Failure::new(format!("can't sign a token: {error}")))
    }

    fn sign(&self, credentials: Credentials, time: SystemTime) -> Result<String, Box<dyn error::Error>> {
        let Self { host, port, user, region, .. } = self;
        let encoded = |text| utf8_percent_encode(text, RESERVED);
        let (service, url) = match self.service {
            Service::Dsql if user == "admin" => ("dsql", format!("https://{host}/?Action=DbConnectAdmin")),
            Service::Dsql => ("dsql", format!("https://{host}/?Action=DbConnect")),
            Service::Rds => {
                ("rds-db", format!("https://{host}:{port}/?Action=connect&DBUser={}", encoded(user)))
            }
        };
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(EXPIRES_IN);
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(time)
            .settings(settings)
            .build()?
            .into();
        let request = SignableRequest::new("GET", &url, iter::empty(), SignableBody::Bytes(&[]))?;
        let (instructions, _) = sign(request, &params)?.into_parts();
        let signature =
            instructions.params().iter().map(|(name, value)| format!("&{name}={}", encoded(value)));
        Ok(url.trim_start_matches("https://").to_owned() + &signature.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Recorded by `tests/tokens.py`: service, user, session token, token, separated by spaces.
    const RECORDED: &str = include_str!("../tests/tokens.txt");

    #[test]
    fn a_token_is_the_one_that_botocore_makes() {
        assert_eq!(RECORDED.lines().count(), 6);
        for line in RECORDED.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [service, user, session_token, expected] = words[..] else { panic!("{line}") };
            let (service, host, port) = match service {
                "dsql" => (Service::Dsql, "abcdefghij0123456789abcdef.dsql.eu-central-1.on.aws", 5432),
                _ => (Service::Rds, "db.abcdefghijkl.eu-central-1.rds.amazonaws.com", 5433),
            };
            let signer = Signer {
                service,
                region: "eu-central-1".to_owned(),
                host: host.to_owned(),
                port,
                user: user.to_owned(),
            };
            let session_token = (session_token != "-").then(|| session_token.to_owned());
            let credentials = Credentials::new(
                "AKIDEXAMPLE",
                "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                session_token,
                None,
                "test",
            );
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);

            let token = signer.sign(credentials, time).unwrap();

            // The order of the parameters doesn't matter: they are sorted for the signature.
            let parts =
                |token: &str| -> BTreeSet<String> { token.split(['?', '&']).map(str::to_owned).collect() };
            assert_eq!(parts(&token), parts(expected), "{line}");
        }
    }
}
