//! Preconditions: the headers `If-Match` and `If-None-Match` (RFC 9110, section 13.1).

use shared::users::{EntityTag, EntityTags, Preconditions};

use crate::{
    Request,
    error::{Place, Rejection, Violation},
};

/// What a client requires of a user. Tags that can't be a user's are left out, and so are weak ones if the comparison
/// is strong (`If-Match`): they match nothing.
///
/// # Errors
/// [`Rejection::Invalid`] if a header is malformed.
pub fn of(event: &Request) -> Result<Preconditions, Rejection> {
    Ok(Preconditions { if_match: tags(event, "If-Match")?, if_none_match: tags(event, "If-None-Match")? })
}

/// The same for the collection, which exists but has no entity tag: only `*` matches it. Returns `true` if the request
/// has `If-None-Match: *`, that is, if the client already has it.
///
/// # Errors
/// [`Rejection::Invalid`] if a header is malformed, [`Rejection::PreconditionFailed`] if `If-Match` does not match.
pub fn of_collection(event: &Request) -> Result<bool, Rejection> {
    let Preconditions { if_match, if_none_match } = of(event)?;
    if matches!(if_match, Some(EntityTags::OneOf(_))) {
        return Err(Rejection::PreconditionFailed);
    }
    Ok(if_none_match == Some(EntityTags::Any))
}

fn tags(event: &Request, header: &'static str) -> Result<Option<EntityTags>, Rejection> {
    let lines: Vec<_> = event.headers().get_all(header).iter().map(|value| value.as_bytes()).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let parsed = parse(&lines.join(&b',')).ok_or_else(|| {
        Violation::new(Place::Header(header), "must be * or a list of entity tags like \"abc\"")
    })?;
    let Parsed::List(tags) = parsed else { return Ok(Some(EntityTags::Any)) };
    let strong = header == "If-Match";
    let comparable = tags.into_iter().filter(|(weak, _)| !(strong && *weak));
    Ok(Some(EntityTags::OneOf(comparable.filter_map(|(_, opaque)| EntityTag::new(opaque)).collect())))
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Any,
    /// For each tag, whether it is weak, and the text between its quotes.
    List(Vec<(bool, String)>),
}

/// `*`, or entity tags separated by commas; elements of the list may be empty (RFC 9110, sections 5.6.1 and 8.8.3).
fn parse(field: &[u8]) -> Option<Parsed> {
    let mut rest = field.trim_ascii();
    if rest == b"*" {
        return Some(Parsed::Any);
    }
    let mut tags = Vec::new();
    loop {
        while let [b',' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(Parsed::List(tags));
        }
        let (weak, quoted) = match rest.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = opaque.iter().position(|byte| *byte == b'"')?;
        if opaque[..end].iter().any(|byte| matches!(byte, 0..=0x20 | 0x7f)) {
            return None;
        }
        tags.push((weak, String::from_utf8_lossy(&opaque[..end]).into_owned()));
        rest = opaque[end + 1..].trim_ascii_start();
        if !matches!(rest, [] | [b',', ..]) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(field: &str) -> Option<Vec<(bool, String)>> {
        match parse(field.as_bytes())? {
            Parsed::Any => panic!("{field} is not any"),
            Parsed::List(tags) => Some(tags),
        }
    }

    #[test]
    fn entity_tags_are_read_as_rfc_9110_says() {
        let strong = |tag: &str| (false, tag.to_owned());
        assert_eq!(tags(r#""a""#), Some(vec![strong("a")]));
        assert_eq!(
            tags(r#" , "a" ,W/"b",, "", "c,d" "#),
            Some(vec![strong("a"), (true, "b".to_owned()), strong(""), strong("c,d")])
        );
        assert_eq!(parse(b" * "), Some(Parsed::Any));
    }

    #[test]
    fn malformed_entity_tags_are_refused() {
        for field in [
            "",
            ",",
            "a",
            "\"a",
            "a\"",
            "\"a\" \"b\"",
            "\"a\"b",
            "w/\"a\"",
            "W/ \"a\"",
            "*, \"a\"",
            "\"a b\"",
            "**",
        ] {
            assert_eq!(parse(field.as_bytes()), None, "{field}");
        }
    }
}
