//! What a row of `one_time_tokens` has to be like: the rule of the table's CHECK.

/// How many bytes a SHA-256 has.
const HASH_LENGTH: i32 = 32;

/// What the rule looks at; None is NULL, and of some columns it counts only whether they are NULL.
///
/// A NULL where there may be none breaks no rule here: that is for the column's NOT NULL.
pub struct TokenRow<Moment> {
    pub token_hash_length: Option<i32>,
    pub created_at: Option<Moment>,
    pub expires_at: Option<Moment>,
    pub failed_attempts: Option<i32>,
    pub has_consumed_at: bool,
    pub has_consumed_by: bool,
    pub has_revoked_at: bool,
    pub has_user_created: bool,
    pub has_memberships: bool,
}

impl<Moment: Copy + PartialOrd> TokenRow<Moment> {
    pub fn is_valid(&self) -> bool {
        self.hash_has_its_length()
            && self.expires_after_creation()
            && self.has_consumed_at == self.has_consumed_by
            && !(self.has_consumed_at && self.has_revoked_at)
            && self.failed_attempts.is_none_or(|attempts| attempts >= 0)
            && self.has_user_created == self.has_memberships
            && (self.has_consumed_at || !self.has_memberships)
    }

    fn hash_has_its_length(&self) -> bool {
        self.token_hash_length
            .is_none_or(|length| length == HASH_LENGTH)
    }

    fn expires_after_creation(&self) -> bool {
        let times = self.created_at.zip(self.expires_at);
        times.is_none_or(|(created_at, expires_at)| expires_at > created_at)
    }
}

#[cfg(test)]
mod tests {
    use super::TokenRow;

    const LENGTHS: [Option<i32>; 5] = [None, Some(0), Some(31), Some(32), Some(33)];
    const MOMENTS: [Option<i64>; 6] = [
        None,
        Some(i64::MIN),
        Some(-1),
        Some(0),
        Some(1),
        Some(i64::MAX),
    ];
    const ATTEMPTS: [Option<i32>; 6] = [
        None,
        Some(i32::MIN),
        Some(-1),
        Some(0),
        Some(1),
        Some(i32::MAX),
    ];

    /// What has happened to a token: nothing, or it was consumed, with or without the answer kept, or
    /// revoked. As `has_consumed_at, has_consumed_by, has_revoked_at, has_user_created, has_memberships`.
    const HISTORIES: [[bool; 5]; 4] = [
        [false; 5],
        [true, true, false, false, false],
        [true, true, false, true, true],
        [false, false, true, false, false],
    ];

    fn all_histories() -> impl Iterator<Item = [bool; 5]> {
        (0..32).map(|bits| std::array::from_fn(|n| bits & 1 << n != 0))
    }

    fn row(history: [bool; 5]) -> TokenRow<i64> {
        let [
            has_consumed_at,
            has_consumed_by,
            has_revoked_at,
            has_user_created,
            has_memberships,
        ] = history;
        TokenRow {
            token_hash_length: Some(32),
            created_at: Some(0),
            expires_at: Some(1),
            failed_attempts: Some(0),
            has_consumed_at,
            has_consumed_by,
            has_revoked_at,
            has_user_created,
            has_memberships,
        }
    }

    #[test]
    fn a_token_has_one_history() {
        for history in all_histories() {
            let valid = HISTORIES.contains(&history);
            assert_eq!(row(history).is_valid(), valid, "{history:?}");
        }
    }

    #[test]
    fn each_rule_counts_whatever_the_others_say() {
        for history in all_histories() {
            for token_hash_length in LENGTHS {
                for (created_at, expires_at) in pairs(MOMENTS) {
                    for failed_attempts in ATTEMPTS {
                        let row = TokenRow {
                            token_hash_length,
                            created_at,
                            expires_at,
                            failed_attempts,
                            ..row(history)
                        };
                        let valid = HISTORIES.contains(&history)
                            && matches!(token_hash_length, None | Some(32))
                            && (created_at.is_none()
                                || expires_at.is_none()
                                || created_at < expires_at)
                            && !matches!(failed_attempts, Some(i32::MIN | -1));
                        assert_eq!(row.is_valid(), valid);
                    }
                }
            }
        }
    }

    fn pairs<T: Copy, const N: usize>(values: [T; N]) -> impl Iterator<Item = (T, T)> {
        values
            .into_iter()
            .flat_map(move |one| values.into_iter().map(move |other| (one, other)))
    }
}
