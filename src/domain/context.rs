//! What the three keys of a token's context mean.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

/// How long the text form of a context may be.
pub const MAX_BYTES: usize = 16 * 1024;

/// How many organizations a token may lead to.
pub const MAX_ORGANIZATIONS: usize = 100;

/// How much of a name that a caller sent goes into a message.
const MAX_SHOWN_CHARS: usize = 64;

const MAX_EVENT_BYTES: usize = 64;

/// The part of a context that we act on. The whole is kept as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    organization_ids: Vec<String>,
    organization_role_ids: BTreeMap<String, Vec<String>>,
    interaction_event: Option<InteractionEvent>,
}

impl Context {
    /// Reads the text form of a jsonb value. Keys that are not ours may hold anything.
    ///
    /// # Errors
    ///
    /// When it is too long, not an object, or one of our keys is malformed.
    pub fn parse(json: &str) -> Result<Self, InvalidContext> {
        if json.len() > MAX_BYTES {
            return Err(InvalidContext::TooLong);
        }
        // Raw values are skipped, not read: neither depth nor great numbers matter in them.
        let keys: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|_| InvalidContext::NotAnObject)?;
        let value = |key| keys.get(key).map(|raw| raw.get());
        let organizations = value("jitOrganizationIds").map(organization_ids);
        let roles = value("organizationRoleIds").map(organization_role_ids);
        let event = value("interactionEvent").map(interaction_event);
        let context = Self {
            organization_ids: organizations.transpose()?.unwrap_or_default(),
            organization_role_ids: roles.transpose()?.unwrap_or_default(),
            interaction_event: event.transpose()?,
        };
        context.check_roles_have_an_organization()?;
        Ok(context)
    }

    /// The organizations to join, sorted by bytes, each once.
    #[must_use]
    pub fn organization_ids(&self) -> &[String] {
        &self.organization_ids
    }

    /// The roles to grant in place of an organization's defaults, sorted by bytes, each once.
    #[must_use]
    pub fn organization_role_ids(&self) -> &BTreeMap<String, Vec<String>> {
        &self.organization_role_ids
    }

    /// The event that a caller has to name to redeem the token.
    #[must_use]
    pub fn interaction_event(&self) -> Option<&InteractionEvent> {
        self.interaction_event.as_ref()
    }

    fn check_roles_have_an_organization(&self) -> Result<(), InvalidContext> {
        let unknown = |id: &&String| self.organization_ids.binary_search(id).is_err();
        match self.organization_role_ids.keys().find(unknown) {
            Some(id) => Err(InvalidContext::UnlistedOrganization(shown(id))),
            None => Ok(()),
        }
    }
}

fn organization_ids(json: &str) -> Result<Vec<String>, InvalidContext> {
    let ids = serde_json::from_str(json).ok().and_then(sorted_ids);
    let ids = ids.ok_or(InvalidContext::OrganizationIds)?;
    if ids.len() > MAX_ORGANIZATIONS {
        return Err(InvalidContext::TooManyOrganizations);
    }
    Ok(ids)
}

fn organization_role_ids(json: &str) -> Result<BTreeMap<String, Vec<String>>, InvalidContext> {
    serde_json::from_str::<BTreeMap<String, Vec<String>>>(json)
        .map_err(|_| InvalidContext::OrganizationRoleIds)?
        .into_iter()
        .map(|(id, roles)| Some((id, sorted_ids(roles)?)))
        .collect::<Option<_>>()
        .ok_or(InvalidContext::OrganizationRoleIds)
}

fn interaction_event(json: &str) -> Result<InteractionEvent, InvalidContext> {
    serde_json::from_str::<String>(json)
        .ok()
        .and_then(|word| InteractionEvent::parse(&word).ok())
        .ok_or(InvalidContext::InteractionEvent)
}

/// Sorted by bytes, each once; nothing when one of them is empty.
fn sorted_ids(mut ids: Vec<String>) -> Option<Vec<String>> {
    if ids.iter().any(String::is_empty) {
        return None;
    }
    ids.sort_unstable();
    ids.dedup();
    Some(ids)
}

/// A name for a message: quoted, with line breaks and the like escaped, and not too long.
#[must_use]
pub fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", name.get(..end).unwrap_or_default()),
        None => format!("{name:?}"),
    }
}

/// The word for what the user is about to do, such as `SignIn` or `Register`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InteractionEvent(String);

impl InteractionEvent {
    /// Takes a word as it is: case counts.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 64 ASCII letters, digits, `_` or `-`, starting with a letter.
    pub fn parse(word: &str) -> Result<Self, InvalidEvent> {
        let starts_well = word.starts_with(|c: char| c.is_ascii_alphabetic());
        let is_word_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !starts_well || word.len() > MAX_EVENT_BYTES || !word.bytes().all(is_word_byte) {
            return Err(InvalidEvent);
        }
        Ok(Self(word.to_owned()))
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether redeeming may create the user: signing in and resetting a password need one.
    #[must_use]
    pub fn creates_users(&self) -> bool {
        !matches!(self.as_str(), "SignIn" | "ForgotPassword")
    }
}

/// Not a word. The text is a sentence for a DETAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidEvent;

impl fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "An interaction event is {WORD}.")
    }
}

impl std::error::Error for InvalidEvent {}

const WORD: &str = "1 to 64 ASCII letters, digits, \"_\" or \"-\", starting with a letter";

/// Why a context was refused. The text is a sentence for a DETAIL that names the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidContext {
    /// Longer than [`MAX_BYTES`].
    TooLong,
    /// An array or a scalar.
    NotAnObject,
    /// `jitOrganizationIds` has another shape.
    OrganizationIds,
    /// More than [`MAX_ORGANIZATIONS`].
    TooManyOrganizations,
    /// `organizationRoleIds` has another shape.
    OrganizationRoleIds,
    /// `organizationRoleIds` names an organization, quoted here, that the token does not lead to.
    UnlistedOrganization(String),
    /// `interactionEvent` is not a word.
    InteractionEvent,
}

impl fmt::Display for InvalidContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "The context is longer than {MAX_BYTES} bytes."),
            Self::NotAnObject => f.write_str("The context must be a JSON object."),
            Self::OrganizationIds => {
                f.write_str(r#""jitOrganizationIds" must be an array of non-empty strings."#)
            }
            Self::TooManyOrganizations => write!(
                f,
                r#""jitOrganizationIds" must not name more than {MAX_ORGANIZATIONS} organizations."#
            ),
            Self::OrganizationRoleIds => f.write_str(
                r#""organizationRoleIds" must be an object of arrays of non-empty strings."#,
            ),
            Self::UnlistedOrganization(id) => write!(
                f,
                r#""organizationRoleIds" names {id}, which "jitOrganizationIds" does not."#
            ),
            Self::InteractionEvent => write!(f, r#""interactionEvent" must be {WORD}."#),
        }
    }
}

impl std::error::Error for InvalidContext {}

#[cfg(test)]
mod tests {
    use super::InvalidContext as Bad;
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use serde_json::json;
    use std::collections::BTreeSet;

    #[test]
    fn an_empty_context_asks_for_nothing() {
        assert_eq!(Context::parse("{}"), Ok(Context::default()));
    }

    #[test]
    fn the_three_keys_are_read() {
        let context = Context::parse(
            r#"{"jitOrganizationIds": ["b", "a", "b", "é"], "returnTo": "/inbox",
                "organizationRoleIds": {"b": ["y", "x", "y"], "a": []},
                "interactionEvent": "SignIn"}"#,
        )
        .unwrap();
        assert_eq!(context.organization_ids(), ["a", "b", "é"]);
        assert_eq!(context.organization_role_ids()["a"], [""; 0]);
        assert_eq!(context.organization_role_ids()["b"], ["x", "y"]);
        assert_eq!(context.interaction_event().unwrap().as_str(), "SignIn");
    }

    /// What is said of a context that holds this key.
    fn refusal(key: &str, value: &str) -> Option<Bad> {
        Context::parse(&format!(r#"{{"a": 1, "{key}": {value}}}"#)).err()
    }

    fn deep(open: &str, close: &str) -> String {
        open.repeat(8000 / open.len()) + &close.repeat(8000 / open.len())
    }

    #[test]
    fn a_context_is_an_object_of_a_bounded_size() {
        let unclosed = "[".repeat(10_000);
        for json in ["", "null", "[]", r#""{}""#, "1e999999", "{} 1", &unclosed] {
            assert_eq!(Context::parse(json), Err(Bad::NotAnObject), "{json:.80}");
        }
        let padded = |n: usize| Context::parse(&format!("{{{}}}", " ".repeat(n - 2)));
        assert!(padded(MAX_BYTES).is_ok());
        assert_eq!(padded(MAX_BYTES + 1), Err(Bad::TooLong));
    }

    #[test]
    fn organizations_are_an_array_of_names() {
        for value in ["null", "{}", r#""a""#, r#"[["a"]]"#, r#"["a", null]"#] {
            let refused = refusal("jitOrganizationIds", value);
            assert_eq!(refused, Some(Bad::OrganizationIds), "{value}");
        }
        for value in [r#"[""]"#, r#"["a", 1e999999]"#, &deep("[", "]")] {
            let refused = refusal("jitOrganizationIds", value);
            assert_eq!(refused, Some(Bad::OrganizationIds), "{value:.80}");
        }
    }

    #[test]
    fn roles_are_arrays_of_names_below_an_organization() {
        for value in ["null", "[]", r#""a""#, &deep("[", "]")] {
            let refused = refusal("organizationRoleIds", value);
            assert_eq!(refused, Some(Bad::OrganizationRoleIds), "{value:.80}");
        }
        for value in ["null", "1e999999", r#""x""#, r#"[""]"#, &deep("[", "]")] {
            let refused = refusal("organizationRoleIds", &format!(r#"{{"a": {value}}}"#));
            assert_eq!(refused, Some(Bad::OrganizationRoleIds), "{value:.80}");
        }
        let refused = refusal("organizationRoleIds", r#"{"a": []}"#);
        let unlisted = Bad::UnlistedOrganization(r#""a""#.into());
        assert_eq!(refused, Some(unlisted));
    }

    #[test]
    fn the_event_is_a_string_that_holds_a_word() {
        for value in ["null", "1e999999", r#""""#, r#""a b""#, &deep("[", "]")] {
            let refused = refusal("interactionEvent", value);
            assert_eq!(refused, Some(Bad::InteractionEvent), "{value:.80}");
        }
    }

    #[test]
    fn a_hundred_organizations_are_not_too_many() {
        let mut ids: Vec<_> = (0..MAX_ORGANIZATIONS).map(|n| n.to_string()).collect();
        ids.push("0".into());
        assert_eq!(refusal("jitOrganizationIds", &json!(ids).to_string()), None);
        ids.push("more".into());
        let refused = refusal("jitOrganizationIds", &json!(ids).to_string());
        assert_eq!(refused, Some(Bad::TooManyOrganizations));
    }

    #[test]
    fn other_keys_may_hold_anything() {
        let (arrays, objects) = (deep("[", "]"), deep(r#"{"":["#, "]}"));
        for value in ["1e999999", "-0.10", "[[1e400]]", &arrays, &objects] {
            assert_eq!(refusal("other", value), None, "{value:.80}");
        }
    }

    #[test]
    fn the_last_of_a_repeated_key_counts_as_in_jsonb() {
        let json = r#"{"interactionEvent": 1, "interactionEvent": "Register"}"#;
        assert!(Context::parse(json).is_ok());
    }

    #[test]
    fn what_a_message_repeats_is_short_and_on_one_line() {
        let json = json!({"organizationRoleIds": {"é\n\"".repeat(1000): []}}).to_string();
        let text = Context::parse(&json).unwrap_err().to_string();
        assert!(text.contains(r#"é\n\""#) && !text.contains('\n'), "{text}");
        assert!(text.len() < 500, "{text}");
    }

    #[test]
    fn an_event_is_a_word() {
        let longest = "a".repeat(MAX_EVENT_BYTES);
        for word in ["a", "SignIn", "Register", "step-up_2", &longest] {
            assert_eq!(InteractionEvent::parse(word).unwrap().as_str(), word);
        }
        let too_long = longest.clone() + "a";
        for word in ["", "1a", "_a", "-a", "a b", "a\n", "é", "aé", &too_long] {
            assert_eq!(InteractionEvent::parse(word), Err(InvalidEvent), "{word:?}");
        }
    }

    #[test]
    fn two_events_never_create_users() {
        let creates = |word| InteractionEvent::parse(word).unwrap().creates_users();
        assert!(!creates("SignIn") && !creates("ForgotPassword"));
        assert!(creates("Register") && creates("signin"));
    }

    fn sorted(ids: &[String]) -> Vec<String> {
        BTreeSet::from_iter(ids.to_vec()).into_iter().collect()
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer(json in any::<String>(), value in r#"[\[\]{}",:a1e\\ -]{0,20}"#) {
            let _ = Context::parse(&json);
            for key in ["jitOrganizationIds", "organizationRoleIds", "interactionEvent"] {
                if let Some(why) = refusal(key, &value) {
                    let text = why.to_string();
                    prop_assert!(text.ends_with('.') && !text.contains('\n'));
                }
            }
        }

        #[test]
        fn what_goes_in_comes_out(
            roles in btree_map(".{1,8}", vec(".{1,8}", 0..4), 1..8),
            plain in vec(".{1,8}", 0..8),
            again in any::<Index>(),
            word in select(vec![None, Some("SignIn"), Some("Register")]),
        ) {
            let mut listed: Vec<_> = roles.keys().cloned().chain(plain).rev().collect();
            listed.push(listed[again.index(listed.len())].clone());
            let mut json = json!({"jitOrganizationIds": listed, "organizationRoleIds": roles});
            if let Some(word) = word {
                json["interactionEvent"] = word.into();
            }
            let context = Context::parse(&json.to_string()).unwrap();

            prop_assert_eq!(context.organization_ids(), sorted(&listed));
            let roles = roles.into_iter().map(|(id, ids)| (id, sorted(&ids))).collect();
            prop_assert_eq!(context.organization_role_ids(), &roles);
            prop_assert_eq!(context.interaction_event().map(InteractionEvent::as_str), word);
        }
    }
}
