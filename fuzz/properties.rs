//! What holds for every input of the pure functions, whatever its bytes. libFuzzer looks for one for which it does not; those that
//! it found worth keeping are in fuzz/corpus, and `make test` goes through them.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use crate::context::{Context, MAX_BYTES, MAX_ORGANIZATIONS};
use crate::email::Email;
use crate::link::compose;
use crate::token::{Token, id_after};

/// Text is all that PostgreSQL lets through.
fn text(data: &[u8]) -> Option<&str> {
    str::from_utf8(data)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// What goes into a DETAIL.
fn is_sentence(why: impl Display) {
    let why = why.to_string();
    assert!(why.ends_with('.'), "{why}");
    assert!(!why.chars().any(char::is_control), "{why:?}");
}

pub fn address(data: &[u8]) {
    let Some(typed) = text(data) else { return };
    let same = [
        typed.to_ascii_uppercase(),
        typed.to_ascii_lowercase(),
        format!(" {typed}\n"),
    ];
    let email = match Email::parse(typed) {
        Ok(email) => email,
        Err(why) => {
            is_sentence(why);
            assert!(same.iter().all(|same| Email::parse(same).is_err()));
            return;
        }
    };
    assert!(
        same.iter()
            .all(|same| Email::parse(same) == Ok(email.clone()))
    );
    assert_eq!(Email::parse(email.as_str()), Ok(email.clone()));

    let (local, domain) = email
        .as_str()
        .rsplit_once('@')
        .expect("an address has an @");
    let (typed_local, _) = typed
        .trim()
        .rsplit_once('@')
        .expect("so has what was typed");
    assert_eq!(local, typed_local.to_ascii_lowercase());
    assert_eq!(domain, email.domain());
    assert!((1..=64).contains(&local.len()) && email.as_str().len() <= 254);
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '"';
    assert!(email.as_str().chars().all(is_plain));
    let is_domains = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    assert!(domain.bytes().all(is_domains));
}

pub fn token(data: &[u8]) {
    drawn_token(data);
    let Some(text) = text(data) else { return };
    let shaped = text.len() == 32 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let token = Token::parse(text);
    assert_eq!(token.is_some(), shaped);
    let Some(token) = token else { return };
    assert_eq!(token.as_str(), text);
    assert_eq!(token.hash().as_bytes(), Sha256::digest(text).as_slice());
    assert!(!format!("{token:?}{:?}", token.hash()).contains(text));
    let id = token.id(&token.hash());
    assert_eq!(
        (id.get_version_num(), id.get_variant()),
        (7, uuid::Variant::RFC4122)
    );
}

/// One drawn at a time that the first bytes say, from the others.
fn drawn_token(data: &[u8]) {
    let Some((millis, random)) = data.split_first_chunk() else {
        return;
    };
    let millis = u64::from_be_bytes(*millis) >> 16;
    let mut left = random.iter().copied();
    let drawn = Token::draw(millis, |bytes| {
        bytes.iter_mut().try_for_each(|byte| {
            *byte = left.next().ok_or(())?;
            Ok::<_, ()>(())
        })
    });
    let Ok(token) = drawn else { return };
    assert_eq!(Token::parse(token.as_str()), Some(token.clone()));
    let id = token.id(&token.hash());
    assert_eq!(id.as_u128() >> 80, u128::from(millis));
    assert!(id < id_after(millis) && (millis == 0 || id_after(millis - 1) < id));
}

pub fn context(data: &[u8]) {
    let Some(json) = text(data) else { return };
    let context = match Context::parse(json) {
        Ok(context) => context,
        Err(why) => return is_sentence(why),
    };
    assert!(json.len() <= MAX_BYTES);
    let organizations = context.organization_ids();
    assert!(organizations.len() <= MAX_ORGANIZATIONS);
    assert!(is_set(organizations));
    let roles = context.organization_role_ids();
    assert!(roles.keys().all(|id| organizations.contains(id)));
    assert!(roles.values().all(|roles| is_set(roles)));
    let event = context.interaction_event().map(|event| event.as_str());

    let mut same = json!({ "jitOrganizationIds": organizations, "organizationRoleIds": roles });
    if let Some(event) = event {
        same["interactionEvent"] = json!(event);
    }
    // Escapes may have been shorter than what they stand for.
    let same = same.to_string();
    assert!(same.len() > MAX_BYTES || Context::parse(&same) == Ok(context.clone()));

    // Where an ordinary reader can read it, it reads the same.
    if let Ok(Value::Object(keys)) = serde_json::from_str(json) {
        let ids = keys.get("jitOrganizationIds").cloned().unwrap_or(json!([]));
        let mut ids: Vec<String> = serde_json::from_value(ids).expect("an array of strings");
        ids.sort();
        ids.dedup();
        assert_eq!(ids, organizations);
        assert_eq!(keys.get("interactionEvent").and_then(Value::as_str), event);
        let named = keys
            .get("organizationRoleIds")
            .cloned()
            .unwrap_or(json!({}));
        let named: BTreeMap<String, Vec<String>> = serde_json::from_value(named).expect("arrays");
        assert!(named.keys().eq(roles.keys()));
    }
}

/// In order, each once, and none empty.
fn is_set(ids: &[String]) -> bool {
    ids.is_sorted_by(|one, next| one < next) && ids.iter().all(|id| !id.is_empty())
}

/// The arguments of `compose_magic_link`, between bytes that no text has.
pub fn link(data: &[u8]) {
    let arguments: Option<Vec<&str>> = data.split(|byte| *byte == 0xFF).map(text).collect();
    let Some(&[base, token, email, params, token_param, email_param]) = arguments.as_deref() else {
        return;
    };
    let link = match compose(base, token, email, params, token_param, email_param) {
        Ok(link) => link,
        Err(why) => return is_sentence(why),
    };
    let is_visible = |b: u8| b.is_ascii_graphic();
    assert!(link.bytes().all(is_visible), "{link}");
    // Of a file: URL whose path begins like a Windows drive the URL Standard drops the host, but only when it is read back.
    let base = Url::parse(base).and_then(|base| Url::parse(base.as_str()));
    let link = Url::parse(&link);
    let (base, link) = (
        base.expect("the base was read"),
        link.expect("a link is a URL"),
    );
    let without_query = |url: &Url| {
        let mut url = url.clone();
        url.set_query(None);
        url
    };
    assert_eq!(without_query(&base), without_query(&link));
    let pairs: Vec<(String, String)> = link.query_pairs().into_owned().collect();
    let before: Vec<(String, String)> = base.query_pairs().into_owned().collect();
    assert!(pairs.starts_with(&before));
    let ours = [(token_param, token), (email_param, email)];
    let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert!(pairs.ends_with(&ours));
    for (name, _) in &ours {
        assert_eq!(pairs.iter().filter(|(other, _)| other == name).count(), 1);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// Each input that was kept holds what it held then.
    fn replay(target: &str, property: fn(&[u8])) {
        let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let files = fs::read_dir(&folder).unwrap();
        let inputs: Vec<_> = files
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .collect();
        assert!(inputs.len() > 10, "{folder}");
        for input in inputs {
            property(&input);
        }
    }

    #[test]
    fn addresses_that_were_kept() {
        replay("address", super::address);
    }

    #[test]
    fn tokens_that_were_kept() {
        replay("token", super::token);
    }

    #[test]
    fn contexts_that_were_kept() {
        replay("context", super::context);
    }

    #[test]
    fn links_that_were_kept() {
        replay("link", super::link);
    }
}
