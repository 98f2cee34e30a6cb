//! A row of a table as it was found, and the key that it was looked up by.

use std::marker::PhantomData;

use pgrx::{FromDatum, IntoDatum, pg_sys};
use uuid::Uuid;

use super::datum::{Owned, characters, pg_uuid};
use super::error::Error;
use super::jsonb::JsonbDatum;
use super::scan::Values;
use super::spi::SpiConnection;
use super::table::Table;

/// A value to look for.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    Text(&'a str),
    Uuid(Uuid),
}

impl Key<'_> {
    pub(super) fn datum(self) -> pg_sys::Datum {
        let datum = match self {
            Self::Text(text) => text.into_datum(),
            Self::Uuid(id) => pg_uuid(id).into_datum(),
        };
        datum.unwrap_or(pg_sys::Datum::null())
    }

    pub(super) fn equality(self) -> u32 {
        match self {
            Self::Text(_) => pg_sys::F_TEXTEQ,
            Self::Uuid(_) => pg_sys::F_UUID_EQ,
        }
    }

    pub(super) fn is_in(self, row: &HeapRow, column: usize) -> Result<bool, Error> {
        match self {
            Self::Text(text) => Ok(row.text(column)? == Some(text)),
            Self::Uuid(id) => Ok(row.get::<pgrx::Uuid>(column)? == Some(pg_uuid(id))),
        }
    }
}

/// A row that was found: a copy that lives as long as the connection.
pub struct HeapRow<'s> {
    values: Values,
    table: &'static Table,
    spi: PhantomData<&'s SpiConnection<'s>>,
}

impl<'s> HeapRow<'s> {
    /// `values` has at least the table's columns, in memory of the connection's.
    pub(super) fn new(_: &'s SpiConnection, table: &'static Table, values: Values) -> Self {
        Self {
            values,
            table,
            spi: PhantomData,
        }
    }

    /// The value of a column of the table, counted from 1; None where it is NULL.
    pub fn get<T: Owned>(&self, column: usize) -> Result<Option<T>, Error> {
        let datum = self.datum(column, T::type_oid())?;
        // SAFETY: a value of T's own type.
        Ok(datum.and_then(|datum| unsafe { T::from_datum(datum, false) }))
    }

    /// The value of a column that cannot be NULL.
    pub fn required<T: Owned>(&self, column: usize) -> Result<T, Error> {
        self.get(column)?.ok_or_else(|| Error::internal("NULL"))
    }

    pub fn text(&self, column: usize) -> Result<Option<&'s str>, Error> {
        let bytes = self.varlena(column, pg_sys::TEXTOID)?;
        bytes.map(characters).transpose()
    }

    pub fn required_text(&self, column: usize) -> Result<&'s str, Error> {
        self.text(column)?.ok_or_else(|| Error::internal("NULL"))
    }

    pub fn bytes(&self, column: usize) -> Result<Option<&'s [u8]>, Error> {
        self.varlena(column, pg_sys::BYTEAOID)
    }

    pub fn required_jsonb(&self, column: usize) -> Result<JsonbDatum<'s>, Error> {
        let datum = self.datum(column, pg_sys::JSONBOID)?;
        // SAFETY: a jsonb in memory of the connection's.
        let jsonb = datum.map(|datum| unsafe { JsonbDatum::from_datum(datum) });
        jsonb.ok_or_else(|| Error::internal("NULL"))
    }

    pub fn is_null(&self, column: usize) -> Result<bool, Error> {
        let place = self.place(column)?;
        // SAFETY: as in `datum`.
        Ok(unsafe { *self.values.nulls.add(place) })
    }

    /// The values of a column that cannot be NULL, in order, each once: in one snapshot a row that was deleted since
    /// is seen beside the one that our transaction put in its place.
    pub fn distinct_texts(rows: &[Self], column: usize) -> Result<Vec<String>, Error> {
        let mut texts: Vec<String> = rows
            .iter()
            .map(|row| row.required_text(column).map(str::to_owned))
            .collect::<Result<_, _>>()?;
        texts.sort_unstable();
        texts.dedup();
        Ok(texts)
    }

    fn varlena(&self, column: usize, oid: pg_sys::Oid) -> Result<Option<&'s [u8]>, Error> {
        let datum = self.datum(column, oid)?;
        // SAFETY: a text and a bytea have the same form. In memory of the connection's, and so is what is
        // detoasted, since no other connection is opened inside of it.
        Ok(datum.and_then(|datum| unsafe { FromDatum::from_datum(datum, false) }))
    }

    /// The place, from 0, of a column that is counted from 1.
    fn place(&self, column: usize) -> Result<usize, Error> {
        let place = column.wrapping_sub(1);
        if place >= self.table.columns.len() {
            return Err(Error::internal("column"));
        }
        Ok(place)
    }

    fn datum(&self, column: usize, oid: pg_sys::Oid) -> Result<Option<pg_sys::Datum>, Error> {
        let place = self.place(column)?;
        if self.table.columns[place].1 != oid {
            return Err(Error::internal("column"));
        }
        // SAFETY: the table was opened with at least these columns, of these types, and the arrays have a
        // member for each.
        unsafe {
            let is_null = *self.values.nulls.add(place);
            Ok((!is_null).then(|| *self.values.values.add(place)))
        }
    }
}
