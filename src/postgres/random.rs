//! Randomness from the operating system.

use rand::TryRng;
use rand::rngs::SysRng;
use uuid::{Builder, Uuid};

use super::clock::Moment;
use super::error::{Error, SqlState};

/// Fills `bytes` with randomness from the operating system, which no fork can copy.
pub fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
    SysRng.try_fill_bytes(bytes).map_err(|error| {
        Error::new(SqlState::IO_ERROR, "could not generate random values").detail(error)
    })
}

/// A new UUIDv7.
pub fn new_uuid() -> Result<Uuid, Error> {
    let mut random = [0; 10];
    fill_random(&mut random)?;
    let millis = Moment::now().unix_millis();
    Ok(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}
