//! The secret: how it is drawn, read, hashed, and what its id is.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// Digits and letters in the order of their bytes, so that tokens sort by the time they begin with.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const TIME_LENGTH: usize = 8;
const RANDOM_LENGTH: usize = 24;
const LENGTH: usize = TIME_LENGTH + RANDOM_LENGTH;
/// 62^8 milliseconds reach into the year 8888; a UUIDv7 can hold more (2^48).
const MILLIS_END: u64 = 62_u64.pow(TIME_LENGTH as u32);
/// The largest multiple of 62 in a byte: what lies above would favour the first digits.
const UNBIASED_END: u8 = 62 * 4;
/// A byte is refused once in 32; 8 to spare make a second draw a matter of one in millions.
const DRAWN_BYTES: usize = RANDOM_LENGTH + 8;

/// A well-formed token: 32 characters of base62. It shows itself to nobody who does not ask.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; LENGTH]);

/// The SHA-256 of a token: all of it that is ever stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// Why no token could be drawn.
#[derive(Debug, PartialEq, Eq)]
pub enum DrawError<E> {
    ClockOutOfRange,
    Random(E),
}

impl Token {
    /// Draws a token issued at `millis` (since the Unix epoch) with bytes from `fill`, 142 bits of them.
    pub fn draw<E>(
        millis: u64,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, DrawError<E>> {
        if millis >= MILLIS_END {
            return Err(DrawError::ClockOutOfRange);
        }
        let mut characters = [0; LENGTH];
        let (time, random) = characters.split_at_mut(TIME_LENGTH);
        write_time(time, millis);
        let mut empty = random.iter_mut();
        let mut drawn = [0; DRAWN_BYTES];
        while empty.len() > 0 {
            fill(&mut drawn).map_err(DrawError::Random)?;
            let unbiased = drawn.iter().filter(|byte| **byte < UNBIASED_END);
            // `unbiased` comes first: `zip` would take a place before it found no byte for it.
            for (byte, place) in unbiased.zip(&mut empty) {
                *place = BASE62[usize::from(byte % 62)];
            }
        }
        Ok(Self(characters))
    }

    /// Reads a token; None where it has not a token's shape, and so was never issued.
    pub fn parse(text: &str) -> Option<Self> {
        let characters: [u8; LENGTH] = text.as_bytes().try_into().ok()?;
        characters
            .iter()
            .all(u8::is_ascii_alphanumeric)
            .then_some(Self(characters))
    }

    pub fn as_str(&self) -> &str {
        // Never empty: a token is ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0).into())
    }

    /// A UUIDv7 of the token's time and the first 74 bits of its hash: one time-ordered key
    /// finds a row by id and by token.
    pub fn id(&self, hash: &TokenHash) -> Uuid {
        let mut random = [0; 10];
        random.copy_from_slice(&hash.0[..10]);
        Builder::from_unix_timestamp_millis(self.millis(), &random).into_uuid()
    }

    fn millis(&self) -> u64 {
        self.0[..TIME_LENGTH]
            .iter()
            .fold(0, |millis, digit| millis * 62 + digit_value(*digit))
    }
}

impl TokenHash {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// What sorts after the ids of all tokens issued in this millisecond or before, and not after any other.
pub fn id_after(millis: u64) -> Uuid {
    Uuid::from_u128((u128::from(millis) + 1) << 80)
}

fn write_time(places: &mut [u8], mut millis: u64) {
    for place in places.iter_mut().rev() {
        *place = BASE62[(millis % 62) as usize];
        millis /= 62;
    }
}

fn digit_value(digit: u8) -> u64 {
    u64::from(match digit {
        b'0'..=b'9' => digit - b'0',
        b'A'..=b'Z' => digit - b'A' + 10,
        _ => digit - b'a' + 36,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn draw(millis: u64, byte: u8) -> Token {
        Token::draw(millis, |bytes| {
            bytes.fill(byte);
            Ok::<_, Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn the_shape_is_8_characters_of_time_and_24_drawn() {
        assert_eq!(draw(0, 0).as_str(), "0".repeat(32));
        assert_eq!(draw(61, 61).as_str(), format!("0000000z{}", "z".repeat(24)));
        assert_eq!(draw(62, 62).as_str(), format!("00000010{}", "0".repeat(24)));
    }

    #[test]
    fn bytes_that_would_favour_some_characters_are_passed_over() {
        let mut calls = 0;
        let token = Token::draw(0, |bytes| {
            calls += 1;
            bytes.fill(if calls == 1 { UNBIASED_END } else { 1 });
            Ok::<_, Infallible>(())
        })
        .unwrap();
        assert_eq!(calls, 2);
        assert_eq!(&token.as_str()[8..], "1".repeat(24));
    }

    /// 31 good bytes in the first draw's 32 leave none over; a half-used draw goes on where it stopped.
    #[test]
    fn a_second_draw_fills_what_the_first_left() {
        let mut calls = 0_u8;
        let token = Token::draw(0, |bytes| {
            calls += 1;
            bytes.fill(255);
            bytes[..20].fill(calls);
            Ok::<_, Infallible>(())
        })
        .unwrap();
        assert_eq!(
            &token.as_str()[8..],
            format!("{}{}", "1".repeat(20), "2".repeat(4))
        );
    }

    #[test]
    fn without_randomness_or_time_there_is_no_token() {
        let token = Token::draw(0, |_| Err("no entropy"));
        assert_eq!(token, Err(DrawError::Random("no entropy")));
        let token = Token::draw(MILLIS_END, |_| Ok::<_, Infallible>(()));
        assert_eq!(token, Err(DrawError::ClockOutOfRange));
    }

    #[test]
    fn what_comes_after_a_millisecond_is_after_all_its_ids() {
        for (millis, byte) in [(0, 61), (1_700_000_000_000, 61), (1_700_000_000_000, 0)] {
            let token = draw(millis, byte);
            let id = token.id(&token.hash());
            assert!(id < id_after(millis), "{millis}");
            assert!(millis == 0 || id > id_after(millis - 1), "{millis}");
        }
    }

    #[test]
    fn what_has_another_shape_is_no_token() {
        let good = "0".repeat(32);
        assert!(Token::parse(&good).is_some());
        for bad in [
            "",
            &good[1..],
            &format!("{good}0"),
            &good.replacen('0', "-", 1),
            &good.replacen('0', " ", 1),
            &good.replacen("00", "é", 1),
        ] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_hash_is_sha_256() {
        let token = Token::parse(&"0".repeat(32)).unwrap();
        let hex: String = token
            .hash()
            .as_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        // printf '%032d' 0 | sha256sum
        assert_eq!(
            hex,
            "84e0c0eafaa95a34c293f278ac52e45ce537bab5e752a00e6959a13ae103b65a"
        );
    }

    #[test]
    fn neither_token_nor_hash_prints_itself() {
        let token = draw(1, 1);
        assert_eq!(
            format!("{token:?} {:?}", token.hash()),
            "Token(…) TokenHash(…)"
        );
    }

    proptest! {
        #[test]
        fn any_string_is_a_token_or_none(text in any::<String>()) {
            if let Some(token) = Token::parse(&text) {
                prop_assert_eq!(token.as_str(), text);
            }
        }

        #[test]
        fn any_base62_is_a_token_with_an_id(text in "[0-9A-Za-z]{32}") {
            let token = Token::parse(&text).unwrap();
            let id = token.id(&token.hash());
            prop_assert_eq!(id.get_version_num(), 7);
            prop_assert_eq!(id.as_u128() >> 80, u128::from(token.millis()));
        }

        #[test]
        fn a_drawn_token_reads_back_with_its_time(millis in 0..MILLIS_END, seed in any::<[u8; 32]>()) {
            let mut bytes = seed.into_iter().cycle().enumerate().map(|(n, b)| b.wrapping_add(n as u8));
            let token = Token::draw(millis, |drawn| {
                drawn.fill_with(|| bytes.next().unwrap());
                Ok::<_, Infallible>(())
            }).unwrap();
            prop_assert_eq!(token.millis(), millis);
            prop_assert_eq!(Token::parse(token.as_str()), Some(token));
        }

        #[test]
        fn tokens_and_ids_sort_by_time(a in 0..MILLIS_END, b in 0..MILLIS_END) {
            let (first, second) = (draw(a, 7), draw(b, 7));
            prop_assert_eq!(a.cmp(&b), first.as_str().cmp(second.as_str()));
            let id = |token: &Token| token.id(&token.hash());
            if a != b {
                prop_assert_eq!(a.cmp(&b), id(&first).cmp(&id(&second)));
            }
        }
    }
}
