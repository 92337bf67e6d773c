//! Users and the five operations on them, each beside its SQL.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio_postgres::{
    Row,
    types::{FromSql, ToSql, Type},
};

use crate::{
    db::{Database, Reply},
    error::{Error, Failure},
};

/// A row of `users`. Other programs may have stored NULL in `name` or `age`; here that is `None`. A name is text of its
/// own or, in a [`Page`], what the database has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User<Text = String> {
    /// The key, given by the database.
    pub id: i64,
    /// At most 100 characters.
    pub name: Option<Text>,
    /// In years; 0 to 150 unless another program wrote it.
    pub age: Option<i32>,
}

impl User {
    /// The entity tag, without quotes: SHA-256 over what age and name hold, so that changes by other programs count and no
    /// column is needed. Conditional statements make the same of a row.
    pub fn tag(&self) -> String {
        let age = self.age.map(|age| age.to_string()).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        BASE64_STANDARD.encode(Sha256::digest(age + &name))
    }
}

/// What a client may store: values that are known to be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// The name.
    pub name: Name,
    /// The age.
    pub age: Age,
}

impl NewUser {
    /// SHA-256 over what a repeated request must have in common with the first.
    fn fingerprint(&self, caller: &str) -> Vec<u8> {
        // A name holds no control characters, so 0 separates.
        Sha256::digest(format!("{}\0{}\0{caller}", self.name.0, self.age.0)).to_vec()
    }
}

/// A name: 1 to 100 characters (Unicode scalar values), not blank, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The rule, for people.
    pub const RULE: &str = "must be a string of 1 to 100 characters, not blank, without control characters";

    /// Takes `name` as it is: nothing is trimmed or cut. `None` if it breaks the [rule](Name::RULE).
    pub fn new(name: String) -> Option<Self> {
        let blank = name.chars().all(char::is_whitespace);
        let valid = !blank && name.chars().count() <= 100 && !name.chars().any(char::is_control);
        valid.then_some(Self(name))
    }
}

/// An age in years, 0 to 150.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age(i32);

impl Age {
    /// The rule, for people.
    pub const RULE: &str = "must be an integer from 0 to 150";

    /// `None` if `years` breaks the [rule](Age::RULE).
    pub fn new(years: i64) -> Option<Self> {
        i32::try_from(years).ok().filter(|years| (0..=150).contains(years)).map(Self)
    }
}

/// By what a repeated request for a new user is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The client has chosen `key`; `caller` says who the client is, and is empty where anybody may call.
    Client {
        /// Unique among this caller's requests.
        key: String,
        /// The caller's identity.
        caller: String,
    },
    /// The id of the invocation, which no client knows: only repetitions of our own are recognised.
    Invocation(String),
}

impl Key {
    /// The key as it is stored. The prefix keeps the two kinds apart.
    fn stored(&self) -> String {
        match self {
            Self::Client { key, .. } => format!("client {key}"),
            Self::Invocation(id) => format!("invocation {id}"),
        }
    }

    fn caller(&self) -> &str {
        match self {
            Self::Client { caller, .. } => caller,
            Self::Invocation(_) => "",
        }
    }
}

/// The entity tags that a user may have for an operation to take place; any with `None`.
pub type Expected = Option<Vec<String>>;

/// The rows of a page.
#[derive(Debug)]
pub struct Rows {
    rows: Vec<Row>,
    limit: usize,
}

impl Rows {
    /// The page, which borrows every name: a thousand need not be copied.
    ///
    /// # Errors
    /// [`Error::Internal`], if the columns are not what they should be.
    pub fn page(&self) -> Result<Page<'_>, Error> {
        let users = self.rows.iter().take(self.limit).map(user).collect::<Result<Vec<_>, _>>()?;
        let next_after = users.last().filter(|_| self.rows.len() > self.limit).map(|last| last.id);
        Ok(Page { users, next_after })
    }
}

/// One page of the list of users, in the order of their ids.
#[derive(Debug)]
pub struct Page<'a> {
    /// The users of this page.
    pub users: Vec<User<&'a str>>,
    /// If there are more: the last id of this page, after which the next one starts.
    pub next_after: Option<i64>,
}

/// `users.id` is the column itself: a bare `id` in ORDER BY would mean the cast in the select list, and a
/// table made by the guide (`id` is int4 there) would be sorted at every request instead of read by its index.
pub const LIST: &str = "\
    SELECT id::bigint, name, age FROM users WHERE users.id > $1 ORDER BY users.id LIMIT $2";

/// Up to `limit` (at least 1) users whose id is greater than `after`; all from the start without `after`.
///
/// # Errors
/// [`Error::Unavailable`] or [`Error::Internal`].
pub async fn list(db: &Database, after: Option<i64>, limit: u16) -> Result<Rows, Error> {
    let after = after.unwrap_or(i64::MIN);
    // One row more than asked for tells whether a next page exists.
    let reply = db.query(LIST, &[(&after, Type::INT8), (&(i64::from(limit) + 1), Type::INT8)]).await?;
    Ok(Rows { rows: reply.rows, limit: limit.into() })
}

const GET: &str = "SELECT id::bigint, name, age FROM users WHERE id = $1";

/// The user with this id.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::Unavailable`] or [`Error::Internal`].
pub async fn get(db: &Database, id: i64) -> Result<User, Error> {
    let reply = db.query(GET, &[(&id, Type::INT8)]).await?;
    user(reply.rows.first().ok_or(Error::UserNotFound)?)
}

/// One statement does it all: it looks for the key, stores user and key if there is none, and tells the user's id and
/// whether the key's fingerprint is this one. Of two at the same moment one gets 23505, runs again and sees the other.
const CREATE: &str = "\
    WITH seen AS (SELECT user_id, fingerprint FROM idempotency_keys WHERE key = $1), \
    made AS (INSERT INTO users (name, age) SELECT $3, $4 WHERE NOT EXISTS (SELECT FROM seen) RETURNING id), \
    kept AS (INSERT INTO idempotency_keys (key, fingerprint, user_id) SELECT $1, $2, id FROM made) \
    SELECT id::bigint, $3, $4, true FROM made UNION ALL \
    SELECT user_id, $3, $4, fingerprint = $2 FROM seen";

/// Stores a new user, once per `key`: repeated, it answers the user as it was created, even if it was changed or
/// deleted since.
///
/// # Errors
/// [`Error::KeyReused`], [`Error::Unavailable`], [`Error::OutcomeUnknown`] or [`Error::Internal`].
pub async fn create(db: &Database, new: &NewUser, key: &Key) -> Result<User, Error> {
    let params: [Param; 4] = [
        (&key.stored(), Type::TEXT),
        (&new.fingerprint(key.caller()), Type::BYTEA),
        (&new.name.0, Type::VARCHAR),
        (&new.age.0, Type::INT4),
    ];
    let reply = db.query(CREATE, &params).await.map_err(|error| match (error, key) {
        (Error::Unavailable(failure), Key::Invocation(_)) if failure.maybe_applied => {
            Error::OutcomeUnknown(failure)
        }
        (error, _) => error,
    })?;
    let row = reply.rows.first().ok_or_else(|| Failure::new("INSERT has answered no row"))?;
    if row.try_get(3)? { user(row) } else { Err(Error::KeyReused) }
}

/// The user `$1`, if its entity tag, made as in [`User::tag`], is among `$2`. The space tells an empty name from none, and
/// a database may keep text in another encoding than UTF-8.
macro_rules! expected {
    () => {
        "id = $1 AND ($2::text[] IS NULL OR \
            encode(sha256(convert_to(concat(age, ' ' || name), 'UTF8')), 'base64') = ANY($2))"
    };
}

const UPDATE: &str = concat!(
    "WITH old AS (SELECT id FROM users WHERE id = $1), \
    new AS (UPDATE users SET name = $3, age = $4 WHERE ",
    expected!(),
    " RETURNING id, name, age) \
    SELECT new.id::bigint, new.name, new.age FROM old LEFT JOIN new ON true"
);

/// Replaces name and age of the user with this id, if its entity tag is among `expected`.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::Changed`], [`Error::Unavailable`] or [`Error::Internal`].
pub async fn update(db: &Database, id: i64, new: &NewUser, expected: &Expected) -> Result<User, Error> {
    let params: [Param; 4] = [
        (&id, Type::INT8),
        (expected, Type::TEXT_ARRAY),
        (&new.name.0, Type::VARCHAR),
        (&new.age.0, Type::INT4),
    ];
    let reply = db.query(UPDATE, &params).await?;
    user(changed(&reply, expected)?)
}

const DELETE: &str = concat!(
    "WITH old AS (SELECT id FROM users WHERE id = $1), \
    gone AS (DELETE FROM users WHERE ",
    expected!(),
    " RETURNING id) \
    SELECT gone.id::bigint FROM old LEFT JOIN gone ON true"
);

/// Removes the user with this id, if its entity tag is among `expected`.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::Changed`], [`Error::Unavailable`] or [`Error::Internal`].
pub async fn delete(db: &Database, id: i64, expected: &Expected) -> Result<(), Error> {
    let reply = db.query(DELETE, &[(&id, Type::INT8), (expected, Type::TEXT_ARRAY)]).await?;
    match changed(&reply, expected) {
        // An earlier attempt of our own has removed it.
        Err(Error::UserNotFound) if reply.repeated => Ok(()),
        result => result.map(|_| ()),
    }
}

/// The row that a conditional statement has changed.
fn changed<'a>(reply: &'a Reply, expected: &Expected) -> Result<&'a Row, Error> {
    let refusal = match reply.rows.first() {
        Some(row) if row.try_get::<_, Option<i64>>(0)?.is_some() => return Ok(row),
        Some(_) if expected.is_some() => Error::Changed,
        _ => Error::UserNotFound,
    };
    // What refuses this attempt may be what an earlier one has done. To say that it succeeded because the content is
    // as asked for would let two clients believe that they both won.
    if reply.repeated && expected.is_some() {
        let failure = Failure::new("a repeated conditional statement was refused: the outcome is unknown");
        return Err(Error::Unavailable(Failure { maybe_applied: true, attempts: reply.attempts, ..failure }));
    }
    Err(refusal)
}

/// Deletes the idempotency keys that are older than 24 hours, and returns how many. Every statement looks at 1,000 keys
/// at most, in the order of the primary key, so that none is long and none is looked at twice.
///
/// # Errors
/// [`Error::Unavailable`] or [`Error::Internal`].
pub async fn delete_old_keys(db: &Database) -> Result<i64, Error> {
    const SQL: &str = "\
        WITH page AS (SELECT key, created_at FROM idempotency_keys WHERE key > $1 ORDER BY key LIMIT 1000), \
        gone AS (DELETE FROM idempotency_keys WHERE key IN \
            (SELECT key FROM page WHERE created_at < now() - interval '24 hours') RETURNING key) \
        SELECT (SELECT max(key) FROM page), (SELECT count(*) FROM gone)";
    let (mut last, mut deleted) = (Some(String::new()), 0);
    while let Some(key) = last {
        let reply = db.query(SQL, &[(&key, Type::TEXT)]).await?;
        let row = reply.rows.first().ok_or_else(|| Failure::new("SELECT has answered no row"))?;
        last = row.try_get(0)?;
        deleted += row.try_get::<_, i64>(1)?;
    }
    Ok(deleted)
}

type Param<'a> = (&'a (dyn ToSql + Sync), Type);

fn user<'a, Text: FromSql<'a>>(row: &'a Row) -> Result<User<Text>, Error> {
    Ok(User { id: row.try_get(0)?, name: row.try_get(1)?, age: row.try_get(2)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_100_characters_not_bytes_and_is_kept_as_it_is() {
        for name in ["A", " A ", "O'Brien", "👩‍🔬", &"é".repeat(100), &"🦀".repeat(100)] {
            assert_eq!(Name::new(name.to_owned()), Some(Name(name.to_owned())));
        }
        assert_eq!(Name::new("🦀".repeat(101)), None);
        assert_eq!(Name::new("A".to_owned() + &" ".repeat(100)), None);
    }

    #[test]
    fn a_name_is_neither_blank_nor_holds_control_characters() {
        for name in ["", " ", "\u{3000}\u{a0}", "A\0", "A\nB", "\u{7f}", "\u{85}x", "\u{9f}x"] {
            assert_eq!(Name::new(name.to_owned()), None, "{name:?}");
        }
    }

    #[test]
    fn an_age_is_0_to_150() {
        assert_eq!(Age::new(0), Some(Age(0)));
        assert_eq!(Age::new(150), Some(Age(150)));
        for years in [-1, 151, i64::MAX, i64::MIN, 1 << 32] {
            assert_eq!(Age::new(years), None, "{years}");
        }
    }
}
