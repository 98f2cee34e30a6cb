//! The link that goes into the mail.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use url::Url;

/// What the arguments may hold together. Servers and mailers stop far earlier, and the crate `url` panics at 4 GB.
const MAX_BYTES: usize = 64 * 1024;

/// How much of a key that a caller sent goes into a message.
const MAX_SHOWN_CHARS: usize = 64;

/// Adds to `base_url` the parameters of `params_json` (a JSON object, in its order), then the token, then the
/// address, all form-urlencoded. The query and the fragment that `base_url` has stay. A name may come both from
/// there and from `params_json`, since a query may repeat a name, but never that of the token or of the address.
///
/// # Errors
///
/// When `base_url` cannot take a query, a parameter is not text, a number or a boolean, or two would clash.
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

/// The text that stands for a value in a query. A number stays as it was written: no rounding, no range.
fn text_of(value: &RawValue) -> Option<String> {
    let json = value.get();
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b't' | b'f' | b'-' | b'0'..=b'9' => Some(json.to_owned()),
        _ => None,
    }
}

/// An object in its own order. Its values stay unread, so that neither depth nor great numbers matter.
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

/// Why a link was refused. The text is a sentence for a DETAIL; of what the caller sent it repeats a key at most.
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
            Self::TooLong => write!(f, "A link's arguments must not exceed {MAX_BYTES} bytes in all."),
            Self::EmptyName(argument) => write!(f, r#""{argument}" must not be empty."#),
            Self::SameName => write!(f, r#""{TOKEN_PARAM}" and "{EMAIL_PARAM}" must differ."#),
            Self::BaseUrl => f.write_str(
                r#""base_url" must be an absolute URL with a host or a path, such as https://example.com/."#,
            ),
            Self::ClashWithBase(argument) => write!(
                f,
                r#""base_url" already has the parameter that "{argument}" names."#
            ),
            Self::NotAnObject => f.write_str(r#""params" must be a JSON object."#),
            Self::EmptyKey => f.write_str(r#""params" must not have an empty key."#),
            Self::ClashWithParams(argument) => {
                write!(f, r#""params" must not have the key that "{argument}" names."#)
            }
            Self::NotText(key) => write!(
                f,
                r#"The key {key} of "params" must be a string, a number or a boolean."#
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

    const BASE: &str = "https://example.com/in";

    fn with_params(params: &str) -> Result<String, Bad> {
        compose(BASE, "T", "a@b", params, TOKEN, EMAIL)
    }

    fn with_base(base_url: &str) -> Result<String, Bad> {
        compose(base_url, "T", "a@b", "{}", TOKEN, EMAIL)
    }

    const TOKEN: &str = "token";
    const EMAIL: &str = "email";

    #[test]
    fn params_then_token_then_address_follow_the_query() {
        let params = r#"{"z": "a b&c=é+%", "a": true, "n": false}"#;
        assert_eq!(
            compose(
                "https://example.com?x=1%2F#here",
                "T/+",
                "a+b@ü.de",
                params,
                "t",
                "e"
            ),
            Ok(
                "https://example.com/?x=1%2F&z=a+b%26c%3D%C3%A9%2B%25&a=true&n=false\
                &t=T%2F%2B&e=a%2Bb%40%C3%BC.de#here"
                    .into()
            )
        );
    }

    #[test]
    fn a_base_may_be_any_hierarchical_url() {
        for (base_url, link) in [
            (
                "http://localhost:3000",
                "http://localhost:3000/?token=T&email=a%40b",
            ),
            ("app://in?", "app://in?token=T&email=a%40b"),
            ("app:/in#", "app:/in?token=T&email=a%40b#"),
            (
                "https://x.y/#/in?a=1",
                "https://x.y/?token=T&email=a%40b#/in?a=1",
            ),
        ] {
            assert_eq!(with_base(base_url).as_deref(), Ok(link));
        }
        for base_url in [
            "",
            "/in",
            "//x.y/in",
            "x.y",
            "mailto:a@b",
            "data:,x",
            "https://",
            "http://[::",
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
            "12345678901234567890123456789.0",
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
        for params in [
            "",
            "null",
            "1e400",
            "\"x\"",
            "[]",
            "{\"a\":1} 2",
            open.as_str(),
        ] {
            assert_eq!(with_params(params), Err(Bad::NotAnObject), "{params:.80}");
        }
    }

    #[test]
    fn nothing_shadows_the_token_or_the_address() {
        let named = |token, email| compose(BASE, "T", "a@b", "{}", token, email);
        assert_eq!(named("", EMAIL), Err(Bad::EmptyName(TOKEN_PARAM)));
        assert_eq!(named(TOKEN, ""), Err(Bad::EmptyName(EMAIL_PARAM)));
        assert_eq!(named("same", "same"), Err(Bad::SameName));
        assert_eq!(
            with_base("https://x.y?%74oken"),
            Err(Bad::ClashWithBase(TOKEN_PARAM))
        );
        assert_eq!(
            with_base("https://x.y?a=1&email="),
            Err(Bad::ClashWithBase(EMAIL_PARAM))
        );
        assert_eq!(
            with_params(r#"{"token": 1}"#),
            Err(Bad::ClashWithParams(TOKEN_PARAM))
        );
        assert_eq!(
            with_params(r#"{"\u0065mail": []}"#),
            Err(Bad::ClashWithParams(EMAIL_PARAM))
        );
        assert_eq!(with_params(r#"{"": 1}"#), Err(Bad::EmptyKey));
        assert!(with_params(r#"{"Token": 1}"#).is_ok());
    }

    #[test]
    fn a_link_is_bounded_and_so_is_a_message() {
        assert_eq!(with_base(&"ü".repeat(1 << 20)), Err(Bad::TooLong));
        let key = "é\n".repeat(20_000);
        let text = with_params(&Value::from_iter([(key, Value::Null)]).to_string())
            .unwrap_err()
            .to_string();
        assert!(text.len() < 300 && !text.contains('\n'), "{text}");
    }

    proptest! {
        #[test]
        fn a_link_reads_back(
            base in "(https?|app)://[a-z]{1,5}(:8080)?(/[a-z%é ]{0,5}){0,2}(\\?\\PC{0,9})?(#\\PC{0,9})?",
            (token, email) in ("\\PC{0,9}", any::<String>()),
            texts in vec(("\\PC{1,9}", any::<String>()), 0..5),
            (numbers, boolean) in (vec(any::<i64>(), 0..3), any::<bool>()),
        ) {
            let mut want: Vec<(String, Value)> = texts.into_iter().map(|(k, v)| (k, v.into())).collect();
            want.extend(numbers.into_iter().map(|n| ("number".into(), n.into())));
            want.push(("boolean".into(), boolean.into()));
            let json: Vec<_> = want.iter().map(|(k, v)| format!("{}: {v}", Value::from(k.as_str()))).collect();

            let link = compose(&base, &token, &email, &format!("{{{}}}", json.join(", ")), "-t-", "-e-");
            let (Ok(base), Ok(link)) = (Url::parse(&base), link) else { return Ok(()) };
            let link = Url::parse(&link).unwrap();

            let text = |v: Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let mut pairs: Vec<_> = base.query_pairs().into_owned().collect();
            pairs.extend(want.into_iter().map(|(k, v)| (k, text(v))));
            pairs.extend([("-t-".into(), token), ("-e-".into(), email)]);
            prop_assert_eq!(link.query_pairs().into_owned().collect::<Vec<_>>(), pairs);
            prop_assert_eq!(link.fragment(), base.fragment());
            prop_assert_eq!(link.path(), base.path());
        }

        #[test]
        fn any_text_is_an_answer_that_keeps_secrets(
            texts in vec(any::<String>(), 3), value in r#"[\[\]{}",:a1e\\ -]{0,20}"#, base in "[a-z:/?#@.%\\[\\]]{0,20}",
        ) {
            let _ = compose(&texts[0], "T", "a@b", &texts[1], &texts[2], EMAIL);
            let params = format!(r#"{{"k": {value}}}"#);
            if let Err(why) = compose(&base, "SECRET", "ADDRESS", &params, TOKEN, EMAIL) {
                let text = why.to_string();
                prop_assert!(!text.contains("SECRET") && !text.contains("ADDRESS"));
                prop_assert!(text.ends_with('.') && !text.contains('\n'));
            }
        }
    }
}
