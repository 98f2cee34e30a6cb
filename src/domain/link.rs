//! The link that goes into the mail.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use url::Url;

/// What the arguments may hold together. Servers and mailers stop far earlier, and the crate `url`
/// panics at 4 GB.
const MAX_BYTES: usize = 64 * 1024;

/// How much of a key that a caller sent goes into a message.
const MAX_SHOWN_CHARS: usize = 64;

/// Adds to `base_url` the parameters of `params_json` (a JSON object, in its order), the token and
/// the address, all form-urlencoded. The query and the fragment that `base_url` has stay. A query
/// may repeat a name, so `params_json` may too, but not the name of the token or of the address.
///
/// # Errors
///
/// When `base_url` cannot take a query, a parameter is not text, a number or a boolean, or one of
/// them would shadow the token or the address.
pub fn compose(
    base_url: &str,
    token: &str,
    email: &str,
    params_json: &str,
    token_param: &str,
    email_param: &str,
) -> Result<String, InvalidLink> {
    let arguments = [
        base_url,
        token,
        email,
        params_json,
        token_param,
        email_param,
    ];
    if arguments.iter().map(|text| text.len()).sum::<usize>() > MAX_BYTES {
        return Err(InvalidLink::TooLong);
    }
    let names = Names::new(token_param, email_param)?;
    let mut url = parse_base(base_url)?;
    for (name, _) in url.query_pairs() {
        if let Some(argument) = names.argument_called(&name) {
            return Err(InvalidLink::ClashWithBase(argument));
        }
    }
    let params = parse_params(params_json, &names)?;
    url.query_pairs_mut()
        .extend_pairs(params)
        .append_pair(token_param, token)
        .append_pair(email_param, email);
    Ok(url.into())
}

/// The two names that nothing else in the link may have.
struct Names<'a> {
    token: &'a str,
    email: &'a str,
}

impl<'a> Names<'a> {
    fn new(token: &'a str, email: &'a str) -> Result<Self, InvalidLink> {
        if token.is_empty() {
            return Err(InvalidLink::EmptyName(TOKEN_PARAM));
        }
        if email.is_empty() {
            return Err(InvalidLink::EmptyName(EMAIL_PARAM));
        }
        if token == email {
            return Err(InvalidLink::SameName);
        }
        Ok(Self { token, email })
    }

    /// The argument that claims this name.
    fn argument_called(&self, name: &str) -> Option<&'static str> {
        match name {
            _ if name == self.token => Some(TOKEN_PARAM),
            _ if name == self.email => Some(EMAIL_PARAM),
            _ => None,
        }
    }
}

const TOKEN_PARAM: &str = "token_param";
const EMAIL_PARAM: &str = "email_param";

fn parse_base(base_url: &str) -> Result<Url, InvalidLink> {
    match Url::parse(base_url) {
        Ok(url) if !url.cannot_be_a_base() => Ok(url),
        _ => Err(InvalidLink::BaseUrl),
    }
}

fn parse_params(json: &str, names: &Names) -> Result<Vec<(String, String)>, InvalidLink> {
    let Entries(entries) = serde_json::from_str(json).map_err(|_| InvalidLink::NotAnObject)?;
    entries
        .into_iter()
        .map(|(key, value)| {
            if key.is_empty() {
                return Err(InvalidLink::EmptyKey);
            }
            if let Some(argument) = names.argument_called(&key) {
                return Err(InvalidLink::ClashWithParams(argument));
            }
            match text_of(value) {
                Some(text) => Ok((key, text)),
                None => Err(InvalidLink::NotText(shown(&key))),
            }
        })
        .collect()
}

/// The text that stands for a value in a query. A number stays as it was written.
fn text_of(value: &RawValue) -> Option<String> {
    let json = value.get();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(json.to_owned()),
        _ => None,
    }
}

/// An object in its own order. Its values stay unread, so neither depth nor great numbers matter.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// A key for a message: quoted, with line breaks and the like escaped, and not too long.
fn shown(key: &str) -> String {
    match key.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", key.get(..end).unwrap_or_default()),
        None => format!("{key:?}"),
    }
}

/// Why a link was refused. The text is a sentence for a DETAIL; of what the caller sent, it repeats
/// no more than a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidLink {
    /// The arguments are longer than any link may be.
    TooLong,
    /// The argument named here is empty.
    EmptyName(&'static str),
    /// The token and the address would have the same name.
    SameName,
    /// Not an absolute URL that has a path.
    BaseUrl,
    /// `base_url` already has the parameter that the argument named here gives.
    ClashWithBase(&'static str),
    /// `params` is not a JSON object.
    NotAnObject,
    /// `params` has a key without a name.
    EmptyKey,
    /// `params` has the parameter that the argument named here gives.
    ClashWithParams(&'static str),
    /// The key of `params` quoted here holds null, an array or an object.
    NotText(String),
}

impl fmt::Display for InvalidLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(
                f,
                "The arguments are longer than {MAX_BYTES} bytes together."
            ),
            Self::EmptyName(argument) => write!(f, r#""{argument}" must not be empty."#),
            Self::SameName => write!(f, r#""{TOKEN_PARAM}" and "{EMAIL_PARAM}" must differ."#),
            Self::BaseUrl => f.write_str(
                r#""base_url" must be an absolute URL, such as "https://example.com/"."#,
            ),
            Self::ClashWithBase(argument) => write!(
                f,
                r#""base_url" already has the parameter that "{argument}" names."#
            ),
            Self::NotAnObject => f.write_str(r#""params" must be a JSON object."#),
            Self::EmptyKey => f.write_str(r#""params" must not have an empty key."#),
            Self::ClashWithParams(argument) => {
                write!(
                    f,
                    r#""params" must not have the key that "{argument}" names."#
                )
            }
            Self::NotText(key) => write!(
                f,
                r#"The key {key} of "params" must hold a string, a number or a boolean."#
            ),
        }
    }
}

impl std::error::Error for InvalidLink {}

#[cfg(test)]
mod tests {
    use super::InvalidLink as Bad;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    const BASE: &str = "https://x.y/";

    fn with_params(params: &str) -> Result<String, Bad> {
        compose(BASE, "T", "a@b", params, "token", "email")
    }

    fn with_base(base_url: &str) -> Result<String, Bad> {
        compose(base_url, "T", "a@b", "{}", "token", "email")
    }

    fn with_names(token_param: &str, email_param: &str) -> Result<String, Bad> {
        compose(BASE, "T", "a@b", "{}", token_param, email_param)
    }

    #[test]
    fn params_then_token_then_address_follow_the_query() {
        let (base_url, params) = (
            "https://x.y?x=1%2F#here",
            r#"{"z": "a b&c=é+%", "a": true}"#,
        );
        let link = "https://x.y/?x=1%2F&z=a+b%26c%3D%C3%A9%2B%25&a=true\
                    &t=T%2F%2B&e=a%2Bb%40%C3%BC.de#here";
        let composed = compose(base_url, "T/+", "a+b@ü.de", params, "t", "e");
        assert_eq!(composed.as_deref(), Ok(link));
    }

    #[test]
    fn a_base_is_any_absolute_hierarchical_url() {
        for (base_url, link) in [
            ("http://x:3000", "http://x:3000/?token=T&email=a%40b"),
            ("app://in?", "app://in?token=T&email=a%40b"),
            ("app:/in#", "app:/in?token=T&email=a%40b#"),
            ("http://x/#/in?a=1", "http://x/?token=T&email=a%40b#/in?a=1"),
        ] {
            assert_eq!(with_base(base_url).as_deref(), Ok(link));
        }
        for base_url in [
            "",
            "/in",
            "//x.y",
            "x.y",
            "mailto:a@b",
            "data:,x",
            "https://",
        ] {
            assert_eq!(with_base(base_url), Err(Bad::BaseUrl), "{base_url}");
        }
    }

    #[test]
    fn numbers_stay_as_written() {
        for number in [
            "1e400",
            "-1E+999999",
            "0.10",
            "-0",
            "12345678901234567890.0",
        ] {
            let link = with_params(&format!(r#"{{"n": {number} }}"#)).unwrap();
            let link = Url::parse(&link).unwrap();
            assert_eq!(link.query_pairs().next().unwrap().1, number);
        }
    }

    #[test]
    fn other_values_are_refused_by_key() {
        let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
        for value in ["null", "[]", "{}", "[1e400]", &format!("{open}{close}")] {
            let refused = with_params(&format!(r#"{{"a": 1, "k\n": {value}}}"#));
            assert_eq!(refused, Err(Bad::NotText(r#""k\n""#.into())), "{value:.80}");
        }
        for params in ["", "null", "1e400", r#""x""#, "[]", "{} 2", &open] {
            assert_eq!(with_params(params), Err(Bad::NotAnObject), "{params:.80}");
        }
    }

    #[test]
    fn nothing_shadows_the_token_or_the_address() {
        let (token, email) = (TOKEN_PARAM, EMAIL_PARAM);
        for (refused, why) in [
            (with_names("", "e"), Bad::EmptyName(token)),
            (with_names("t", ""), Bad::EmptyName(email)),
            (with_names("e", "e"), Bad::SameName),
            (with_base("app:/?%74oken"), Bad::ClashWithBase(token)),
            (with_base("app:/?a=1&email="), Bad::ClashWithBase(email)),
            (with_params(r#"{"token": 1}"#), Bad::ClashWithParams(token)),
            (with_params(r#"{"email": []}"#), Bad::ClashWithParams(email)),
            (with_params(r#"{"": 1}"#), Bad::EmptyKey),
        ] {
            assert_eq!(refused, Err(why));
        }
        assert!(with_params(r#"{"Token": 1}"#).is_ok());
    }

    #[test]
    fn a_link_is_bounded_and_so_is_a_message() {
        assert_eq!(with_base(&"ü".repeat(1 << 20)), Err(Bad::TooLong));
        let params = Value::from_iter([("é\n".repeat(20_000), Value::Null)]).to_string();
        let text = with_params(&params).unwrap_err().to_string();
        assert!(text.len() < 300 && !text.contains('\n'), "{text}");
    }

    /// Pairs for a query as they go into a JSON object.
    fn object(pairs: &[(String, Value)]) -> String {
        let quoted = |key: &String| Value::from(key.as_str());
        let entries: Vec<_> = pairs
            .iter()
            .map(|(key, value)| format!("{}: {value}", quoted(key)))
            .collect();
        format!("{{{}}}", entries.join(", "))
    }

    fn text(value: Value) -> String {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    }

    proptest! {
        #[test]
        fn a_link_reads_back(
            origin in "(https?|app)://[a-z]{1,5}(:8080)?(/[a-z%é ]{0,5}){0,2}",
            rest in "(\\?\\PC{0,9})?(#\\PC{0,9})?",
            (token, email) in ("\\PC{0,9}", any::<String>()),
            texts in vec(("\\PC{1,9}", any::<String>()), 0..5),
            (number, boolean) in (any::<i64>(), any::<bool>()),
        ) {
            let base_url = origin + &rest;
            let mut params: Vec<(String, Value)> = vec![
                ("number".into(), number.into()),
                ("boolean".into(), boolean.into()),
            ];
            params.extend(texts.into_iter().map(|(key, value)| (key, value.into())));
            let link = compose(&base_url, &token, &email, &object(&params), "-t-", "-e-").unwrap();
            let (base, link) = (Url::parse(&base_url).unwrap(), Url::parse(&link).unwrap());

            let mut pairs: Vec<_> = base.query_pairs().into_owned().collect();
            pairs.extend(params.into_iter().map(|(key, value)| (key, text(value))));
            pairs.extend([("-t-".into(), token), ("-e-".into(), email)]);
            prop_assert_eq!(link.query_pairs().into_owned().collect::<Vec<_>>(), pairs);
            prop_assert_eq!(link.fragment(), base.fragment());
            prop_assert_eq!(link.path(), base.path());
        }

        #[test]
        fn any_text_is_an_answer_that_keeps_secrets(
            texts in vec(any::<String>(), 3),
            value in r#"[\[\]{}",:a1e\\ -]{0,20}"#,
            base in "[a-z:/?#@.%\\[\\]]{0,20}",
        ) {
            let _ = compose(&texts[0], "T", "a@b", &texts[1], &texts[2], "email");
            let params = format!(r#"{{"k": {value}}}"#);
            if let Err(why) = compose(&base, "SECRET", "ADDRESS", &params, "token", "email") {
                let text = why.to_string();
                prop_assert!(!text.contains("SECRET") && !text.contains("ADDRESS"));
                prop_assert!(text.ends_with('.') && !text.contains('\n'));
            }
        }
    }
}
