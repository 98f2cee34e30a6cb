//! The clock.

use pgrx::datum::{Interval, TimestampWithTimeZone as Timestamp};
use pgrx::fcinfo::direct_function_call;
use pgrx::{FromDatum, IntoDatum, pg_sys};

use super::error::{Error, SqlState};

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

    /// As `timestamptz - interval`, in the session's time zone; 22008 where that leads out of the calendar.
    pub fn minus(self, interval: Interval) -> Result<Self, Error> {
        // SAFETY: timestamptz_mi_interval takes a timestamptz and an interval, and answers a timestamptz.
        unsafe {
            direct_function_call(
                pg_sys::timestamptz_mi_interval,
                &[self.into_datum(), interval.into_datum()],
            )
        }
        .ok_or_else(|| Error::internal("timestamptz_mi_interval"))
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
