//! The one normal form of an e-mail address.

use std::fmt;

use email_address::{EmailAddress, Options};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// What SMTP can carry (RFC 5321, errata 1690), after normalising.
const MAX_BYTES: usize = 254;

/// The same for the part before the `@` (RFC 5321, 4.5.3.1.1).
const MAX_LOCAL_BYTES: usize = 64;

/// More than this is refused unread, since the cost of punycode grows faster than its input. A
/// character typed takes at most four bytes and leaves at least one, unless it is padding that IDNA
/// drops or an accent that it joins to a letter.
const MAX_TYPED_BYTES: usize = 4 * MAX_BYTES;

/// No minimum of sub-domains: `ada@localhost` is an address on many a private network.
const GRAMMAR: Options = Options {
    minimum_sub_domains: 0,
    allow_domain_literal: false,
    allow_display_text: false,
};

/// An e-mail address in normal form, to be compared as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    /// Brings an address into normal form: no surrounding blanks, the domain as lower-case ASCII
    /// (IDNA), ASCII letters before the `@` in lower case. Nothing else changes, so that no two
    /// mailboxes become one.
    ///
    /// # Errors
    ///
    /// When this is not one plain address that a mailer can use as it stands.
    pub fn parse(raw: &str) -> Result<Self, InvalidEmail> {
        let typed = raw.trim();
        if typed.is_empty() {
            return Err(InvalidEmail::Empty);
        }
        if typed.len() > MAX_TYPED_BYTES {
            return Err(InvalidEmail::TooLong);
        }
        let (local, domain) = typed.rsplit_once('@').ok_or(InvalidEmail::NoAt)?;
        check_local_part(local)?;

        let address = format!("{}@{}", local.to_ascii_lowercase(), ascii_domain(domain)?);
        if address.len() > MAX_BYTES {
            return Err(InvalidEmail::TooLong);
        }
        // The domain has passed stricter rules already, so what is wrong here is before the `@`.
        EmailAddress::parse_with_options(&address, GRAMMAR).map_err(|_| InvalidEmail::LocalPart)?;
        Ok(Self(address))
    }

    /// The address in normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the `@`.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// What the grammar allows, or might allow one day, and we do not.
fn check_local_part(local: &str) -> Result<(), InvalidEmail> {
    // A mailbox has many quoted spellings ("a", "\a"), and only one of them could be normal.
    if local.contains('"') {
        return Err(InvalidEmail::Quoted);
    }
    if local.chars().any(is_blank_or_control) {
        return Err(InvalidEmail::BlankOrControl);
    }
    if local.chars().any(is_invisible) {
        return Err(InvalidEmail::Invisible);
    }
    if local.len() > MAX_LOCAL_BYTES {
        return Err(InvalidEmail::LocalPartTooLong);
    }
    Ok(())
}

/// A line break that reaches a mailer is a header of the attacker's own.
fn is_blank_or_control(c: char) -> bool {
    c.is_control() || c.is_whitespace()
}

/// Unicode's `Default_Ignorable_Code_Point`, which has all bidi controls, and interlinear marks: they
/// make an address that looks like another, or that a log shows backwards. Of these the grammar lets
/// only the Hangul fillers through, but by accident, so this does not lean on it.
#[rustfmt::skip]
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}'
        | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
        | '\u{E0000}'..='\u{E0FFF}')
}

/// The domain in lower-case ASCII: letters, digits and hyphens, with no dot at the end.
fn ascii_domain(domain: &str) -> Result<String, InvalidEmail> {
    Uts46::new()
        .to_ascii(
            domain.as_bytes(),
            AsciiDenyList::STD3,
            // Real domains have hyphens in the third and fourth place.
            Hyphens::CheckFirstLast,
            DnsLength::Verify,
        )
        .map(String::from)
        .map_err(|_| InvalidEmail::Domain)
}

/// Why an address was refused. The text is a sentence for a DETAIL, and never repeats the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidEmail {
    /// Nothing, or blanks.
    Empty,
    /// Longer than mail can carry.
    TooLong,
    /// No `@`.
    NoAt,
    /// Not a dot-atom before the `@`.
    LocalPart,
    /// Longer than mail can carry before the `@`.
    LocalPartTooLong,
    /// A quotation mark before the `@`.
    Quoted,
    /// Blanks or control characters before the `@`.
    BlankOrControl,
    /// Characters before the `@` that nobody can see.
    Invisible,
    /// Not a domain name after the `@`.
    Domain,
}

impl fmt::Display for InvalidEmail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("The address is empty."),
            Self::TooLong => write!(f, "The address is longer than {MAX_BYTES} bytes."),
            Self::NoAt => f.write_str("The address has no \"@\"."),
            Self::LocalPart => f.write_str("The part before the last \"@\" is not valid."),
            Self::LocalPartTooLong => write!(
                f,
                "The part before the last \"@\" is longer than {MAX_LOCAL_BYTES} bytes."
            ),
            Self::Quoted => f.write_str("Quotation marks before the \"@\" are not supported."),
            Self::BlankOrControl => {
                f.write_str("The address contains a blank or a control character.")
            }
            Self::Invisible => f.write_str("The address contains an invisible character."),
            Self::Domain => f.write_str("The part after the last \"@\" is not a domain name."),
        }
    }
}

impl std::error::Error for InvalidEmail {}

#[cfg(test)]
mod tests {
    use super::InvalidEmail as Bad;
    use super::*;
    use proptest::prelude::*;

    fn parsed(raw: &str) -> Result<String, Bad> {
        Email::parse(raw).map(|email| email.as_str().to_owned())
    }

    #[test]
    fn addresses_come_into_normal_form() {
        for (raw, normal) in [
            ("ada@EXAMPLE.com", "ada@example.com"),
            ("Ada+Tag@Example.com", "ada+tag@example.com"),
            (" a.b@c.de\n", "a.b@c.de"),
            ("\u{3000}ada@x.y\u{A0}", "ada@x.y"),
            ("ada@localhost", "ada@localhost"),
            ("ada@a1--b.example", "ada@a1--b.example"),
            ("o'hara_{1}%x@x.y", "o'hara_{1}%x@x.y"),
            ("ada@Bücher.example", "ada@xn--bcher-kva.example"),
            ("ada@XN--Bcher-KVA.example", "ada@xn--bcher-kva.example"),
            ("ada@straße.de", "ada@xn--strae-oqa.de"),
            ("ada@ｅｘａｍｐｌｅ．com", "ada@example.com"),
            ("ada@例え。jp", "ada@xn--r8jz45g.jp"),
            ("ada@exam\u{AD}ple.com", "ada@example.com"),
            ("İ@x.y", "İ@x.y"),
            ("ÄDA@x.y", "Äda@x.y"),
            ("\u{212A}@x.y", "\u{212A}@x.y"),
        ] {
            assert_eq!(parsed(raw).as_deref(), Ok(normal), "{raw:?}");
        }
    }

    #[test]
    fn what_is_not_one_plain_address_is_refused() {
        for (raw, why) in [
            ("", Bad::Empty),
            (" \n", Bad::Empty),
            ("ada", Bad::NoAt),
            ("@x.y", Bad::LocalPart),
            ("ada@", Bad::Domain),
            ("@", Bad::Domain),
            ("a@b@c", Bad::LocalPart),
            (".ada@x.y", Bad::LocalPart),
            ("a..b@x.y", Bad::LocalPart),
            ("a,b@x.y", Bad::LocalPart),
            ("a@x.y,b@x.y", Bad::LocalPart),
            ("<ada@x.y>", Bad::Domain),
            ("<ada@x.y", Bad::LocalPart),
            ("mailto:ada@x.y", Bad::LocalPart),
            ("Ada <ada@x.y>", Bad::BlankOrControl),
            ("ada @x.y", Bad::BlankOrControl),
            ("ada\r\nBcc: eve@x.y", Bad::BlankOrControl),
            ("ada\0@x.y", Bad::BlankOrControl),
            ("ada\u{85}b@x.y", Bad::BlankOrControl),
            ("ada\u{2028}b@x.y", Bad::BlankOrControl),
            ("ada@x.y\r\nBcc: eve", Bad::Domain),
            ("ada@x y", Bad::Domain),
            ("a\u{200B}da@x.y", Bad::Invisible),
            ("\u{202E}ada@x.y", Bad::Invisible),
            ("ada\u{3164}@x.y", Bad::Invisible),
            ("\"ada\"@x.y", Bad::Quoted),
            ("\"a b\"@x.y", Bad::Quoted),
            ("a\"b@x.y", Bad::Quoted),
            ("a@[127.0.0.1]", Bad::Domain),
            ("ada@x.y.", Bad::Domain),
            ("ada@x.y。", Bad::Domain),
            ("ada@.x.y", Bad::Domain),
            ("ada@x..y", Bad::Domain),
            ("ada@-x.y", Bad::Domain),
            ("ada@x_1.y", Bad::Domain),
            ("ada@xn--.y", Bad::Domain),
            ("ada＠x.y", Bad::NoAt),
        ] {
            assert_eq!(parsed(raw), Err(why), "{raw:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let local = |n: usize| format!("{}@x.y", "a".repeat(n));
        assert!(parsed(&local(64)).is_ok());
        assert_eq!(parsed(&local(65)), Err(Bad::LocalPartTooLong));

        let total = |n: usize| format!("{}@{}", "a".repeat(n - 192), vec!["b"; 96].join("."));
        assert_eq!(total(254).len(), 254);
        assert!(parsed(&total(254)).is_ok());
        assert_eq!(parsed(&total(255)), Err(Bad::TooLong));

        assert!(parsed(&format!("a@{}.y", "b".repeat(63))).is_ok());
        assert_eq!(parsed(&format!("a@{}.y", "b".repeat(64))), Err(Bad::Domain));
        for huge in ["a", "ü", "é@", ".", "@xn--"] {
            assert_eq!(parsed(&huge.repeat(1 << 20)), Err(Bad::TooLong));
        }
    }

    #[test]
    fn no_character_of_the_kinds_we_refuse_gets_through() {
        for c in ('\0'..=char::MAX).filter(|&c| is_blank_or_control(c) || is_invisible(c)) {
            assert!(parsed(&format!("a{c}b@x.y")).is_err(), "{c:?}");
        }
    }

    /// Strings that are often addresses, and when not, nearly.
    fn addressish() -> impl Strategy<Value = String> {
        let local = "[a-zA-Z0-9.+_İßäÄKé,\u{200B}\"-]{0,12}|\\PC{1,4}";
        let domain = "[a-zA-Z0-9.üßÜ。ａ\u{AD}-]{0,12}|\\PC{1,4}|(xn--)?[a-z0-9-]{1,9}";
        let address = (local, domain).prop_map(|(local, domain)| format!("{local}@{domain}"));
        prop_oneof![9 => address, 1 => any::<String>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn an_accepted_address_is_normal(raw in addressish()) {
            let Ok(email) = Email::parse(&raw) else { return Ok(()) };
            prop_assert_eq!(Email::parse(email.as_str()), Ok(email.clone()));
            let (local, domain) = email.as_str().rsplit_once('@').unwrap();
            prop_assert_eq!(domain, email.domain());
            prop_assert!(domain.is_ascii() && !local.is_empty());
            prop_assert!(email.as_str().len() <= MAX_BYTES);
            prop_assert!(!email.as_str().chars().any(|c| c.is_ascii_uppercase()));
            prop_assert!(!email.as_str().chars().any(is_blank_or_control));
            // Two local parts that differ in more than ASCII case stay two.
            let typed_local = raw.trim().rsplit_once('@').unwrap().0;
            prop_assert_eq!(local, typed_local.to_ascii_lowercase());
        }

        #[test]
        fn ascii_case_and_surrounding_blanks_do_not_matter(
            raw in addressish(),
            blanks in "\\s{0,3}",
        ) {
            let Ok(email) = Email::parse(&raw) else { return Ok(()) };
            let (upper, lower) = (raw.to_ascii_uppercase(), raw.to_ascii_lowercase());
            for same in [upper, lower, format!("{blanks}{raw}{blanks}")] {
                prop_assert_eq!(Email::parse(&same), Ok(email.clone()));
            }
        }

        #[test]
        fn a_refusal_is_one_sentence(raw in addressish()) {
            let Err(why) = Email::parse(&raw) else { return Ok(()) };
            let text = why.to_string();
            prop_assert!(text.starts_with(char::is_uppercase) && text.ends_with('.'));
            prop_assert!(!text.contains('\n'));
        }
    }
}
