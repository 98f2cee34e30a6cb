//! An argument that is a row of a table.

use std::marker::PhantomData;

use pgrx::fcinfo::{direct_function_call, pg_getarg_datum};
use pgrx::pg_sys;

use super::call::{Call, declaration_mismatch};
use super::datum::{Column, Owned};
use super::error::Error;

impl Call {
    /// These columns of the row argument at `position`, None where it is NULL; 42P13 where the row lacks
    /// one. They are found by name: an older or newer release may have others between them.
    pub fn composite<const N: usize>(
        &self,
        position: usize,
        columns: &'static [Column; N],
    ) -> Result<Option<CompositeArgument<'_, N>>, Error> {
        // SAFETY: fcinfo is valid for the call, whose arguments were counted.
        let Some(row) = (unsafe { pg_getarg_datum(self.fcinfo(), position) }) else {
            return Ok(None);
        };
        let mut values = [None; N];
        // SAFETY: sql/tables.sql declares this argument as a row. The descriptor is released, by PostgreSQL
        // itself after an error.
        let has_columns = unsafe {
            let mut tuple = pg_sys::HeapTupleData::default();
            let descriptor = open_row(row, &mut tuple);
            let has_columns = read_columns(&mut tuple, descriptor, columns, &mut values);
            release(descriptor);
            has_columns
        };
        if !has_columns {
            return Err(declaration_mismatch());
        }
        let call = PhantomData;
        Ok(Some(CompositeArgument {
            columns,
            values,
            call,
        }))
    }
}

/// The values of some columns of a row argument, in the order in which they were asked for. They live
/// as long as the call.
pub struct CompositeArgument<'c, const N: usize> {
    columns: &'static [Column; N],
    values: [Option<pg_sys::Datum>; N],
    call: PhantomData<&'c Call>,
}

impl<const N: usize> CompositeArgument<'_, N> {
    /// The value in this place, from 0; None where it is NULL.
    pub fn get<T: Owned>(&self, place: usize) -> Result<Option<T>, Error> {
        let value = self.value(place, T::type_oid())?;
        // SAFETY: the row's own type was compared with the one that was asked for, and that is T's.
        Ok(value.and_then(|value| unsafe { T::from_datum(value, false) }))
    }

    /// How many bytes the bytea in this place has, wherever they are kept.
    pub fn byte_length(&self, place: usize) -> Result<Option<i32>, Error> {
        let Some(value) = self.value(place, pg_sys::BYTEAOID)? else {
            return Ok(None);
        };
        // SAFETY: byteaoctetlen takes a bytea, toasted or not, and answers an integer.
        Ok(unsafe { direct_function_call(pg_sys::byteaoctetlen, &[Some(value)]) })
    }

    /// Whether the value in this place is not NULL.
    pub fn has(&self, place: usize) -> bool {
        self.values.get(place).is_some_and(Option::is_some)
    }

    fn value(&self, place: usize, oid: pg_sys::Oid) -> Result<Option<pg_sys::Datum>, Error> {
        match (self.columns.get(place), self.values.get(place)) {
            (Some((_, expected)), Some(value)) if *expected == oid => Ok(*value),
            _ => Err(Error::internal("column")),
        }
    }
}

/// Points `tuple` to a row, and answers the descriptor of its type, which is to be released.
unsafe fn open_row(row: pg_sys::Datum, tuple: &mut pg_sys::HeapTupleData) -> pg_sys::TupleDesc {
    // SAFETY: the datum is a row, and says itself of which type. In memory of the call's.
    unsafe {
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast();
        tuple.t_len = pgrx::varsize(header.cast()) as u32;
        tuple.t_data = header;
        let row_type = (*header).t_choice.t_datum;
        pg_sys::lookup_rowtype_tupdesc(row_type.datum_typeid, row_type.datum_typmod)
    }
}

/// Reads these columns; false where there is none of that name and type.
unsafe fn read_columns(
    tuple: &mut pg_sys::HeapTupleData,
    descriptor: pg_sys::TupleDesc,
    columns: &[Column],
    read: &mut [Option<pg_sys::Datum>],
) -> bool {
    // SAFETY: a tuple and its descriptor; the arrays have a member for each of its columns, and
    // SPI_fnumber answers the number of one of them, or what is not above 0.
    unsafe {
        let count = (*descriptor).natts as usize;
        let mut values = vec![pg_sys::Datum::null(); count];
        let mut nulls = vec![true; count];
        pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        columns.iter().zip(read).all(|((name, oid), value)| {
            let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
            let found = number > 0 && pg_sys::SPI_gettypeid(descriptor, number) == *oid;
            if found && !nulls[number as usize - 1] {
                *value = Some(values[number as usize - 1]);
            }
            found
        })
    }
}

/// ReleaseTupleDesc: what is not counted is nobody's to release.
unsafe fn release(descriptor: pg_sys::TupleDesc) {
    // SAFETY: a descriptor that was looked up.
    unsafe {
        if (*descriptor).tdrefcount >= 0 {
            pg_sys::DecrTupleDescRefCount(descriptor);
        }
    }
}
