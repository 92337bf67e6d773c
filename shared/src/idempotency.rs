//! Idempotency keys: how repeated requests are recognised, and how old keys are deleted.
//!
//! A stored key is `c` (a client's) or `i` (an invocation's) followed by a SHA-256 in lower-case hexadecimal digits,
//! over the caller and the key, each prefixed with its length as 8 bytes in big-endian order. It is a digest because a
//! key may contain personal data, and because the keys of different callers must not collide.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_postgres::types::Type;

use crate::{db::Database, error::Error};

/// What identifies a repeated request for a new row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyKey {
    /// The client chose `key`; `caller` identifies the client, and is empty if anyone may call.
    Client {
        /// Unique among this caller's requests.
        key: String,
        /// The caller's identity.
        caller: String,
    },
    /// The id of the invocation, which no client knows: only our own retries are recognised.
    Invocation(String),
}

impl IdempotencyKey {
    pub(crate) fn stored(&self) -> String {
        let (kind, caller, key) = match self {
            Self::Client { key, caller } => (Kind::Client, caller.as_str(), key),
            Self::Invocation(id) => (Kind::Invocation, "", id),
        };
        let mut hash = Sha256::new();
        for part in [caller, key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        kind.prefix().to_owned() + &hexadecimal(&hash.finalize())
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Client,
    Invocation,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Client => "c",
            Self::Invocation => "i",
        }
    }

    /// Sorts after every key of this kind, in any collation.
    const fn end(self) -> &'static str {
        match self {
            Self::Client => "d",
            Self::Invocation => "j",
        }
    }

    /// How long a key is kept: a client may repeat a request within a day; nobody can send an invocation's id again
    /// once the invocation is over.
    const fn kept_for(self) -> &'static str {
        match self {
            Self::Client => "24 hours",
            Self::Invocation => "1 hour",
        }
    }
}

/// A 24th of all digests, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice(Option<u8>);

impl Slice {
    /// How many slices there are: one for each hour of the day.
    const COUNT: u32 = 24;

    /// All digests.
    pub const ALL: Self = Self(None);

    /// The slice with this number, from 0 to 23; `None` for any other.
    pub fn new(number: u8) -> Option<Self> {
        (u32::from(number) < Self::COUNT).then_some(Self(Some(number)))
    }

    /// A string before the slice's first key of this kind, a random one in the slice, and one after its last key.
    fn bounds(self, kind: Kind) -> (String, String, String) {
        // The first four digits of a digest determine its slice.
        let start = |number: u8| 0x1_0000 * u32::from(number) / Self::COUNT;
        let digits = match self.0 {
            None => 0..0x1_0000,
            Some(number) => start(number)..start(number + 1),
        };
        let key = |digits: u32| format!("{}{digits:04x}", kind.prefix());
        let end = if digits.end == 0x1_0000 { kind.end().to_owned() } else { key(digits.end) };
        (key(digits.start), key(rand::random_range(digits)), end)
    }
}

/// Looks at up to 1,000 keys in primary key order, so that no statement runs long or needs another index, and deletes
/// the old ones among them. The functions are qualified so that no user-defined one can take their place.
const DELETE_PAGE: &str = "\
    WITH page AS (\
        SELECT key, created_at FROM idempotency_keys WHERE key > $1 AND key < $2 ORDER BY key LIMIT 1000), \
    gone AS (DELETE FROM idempotency_keys WHERE key IN \
        (SELECT key FROM page WHERE created_at < pg_catalog.now() - $3::interval) \
        RETURNING key) \
    SELECT (SELECT pg_catalog.max(key) FROM page), (SELECT pg_catalog.count(*) FROM gone)";

/// Deletes all invocations' keys that are older than an hour and, in this slice, the clients' keys that are older than
/// 24 hours. Returns the number of deleted keys. It starts no new statement once `time` is up, even if keys are left.
///
/// Each pass starts at a random position and wraps around once: another pass finds what an interrupted one left, and
/// no progress has to be stored.
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Internal`] or [`Error::Config`].
pub async fn delete_old_keys(db: &Database, slice: Slice, time: Duration) -> Result<i64, Error> {
    let start = Instant::now();
    // Invocations' keys get at most half of the time, so that there is some left for the clients' keys.
    let of_invocations = delete_old(db, Kind::Invocation, Slice::ALL, start + time / 2).await?;
    let of_clients = delete_old(db, Kind::Client, slice, start + time).await?;
    Ok(of_invocations + of_clients)
}

async fn delete_old(db: &Database, kind: Kind, slice: Slice, deadline: Instant) -> Result<i64, Error> {
    let (from, middle, to) = slice.bounds(kind);
    let mut deleted = 0;
    for (mut last, to) in [(middle.clone(), to), (from, middle)] {
        while Instant::now() < deadline {
            let params =
                [(&last as _, Type::TEXT), (&to as _, Type::TEXT), (&kind.kept_for() as _, Type::TEXT)];
            let reply = db.query(DELETE_PAGE, &params).await?;
            let row = reply.rows.first().ok_or_else(|| Error::no_row("DELETE"))?;
            deleted += row.try_get::<_, i64>(1)?;
            match row.try_get(0)? {
                Some(key) => last = key,
                None => break,
            }
        }
    }
    Ok(deleted)
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slices_are_all_digests_without_a_gap() {
        let bounds: Vec<_> = (0..24).map(|number| Slice::new(number).unwrap().bounds(Kind::Client)).collect();
        assert_eq!((bounds[0].0.as_str(), bounds[23].2.as_str()), ("c0000", "d"));
        assert!(bounds.iter().all(|(from, middle, to)| from <= middle && middle < to));
        assert!(bounds.windows(2).all(|pair| pair[0].2 == pair[1].0));
        assert_eq!(Slice::new(24), None);
    }
}
