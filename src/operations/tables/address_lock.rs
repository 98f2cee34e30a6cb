//! The lock of an address. Whoever counts, or revokes, its tokens under a limit holds it until the end of the transaction,
//! so that what was counted is true.

use domain::email::Email;
use sha2::{Digest, Sha256};

use crate::postgres::advisory_lock;

/// Locks these addresses, in their own order: two calls cannot deadlock. Each takes a place in PostgreSQL's lock table
/// (max_locks_per_transaction).
pub fn lock_addresses(emails: &[Email]) {
    let mut emails: Vec<&str> = emails.iter().map(Email::as_str).collect();
    emails.sort_unstable();
    for email in emails {
        lock_address(email);
    }
}

/// Locks one address, as it is stored.
pub fn lock_address(email: &str) {
    advisory_lock::lock(key_of(email));
}

/// 64 bits of the address's SHA-256.
fn key_of(email: &str) -> [u32; 2] {
    let hash = Sha256::digest(email);
    let word = |place: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&hash[place..place + 4]);
        u32::from_be_bytes(bytes)
    };
    [word(0), word(4)]
}
