//! How long a token is valid.

use std::fmt;

/// The lifetime of a token whose creator names none, in seconds.
const DEFAULT: i32 = 600;

/// From 1 second to the longest lifetime that the server allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(i32);

impl Lifetime {
    /// # Errors
    ///
    /// When `seconds` is not from 1 to `longest`.
    pub fn new(seconds: i32, longest: i32) -> Result<Self, InvalidLifetime> {
        if (1..=longest).contains(&seconds) {
            return Ok(Self(seconds));
        }
        Err(InvalidLifetime { longest })
    }

    /// Ten minutes, or less where nothing as long is allowed.
    #[must_use]
    pub fn default_within(longest: i32) -> Self {
        Self(longest.min(DEFAULT))
    }

    #[must_use]
    pub fn seconds(self) -> i32 {
        self.0
    }
}

/// The text is a sentence for a DETAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLifetime {
    longest: i32,
}

impl fmt::Display for InvalidLifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = self.longest;
        write!(f, "expires_in must be from 1 to {longest} seconds.")
    }
}

impl std::error::Error for InvalidLifetime {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_from_one_second_to_the_longest() {
        for (seconds, is_valid) in [
            (i32::MIN, false),
            (0, false),
            (1, true),
            (60, true),
            (61, false),
        ] {
            let lifetime = Lifetime::new(seconds, 60);
            assert_eq!(lifetime.is_ok(), is_valid, "{seconds}");
            assert!(lifetime.is_err() || lifetime == Ok(Lifetime(seconds)));
        }
    }

    #[test]
    fn the_default_is_ten_minutes_or_the_longest() {
        assert_eq!(Lifetime::default_within(604_800).seconds(), 600);
        assert_eq!(Lifetime::default_within(60).seconds(), 60);
    }
}
