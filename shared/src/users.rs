//! Users and the five operations on them, each next to its SQL.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use crate::{
    db::{Database, Param, Reply},
    error::{Error, Failure},
    idempotency::IdempotencyKey,
};

/// A row of `users`. Other programs may have stored NULL in `name` or `age`; here that is `None`. A name is owned or,
/// in a [`Page`], borrowed from the database's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User<Text = String> {
    /// The primary key, assigned by the database.
    pub id: i64,
    /// At most 100 characters.
    pub name: Option<Text>,
    /// In years; 0 to 150 unless another program wrote it.
    pub age: Option<i32>,
}

impl User {
    /// The entity tag: SHA-256 over age and name, so that changes by other programs count and no column is needed.
    /// Conditional statements compute the same from a row.
    pub fn tag(&self) -> EntityTag {
        let age = self.age.map(|age| age.to_string()).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        EntityTag(BASE64_STANDARD.encode(Sha256::digest(age + &name)))
    }
}

/// A strong entity tag of a user's content (RFC 9110, section 8.8.3), without the quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag(String);

impl EntityTag {
    /// `None` if this can't be the tag of a user: a SHA-256 in base64 is 44 characters.
    pub fn new(opaque: String) -> Option<Self> {
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        (opaque.len() == 44 && opaque.bytes().all(base64)).then_some(Self(opaque))
    }

    /// The characters between the quotes: 44 of base64.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The entity tags of a precondition, without those that can't be a user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityTags {
    /// `*`: matches any tag.
    Any,
    /// Matches each of these; matches nothing if empty.
    OneOf(Vec<EntityTag>),
}

impl EntityTags {
    fn include(&self, tag: impl FnOnce() -> EntityTag) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => !tags.is_empty() && tags.contains(&tag()),
        }
    }

    fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::Any => None,
            Self::OneOf(tags) => Some(tags.iter().map(EntityTag::as_str).collect()),
        }
    }
}

/// The two preconditions that compare entity tags (RFC 9110, section 13.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Fails if none of its tags is the user's.
    IfMatch,
    /// Fails if one of its tags is the user's.
    IfNoneMatch,
}

/// What a client requires of the user's entity tag for an operation to take effect (RFC 9110, section 13.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The user must have one of these tags.
    pub if_match: Option<EntityTags>,
    /// The user must have none of these tags.
    pub if_none_match: Option<EntityTags>,
}

impl Preconditions {
    /// The precondition that the user fails, if any. A tag is computed only if there is one to compare it with.
    pub fn failed_by(&self, user: &User) -> Option<Precondition> {
        if self.if_match.as_ref().is_some_and(|tags| !tags.include(|| user.tag())) {
            return Some(Precondition::IfMatch);
        }
        let known = self.if_none_match.as_ref().is_some_and(|tags| tags.include(|| user.tag()));
        known.then_some(Precondition::IfNoneMatch)
    }

    fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// The parameters of a conditional statement: a row must have one of the first tags and none of the second. `None`
    /// means no condition.
    fn params(&self) -> (Option<Vec<&str>>, Option<Vec<&str>>) {
        let expected = self.if_match.as_ref().and_then(EntityTags::texts);
        match &self.if_none_match {
            // Every row has a tag, so no row matches.
            Some(EntityTags::Any) => (Some(Vec::new()), None),
            other => (expected, other.as_ref().and_then(EntityTags::texts)),
        }
    }
}

/// What a client may store: validated values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserContent {
    /// The name.
    pub name: Name,
    /// The age.
    pub age: Age,
}

impl UserContent {
    /// SHA-256 over what a repeated request must share with the first: the kind of row and its values.
    fn fingerprint(&self) -> Vec<u8> {
        // A name contains no control characters, so NUL can separate.
        Sha256::digest(format!("user\0{}\0{}", self.name.0, self.age.0)).to_vec()
    }
}

/// A name: 1 to 100 characters (Unicode scalar values), not blank, no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The rule in words, for error messages.
    pub const RULE: &str = "must be a string of 1 to 100 characters, not blank, without control characters";

    /// Takes `name` as is: nothing is trimmed or truncated. `None` if it breaks the [rule](Name::RULE).
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
    /// The rule in words, for error messages.
    pub const RULE: &str = "must be an integer from 0 to 150";

    /// `None` if `years` breaks the [rule](Age::RULE).
    pub fn new(years: i64) -> Option<Self> {
        i32::try_from(years).ok().filter(|years| (0..=150).contains(years)).map(Self)
    }
}

/// The rows of a page.
#[derive(Debug)]
pub struct Rows {
    rows: Vec<Row>,
    size: usize,
}

impl Rows {
    /// The page, which borrows the names: up to a thousand need not be copied.
    ///
    /// # Errors
    /// [`Error::Internal`] if the columns don't have the expected types.
    pub fn page(&self) -> Result<Page<'_>, Error> {
        let users = self.rows.iter().take(self.size).map(user).collect::<Result<Vec<_>, _>>()?;
        let next_after = users.last().filter(|_| self.rows.len() > self.size).map(|last| last.id);
        Ok(Page { users, next_after })
    }
}

/// How many users a page has at most: 1 to 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(u16);

impl PageSize {
    /// The largest page, and the default.
    pub const MAX: Self = Self(1000);

    /// `None` if `users` is out of range.
    pub fn new(users: i64) -> Option<Self> {
        u16::try_from(users).ok().filter(|users| (1..=Self::MAX.0).contains(users)).map(Self)
    }

    /// The number of users.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// One page of the list of users, in ascending order of their ids.
#[derive(Debug)]
pub struct Page<'a> {
    /// The users of this page.
    pub users: Vec<User<&'a str>>,
    /// If there are more users: the last id of this page, after which the next page starts.
    pub next_after: Option<i64>,
}

/// `users.id` is the column itself: a bare `id` in ORDER BY would refer to the cast in the select list, and the guide's
/// table (where `id` is int4) would be sorted for every request instead of read in index order.
pub const LIST: &str = "\
    SELECT id::bigint, name, age FROM users WHERE users.id > $1 ORDER BY users.id LIMIT $2";

/// The first users whose ids are greater than `after`, at most `size` of them; from the start if `after` is `None`.
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Internal`] or [`Error::Config`].
pub async fn list(db: &Database, after: Option<i64>, size: PageSize) -> Result<Rows, Error> {
    let after = after.unwrap_or(i64::MIN);
    // One extra row shows whether there is a next page.
    let reply = db.query(LIST, &[(&after, Type::INT8), (&(i64::from(size.0) + 1), Type::INT8)]).await?;
    Ok(Rows { rows: reply.rows, size: size.0.into() })
}

const GET: &str = "SELECT id::bigint, name, age FROM users WHERE id = $1";

/// The user with this id.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::Unavailable`], [`Error::Internal`] or [`Error::Config`].
pub async fn get(db: &Database, id: i64) -> Result<User, Error> {
    let reply = db.query(GET, &[(&id, Type::INT8)]).await?;
    user(reply.rows.first().ok_or(Error::UserNotFound)?)
}

/// One statement does it all: it looks up the key, stores user and key if it is new, and returns the user's id and
/// whether the key's fingerprint matches. Of two simultaneous ones, one gets 23505, is retried and sees the other's
/// row.
const CREATE: &str = "\
    WITH seen AS (SELECT created_id, fingerprint FROM idempotency_keys WHERE key = $1), \
    made AS (INSERT INTO users (name, age) SELECT $3, $4 WHERE NOT EXISTS (SELECT FROM seen) RETURNING id), \
    kept AS (INSERT INTO idempotency_keys (key, fingerprint, created_id) SELECT $1, $2, id FROM made) \
    SELECT id::bigint, $3, $4, true FROM made UNION ALL \
    SELECT created_id, $3, $4, fingerprint = $2 FROM seen";

/// Stores a new user, once per `key`: if repeated, it returns the user as created, even if it has been changed or
/// deleted since.
///
/// # Errors
/// [`Error::KeyReused`], [`Error::Unencodable`], [`Error::Unavailable`], [`Error::CreationUnknown`],
/// [`Error::Internal`] or [`Error::Config`].
pub async fn create(db: &Database, new: &UserContent, key: &IdempotencyKey) -> Result<User, Error> {
    let params: [Param; 4] = [
        (&key.stored(), Type::TEXT),
        (&new.fingerprint(), Type::BYTEA),
        (&new.name.0, Type::VARCHAR),
        (&new.age.0, Type::INT4),
    ];
    let reply = db.query(CREATE, &params).await.map_err(|error| match (error, key) {
        (Error::Unavailable(failure), IdempotencyKey::Invocation(_)) if failure.maybe_applied => {
            Error::CreationUnknown(failure)
        }
        (error, _) => error,
    })?;
    let row = reply.rows.first().ok_or_else(|| Error::no_row("INSERT"))?;
    if row.try_get(3)? { user(row) } else { Err(Error::KeyReused) }
}

const UPDATE: &str = "UPDATE users SET name = $2, age = $3 WHERE id = $1 RETURNING id::bigint, name, age";

/// The user `$1`, if its entity tag, computed as in [`User::tag`], is among `$2` and not among `$3`. The space
/// distinguishes an empty name from NULL, and the database's encoding may not be UTF-8. Functions are qualified and
/// operands cast, so that no user-defined function or operator can take their place.
macro_rules! conditions {
    () => {
        "id = $1 AND ($2::text[] IS NULL OR pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(\
            pg_catalog.concat(age, ' '::text || name::text), 'UTF8'::name)), 'base64'::text) = ANY($2::text[])) \
        AND ($3::text[] IS NULL OR pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(\
            pg_catalog.concat(age, ' '::text || name::text), 'UTF8'::name)), 'base64'::text) <> ALL($3::text[]))"
    };
}

const UPDATE_IF: &str = concat!(
    "WITH old AS (SELECT id FROM users WHERE id = $1), \
    new AS (UPDATE users SET name = $4, age = $5 WHERE ",
    conditions!(),
    " RETURNING id, name, age) \
    SELECT new.id::bigint, new.name, new.age FROM old LEFT JOIN new ON true"
);

/// Replaces name and age of the user with this id, if the preconditions hold.
///
/// Without preconditions the last write wins: what somebody else writes between two attempts is overwritten.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::PreconditionFailed`], [`Error::Unencodable`], [`Error::Unavailable`],
/// [`Error::ChangeUnknown`], [`Error::Internal`] or [`Error::Config`].
pub async fn update(
    db: &Database,
    id: i64,
    content: &UserContent,
    preconditions: &Preconditions,
) -> Result<User, Error> {
    let id: Param = (&id, Type::INT8);
    let [name, age]: [Param; 2] = [(&content.name.0, Type::VARCHAR), (&content.age.0, Type::INT4)];
    if preconditions.is_empty() {
        let reply = db.query(UPDATE, &[id, name, age]).await?;
        return user(reply.rows.first().ok_or(Error::UserNotFound)?);
    }
    let (expected, excluded) = preconditions.params();
    let tags: [Param; 2] = [(&expected, Type::TEXT_ARRAY), (&excluded, Type::TEXT_ARRAY)];
    let [expected, excluded] = tags;
    let reply = db.query(UPDATE_IF, &[id, expected, excluded, name, age]).await;
    user(conditionally_changed(&reply.map_err(unrepeatable)?)?)
}

const DELETE: &str = "DELETE FROM users WHERE id = $1 RETURNING id::bigint";

const DELETE_IF: &str = concat!(
    "WITH old AS (SELECT id FROM users WHERE id = $1), \
    gone AS (DELETE FROM users WHERE ",
    conditions!(),
    " RETURNING id) \
    SELECT gone.id::bigint FROM old LEFT JOIN gone ON true"
);

/// Deletes the user with this id, if the preconditions hold.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::PreconditionFailed`], [`Error::Unavailable`], [`Error::ChangeUnknown`],
/// [`Error::Internal`] or [`Error::Config`].
pub async fn delete(db: &Database, id: i64, preconditions: &Preconditions) -> Result<(), Error> {
    let id: Param = (&id, Type::INT8);
    if preconditions.is_empty() {
        let reply = db.query(DELETE, &[id]).await?;
        // An earlier attempt of ours may have deleted it; the user is gone, as requested.
        let gone = !reply.rows.is_empty() || reply.maybe_applied_before;
        return if gone { Ok(()) } else { Err(Error::UserNotFound) };
    }
    let (expected, excluded) = preconditions.params();
    let params = [id, (&expected as _, Type::TEXT_ARRAY), (&excluded as _, Type::TEXT_ARRAY)];
    let reply = db.query(DELETE_IF, &params).await.map_err(unrepeatable)?;
    conditionally_changed(&reply).map(|_| ())
}

/// A client must not repeat a conditional change that may have been made: the repeated request would be refused, and a
/// client that then reads and increments again would count twice.
fn unrepeatable(error: Error) -> Error {
    match error {
        Error::Unavailable(failure) if failure.maybe_applied => Error::ChangeUnknown(failure),
        error => error,
    }
}

/// The row that a conditional statement changed.
fn conditionally_changed(reply: &Reply) -> Result<&Row, Error> {
    let refusal = match reply.rows.first() {
        Some(row) if row.try_get::<_, Option<i64>>(0)?.is_some() => return Ok(row),
        Some(_) => Error::PreconditionFailed,
        None => Error::UserNotFound,
    };
    // This attempt may be refused because an earlier one succeeded. Reporting success because the content is what was
    // asked for would let two clients believe that they both won.
    if reply.maybe_applied_before {
        let failure = Failure::new("a repeated conditional statement was refused: the outcome is unknown");
        return Err(Error::ChangeUnknown(Failure {
            maybe_applied: true,
            attempts: reply.attempts,
            ..failure
        }));
    }
    Err(refusal)
}

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
