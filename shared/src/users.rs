//! Users and the five operations on them, each beside its SQL.

use serde::Serialize;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{
    db::Database,
    error::{Error, Failure},
};

/// A row of `users`. Other programs may have stored NULL in `name` or `age`; here that is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The key, given by the database.
    pub id: i64,
    /// At most 100 characters.
    pub name: Option<String>,
    /// In years; 0 to 150 unless another program wrote it.
    pub age: Option<i32>,
}

/// What a client may store: values that are known to be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// The name.
    pub name: Name,
    /// The age.
    pub age: Age,
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

/// One page of the list of users, in the order of their ids.
#[derive(Debug)]
pub struct Page {
    /// The users of this page.
    pub users: Vec<User>,
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
pub async fn list(db: &Database, after: Option<i64>, limit: u16) -> Result<Page, Error> {
    let after = after.unwrap_or(i64::MIN);
    // One row more than asked for tells whether a next page exists.
    let rows = db.query(LIST, &[(&after, Type::INT8), (&(i64::from(limit) + 1), Type::INT8)]).await?;
    let mut users = rows.iter().map(user).collect::<Result<Vec<_>, _>>()?;
    let more = users.len() > usize::from(limit);
    users.truncate(limit.into());
    let next_after = users.last().filter(|_| more).map(|last| last.id);
    Ok(Page { users, next_after })
}

const GET: &str = "SELECT id::bigint, name, age FROM users WHERE id = $1";

/// The user with this id.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::Unavailable`] or [`Error::Internal`].
pub async fn get(db: &Database, id: i64) -> Result<User, Error> {
    let rows = db.query(GET, &[(&id, Type::INT8)]).await?;
    user(rows.first().ok_or(Error::UserNotFound)?)
}

const CREATE: &str = "INSERT INTO users (name, age) VALUES ($1, $2) RETURNING id::bigint, name, age";

/// Stores a new user.
///
/// # Errors
/// [`Error::Unavailable`] or [`Error::Internal`].
pub async fn create(db: &Database, new: &NewUser) -> Result<User, Error> {
    let rows = db.query(CREATE, &[(&new.name.0, Type::VARCHAR), (&new.age.0, Type::INT4)]).await?;
    user(rows.first().ok_or_else(|| Failure::new("INSERT has answered no row"))?)
}

const UPDATE: &str = "UPDATE users SET name = $2, age = $3 WHERE id = $1 RETURNING id::bigint, name, age";

/// Replaces name and age of the user with this id.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::Unavailable`] or [`Error::Internal`].
pub async fn update(db: &Database, id: i64, new: &NewUser) -> Result<User, Error> {
    let params: [(&(dyn ToSql + Sync), Type); 3] =
        [(&id, Type::INT8), (&new.name.0, Type::VARCHAR), (&new.age.0, Type::INT4)];
    let rows = db.query(UPDATE, &params).await?;
    user(rows.first().ok_or(Error::UserNotFound)?)
}

const DELETE: &str = "DELETE FROM users WHERE id = $1 RETURNING id::bigint";

/// Removes the user with this id.
///
/// # Errors
/// [`Error::UserNotFound`], [`Error::Unavailable`] or [`Error::Internal`].
pub async fn delete(db: &Database, id: i64) -> Result<(), Error> {
    let rows = db.query(DELETE, &[(&id, Type::INT8)]).await?;
    rows.first().map(|_| ()).ok_or(Error::UserNotFound)
}

fn user(row: &Row) -> Result<User, Error> {
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
