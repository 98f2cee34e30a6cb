//! What comes from the operating system: the time, and randomness.

use pgrx::datum::TimestampWithTimeZone as Timestamp;
use pgrx::{FromDatum, IntoDatum, pg_sys};
use rand::TryRng;
use rand::rngs::SysRng;
use uuid::{Builder, Uuid};

use crate::postgres::error::{Error, SqlState};

/// PostgreSQL counts from 2000-01-01, everybody else from 1970-01-01: 10,957 days apart.
const EPOCHS_APART_MICROS: i64 = 10_957 * 86_400 * 1_000_000;

/// A moment on the wall's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Microseconds since 2000-01-01 00:00 UTC.
    micros: i64,
}

impl Moment {
    pub fn now() -> Self {
        Self {
            // SAFETY: reads the clock.
            micros: unsafe { pg_sys::GetCurrentTimestamp() },
        }
    }

    pub fn plus_seconds(self, seconds: i32) -> Self {
        Self {
            micros: self.micros.saturating_add(i64::from(seconds) * 1_000_000),
        }
    }

    /// Milliseconds since the Unix epoch; 0 for anything before it.
    pub fn unix_millis(self) -> u64 {
        let micros = self.micros.saturating_add(EPOCHS_APART_MICROS);
        u64::try_from(micros / 1_000).unwrap_or(0)
    }

    pub fn timestamp(self) -> Result<Timestamp, Error> {
        Timestamp::try_from(self.micros).map_err(|_| out_of_range())
    }
}

impl From<Timestamp> for Moment {
    fn from(timestamp: Timestamp) -> Self {
        Self {
            micros: timestamp.into(),
        }
    }
}

/// A timestamptz is these microseconds, the infinities the ends of their range.
impl FromDatum for Moment {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then_some(Self {
            micros: datum.value() as i64,
        })
    }
}

impl IntoDatum for Moment {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.micros.into())
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TIMESTAMPTZOID
    }
}

/// 22008: the clock shows a time that PostgreSQL or a token cannot hold.
pub fn out_of_range() -> Error {
    Error::new(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range")
}

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
