//! What Aurora DSQL and RDS demand of an IAM token.
//!
//! Written from the documentation, and without the code under test: [the signature][sigv4], [Aurora DSQL][dsql],
//! [RDS][rds].
//!
//! [sigv4]: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
//! [dsql]: https://docs.aws.amazon.com/aurora-dsql/latest/userguide/SECTION_authentication-token.html
//! [rds]: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.Connecting.html

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// The credentials under which tokens are right in tests, as Lambda gives them to a function.
pub(crate) const CREDENTIALS: Credentials<&str> = [
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
    ("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjEJr//////////wEaDGV1LWNlbnRyYWwtMSJH+example/token=="),
];

/// Names and values of the variables that hold access key, secret key and session token.
pub(crate) type Credentials<Text> = [(&'static str, Text); 3];

/// The only region.
pub(crate) const REGION: &str = "eu-central-1";

/// How old a token may be when it arrives: it is made for the connect, which is given up after 2 seconds.
const AGE: Duration = Duration::from_secs(2);

/// All but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Whom a token is for.
pub(crate) struct Purpose<'a> {
    /// `dsql` or `rds-db`.
    pub(crate) service: &'a str,
    /// As it stands in the token, with a port or without.
    pub(crate) host: &'a str,
    /// `Action`, and what goes with it.
    pub(crate) action: Vec<(&'a str, &'a str)>,
}

/// Compares a token with the only right one of its date.
///
/// # Errors
/// What is wrong with the token.
pub(crate) fn check(
    token: &str,
    purpose: &Purpose,
    credentials: Credentials<&str>,
    now: SystemTime,
) -> Result<(), String> {
    let (host, query) = token.split_once("/?").ok_or("no host and query")?;
    if host != purpose.host {
        return Err(format!("for the host {host}"));
    }
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found: BTreeMap<_, _> = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
    let date = found.get("X-Amz-Date").ok_or("no date")?;
    let made = seconds(date).ok_or_else(|| format!("{date} is no date"))?;
    let age = now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(made));
    if !age.as_ref().is_ok_and(|age| *age < AGE + Duration::from_secs(1)) {
        return Err(format!("not made for this connect, but at {date}: {age:?}"));
    }
    let right = signed(purpose, credentials, date);
    if found == right { Ok(()) } else { Err(format!("{found:?} instead of {right:?}")) }
}

/// The parameters of the token of a date.
fn signed(purpose: &Purpose, credentials: Credentials<&str>, date: &str) -> BTreeMap<String, String> {
    let [(_, access_key), (_, secret_key), (_, session_token)] = credentials;
    let day = date.split('T').next().unwrap_or_default();
    let scope = format!("{day}/{REGION}/{}/aws4_request", purpose.service);
    let credential = format!("{access_key}/{scope}");
    let mut parameters: BTreeMap<_, _> = [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", &credential),
        ("X-Amz-Date", date),
        ("X-Amz-Expires", "900"),
        ("X-Amz-Security-Token", session_token),
        ("X-Amz-SignedHeaders", "host"),
    ]
    .into_iter()
    .chain(purpose.action.iter().copied())
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let encoded = |text| utf8_percent_encode(text, RESERVED);
    let query: Vec<_> =
        parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let request =
        format!("GET\n/\n{}\nhost:{}\n\nhost\n{}", query.join("&"), purpose.host, hex(&Sha256::digest("")));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let first = format!("AWS4{secret_key}").into_bytes();
    let key = scope.split('/').fold(first, |key, part| hmac(&key, part));
    parameters.insert("X-Amz-Signature".to_owned(), hex(&hmac(&key, &text)));
    parameters
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    hmac.update(text.as_bytes());
    hmac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The seconds since 1970 of a date like `20250116T140539Z`.
fn seconds(date: &str) -> Option<u64> {
    let number = |from, to| date.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    // A year that begins in March ends with the leap day.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let hours = (days - 719_468) * 24 + number(9, 11)?;
    Some((hours * 60 + number(11, 13)?) * 60 + number(13, 15)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What botocore has made of the same credentials at [`TIME`]: service, user, session token, token.
    const RECORDED: &str = include_str!("../../../shared/tests/tokens.txt");

    /// 2015-08-30, 12:36:00 UTC.
    const TIME: u64 = 1_440_938_160;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn dates_are_read_as_date_does() {
        for (date, expected) in [
            ("19700101T000000Z", 0),
            ("20000229T235959Z", 951_868_799),
            ("20150830T123600Z", TIME),
            ("20281231T000001Z", 1_861_833_601),
        ] {
            assert_eq!(seconds(date), Some(expected), "{date}");
        }
    }

    #[test]
    fn a_token_is_right_for_one_purpose_and_a_moment_alone() {
        let mut checked = 0;
        for line in RECORDED.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let [service, user, session_token, token] = words[..] else { panic!("{line}") };
            if session_token == "-" {
                continue;
            }
            let action = |user| match (service, user) {
                ("rds", user) => vec![("Action", "connect"), ("DBUser", user)],
                (_, "admin") => vec![("Action", "DbConnectAdmin")],
                _ => vec![("Action", "DbConnect")],
            };
            let (service, host) = match service {
                "rds" => ("rds-db", "db.abcdefghijkl.eu-central-1.rds.amazonaws.com:5433"),
                _ => ("dsql", "abcdefghij0123456789abcdef.dsql.eu-central-1.on.aws"),
            };
            let purpose = |user| Purpose { service, host, action: action(user) };
            for time in [TIME, TIME + 2] {
                assert_eq!(check(token, &purpose(user), CREDENTIALS, at(time)), Ok(()), "{line}");
            }
            let other = if user == "admin" { "users_reader" } else { "admin" };
            for (wrong, user, time) in [
                (token.to_owned(), other, TIME),
                (token.to_owned(), user, TIME + 3),
                (token.to_owned(), user, TIME - 1),
                (format!("https://{token}"), user, TIME),
                (token.replace("eu-central-1", "eu-central-2"), user, TIME),
                (token.replace("=900", "=901"), user, TIME),
                (token.replace("AKIDEXAMPLE", "AKIDEXAMPL"), user, TIME),
                (token.replace("IQoJ", "IQoK"), user, TIME),
                (token.replace("Signature=", "Signature=0"), user, TIME),
            ] {
                let checked = check(&wrong, &purpose(user), CREDENTIALS, at(time));
                assert!(checked.is_err(), "{wrong} for {user} at {time}");
            }
            checked += 1;
        }
        assert_eq!(checked, 3);
    }
}
