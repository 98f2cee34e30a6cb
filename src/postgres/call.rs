//! PostgreSQL's function manager: how a call's arguments come in and its answer goes out.
//!
//! The doors are V1 functions declared in `sql/functions.sql`, and not `#[pg_extern]`s, because only
//! a V1 function can raise a SQLSTATE of our own (see `raise`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::marker::PhantomData;

use pgrx::datum::Interval;
use pgrx::fcinfo::{direct_function_call, pg_getarg, pg_getarg_datum};
use pgrx::{Array, IntoDatum, PgMemoryContexts, check_for_interrupts, pg_sys};
use uuid::Uuid;

use crate::postgres::datum::{CallMemory, Column, Jsonb, Owned, characters};
use crate::postgres::error::{Error, SqlState, internal, run_or_ereport};

/// Gives a function of so many arguments to PostgreSQL, under its name, or another, after `magic_link_`.
/// It serves no client that [`settings::check_client`](crate::postgres::settings::check_client) refuses, unless
/// it is for anybody.
macro_rules! door {
    ($body:ident($arguments:literal)) => {
        $crate::postgres::call::door!($body($arguments) = $body);
    };
    ($name:ident($arguments:literal) = $body:expr) => {
        $crate::postgres::call::door!(
            $name,
            $arguments,
            $crate::postgres::settings::check_client,
            $body
        );
    };
    ($body:ident($arguments:literal) for anybody) => {
        $crate::postgres::call::door!($body, $arguments, || Ok(()), $body);
    };
    ($name:ident, $arguments:literal, $admit:expr, $body:expr) => {
        const _: () = {
            #[unsafe(export_name = concat!("magic_link_", stringify!($name)))]
            extern "C-unwind" fn call(
                fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
            ) -> ::pgrx::pg_sys::Datum {
                // SAFETY: PostgreSQL calls this by its V1 convention; `fcinfo` is valid for the
                // call, and this frame holds nothing that needs dropping.
                unsafe { $crate::postgres::call::call(fcinfo, $arguments, $admit, $body) }
            }

            #[unsafe(export_name = concat!("pg_finfo_magic_link_", stringify!($name)))]
            extern "C" fn info() -> *const ::pgrx::pg_sys::Pg_finfo_record {
                static V1: ::pgrx::pg_sys::Pg_finfo_record =
                    ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &V1
            }
        };
    };
}
pub(crate) use door;

thread_local! {
    /// By the function's oid.
    static DESCRIPTORS: RefCell<HashMap<pg_sys::Oid, pg_sys::TupleDesc>> = RefCell::default();
}

/// One call of a function.
pub struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
    memory: CallMemory,
}

/// What a function answers; None is NULL.
pub type Answer = Option<pg_sys::Datum>;

/// Runs a door.
///
/// # Safety
/// `fcinfo` is what PostgreSQL passed, and no frame above needs dropping (see [`run_or_ereport`]).
pub unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    arguments: i16,
    admit: fn() -> Result<(), Error>,
    body: fn(&Call) -> Result<Answer, Error>,
) -> pg_sys::Datum {
    // SAFETY: as the caller promises.
    unsafe {
        let answer = run_or_ereport(|| {
            if (*fcinfo).nargs != arguments {
                return Err(declared_otherwise());
            }
            admit()?;
            body(&Call {
                fcinfo,
                memory: CallMemory::of_call(),
            })
        });
        (*fcinfo).isnull = answer.is_none();
        answer.unwrap_or(pg_sys::Datum::null())
    }
}

/// 42P13: as after an update that only one of the library and its declarations went through.
fn declared_otherwise() -> Error {
    let report = Error::new(
        SqlState::INVALID_FUNCTION_DEFINITION,
        "the function's declaration and magic_link's library do not match",
    );
    report.hint("Run ALTER EXTENSION magic_link UPDATE.")
}

/// 25006, in PostgreSQL's own words, where nothing may be written: a hot standby, say.
pub fn forbid_in_read_only_transaction(function: &CStr) {
    // SAFETY: the name is zero-terminated and copied.
    unsafe { pg_sys::PreventCommandIfReadOnly(function.as_ptr()) }
}

impl Call {
    pub fn memory(&self) -> &CallMemory {
        &self.memory
    }

    /// The text argument at `position`, None where it is NULL.
    pub fn text(&self, position: usize) -> Result<Option<&str>, Error> {
        // SAFETY: sql/functions.sql declares this argument as text, which has the form of a bytea; the datum outlives the call.
        let bytes: Option<&[u8]> = unsafe { pg_getarg(self.fcinfo, position) };
        bytes.map(characters).transpose()
    }

    /// The text argument at `position`, which may not be NULL (22004).
    pub fn required_text(&self, position: usize, name: &str) -> Result<&str, Error> {
        self.text(position)?.ok_or_else(|| Error::null(name))
    }

    pub fn integer(&self, position: usize) -> Option<i32> {
        // SAFETY: sql/functions.sql declares this argument as integer.
        unsafe { pg_getarg(self.fcinfo, position) }
    }

    /// The uuid argument at `position`, which may not be NULL (22004).
    pub fn required_uuid(&self, position: usize, name: &str) -> Result<Uuid, Error> {
        // SAFETY: sql/functions.sql declares this argument as uuid.
        let id: Option<pgrx::Uuid> = unsafe { pg_getarg(self.fcinfo, position) };
        let id = id.ok_or_else(|| Error::null(name))?;
        Ok(Uuid::from_bytes(*id.as_bytes()))
    }

    pub fn interval(&self, position: usize) -> Option<Interval> {
        // SAFETY: sql/functions.sql declares this argument as interval.
        unsafe { pg_getarg(self.fcinfo, position) }
    }

    /// The text array argument at `position`, None where it is NULL.
    pub fn texts(&self, position: usize) -> Option<Texts<'_>> {
        // SAFETY: sql/functions.sql declares this argument as text[]; the array outlives the call.
        // array_ndims takes any array.
        unsafe {
            let array = pg_getarg_datum(self.fcinfo, position);
            Some(Texts {
                elements: pg_getarg(self.fcinfo, position)?,
                dimensions: direct_function_call(pg_sys::array_ndims, &[array]).unwrap_or(0),
            })
        }
    }

    pub fn jsonb(&self, position: usize) -> Option<Jsonb<'_>> {
        // SAFETY: sql/functions.sql declares this argument as jsonb; the datum outlives the call.
        unsafe { pg_getarg_datum(self.fcinfo, position).map(|datum| Jsonb::from_datum(datum)) }
    }

    /// These columns of the row argument at `position`, None where it is NULL; 42P13 where the row has
    /// them not. They are found by name: others may have come before them, and more may come.
    pub fn fields<const N: usize>(
        &self,
        position: usize,
        columns: &'static [Column; N],
    ) -> Result<Option<Fields<'_, N>>, Error> {
        // SAFETY: fcinfo is valid for the call, whose arguments were counted.
        let Some(row) = (unsafe { pg_getarg_datum(self.fcinfo, position) }) else {
            return Ok(None);
        };
        let mut values = [None; N];
        // SAFETY: sql/tables.sql declares this argument as a row. The descriptor is released, by PostgreSQL
        // itself after an error.
        let as_declared = unsafe {
            let mut tuple = pg_sys::HeapTupleData::default();
            let descriptor = open_row(row, &mut tuple);
            let read = read_columns(&mut tuple, descriptor, columns, &mut values);
            release(descriptor);
            read
        };
        if !as_declared {
            return Err(declared_otherwise());
        }
        let call = PhantomData;
        Ok(Some(Fields {
            columns,
            values,
            call,
        }))
    }

    /// The row type that the function is declared to answer. To be asked before anything is waited for:
    /// afterwards the function may have been dropped, with the extension, and PostgreSQL knows no more.
    pub fn row_type(&self) -> Result<RowType<'_>, Error> {
        Ok(RowType {
            descriptor: self.descriptor()?,
            call: PhantomData,
        })
    }

    /// What the columns of the answer are. PostgreSQL puts it together from the catalogue each time, of
    /// 10,000 instructions; we keep it, since what a function answers changes with its oid alone.
    fn descriptor(&self) -> Result<pg_sys::TupleDesc, Error> {
        // SAFETY: fcinfo is valid for the call, and says which function was called.
        let function = unsafe { (*(*self.fcinfo).flinfo).fn_oid };
        let kept = DESCRIPTORS.with_borrow(|kept| kept.get(&function).copied());
        if let Some(descriptor) = kept {
            return Ok(descriptor);
        }
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: a composite result leaves a descriptor; the copy lives as long as the session.
        let descriptor = unsafe {
            let class =
                pg_sys::get_call_result_type(self.fcinfo, std::ptr::null_mut(), &mut descriptor);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
                return Err(declared_otherwise());
            }
            PgMemoryContexts::TopMemoryContext
                .switch_to(|_| pg_sys::BlessTupleDesc(pg_sys::CreateTupleDescCopy(descriptor)))
        };
        DESCRIPTORS.with_borrow_mut(|kept| kept.insert(function, descriptor));
        Ok(descriptor)
    }

    /// The set of rows that the function is declared to answer, empty; as `row_type`, to be asked for
    /// before anything is waited for.
    pub fn row_set(&self) -> RowSet<'_> {
        // SAFETY: fcinfo is valid for the call; PostgreSQL makes the set and its descriptor, or raises
        // an error where the caller takes none.
        let (set, descriptor) = unsafe {
            pg_sys::InitMaterializedSRF(self.fcinfo, 0);
            let result = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            ((*result).setResult, (*result).setDesc)
        };
        let row_type = RowType {
            descriptor,
            call: PhantomData,
        };
        RowSet { set, row_type }
    }
}

/// The type of a row that a call answers.
pub struct RowType<'c> {
    descriptor: pg_sys::TupleDesc,
    call: PhantomData<&'c Call>,
}

impl RowType<'_> {
    /// A row with these columns, 42P13 where they are not as many as were declared.
    pub fn row(&self, mut columns: Columns) -> Result<Answer, Error> {
        self.check(&columns)?;
        // SAFETY: a blessed descriptor; the arrays have as many members as it has columns.
        unsafe {
            let tuple = pg_sys::heap_form_tuple(
                self.descriptor,
                columns.values.as_mut_ptr(),
                columns.nulls.as_mut_ptr(),
            );
            Ok(Some(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)))
        }
    }

    fn check(&self, columns: &Columns) -> Result<(), Error> {
        // SAFETY: a descriptor that lives as long as the call.
        if unsafe { (*self.descriptor).natts } as usize == columns.values.len() {
            return Ok(());
        }
        Err(declared_otherwise())
    }
}

/// The rows that a call answers.
pub struct RowSet<'c> {
    set: *mut pg_sys::Tuplestorestate,
    row_type: RowType<'c>,
}

impl RowSet<'_> {
    /// Answers these rows.
    pub fn fill(self, rows: impl Iterator<Item = Result<Columns, Error>>) -> Result<Answer, Error> {
        for row in rows {
            check_for_interrupts!();
            let mut columns = row?;
            self.row_type.check(&columns)?;
            // SAFETY: the set of the call and its descriptor; the arrays have as many members as that has
            // columns, and are copied.
            unsafe {
                let values = columns.values.as_mut_ptr();
                let nulls = columns.nulls.as_mut_ptr();
                pg_sys::tuplestore_putvalues(self.set, self.row_type.descriptor, values, nulls);
            }
        }
        Ok(None)
    }
}

/// The values of some columns of a row argument, in the order in which they were asked for. They live
/// as long as the call.
pub struct Fields<'c, const N: usize> {
    columns: &'static [Column; N],
    values: [Option<pg_sys::Datum>; N],
    call: PhantomData<&'c Call>,
}

impl<const N: usize> Fields<'_, N> {
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
            _ => Err(internal("column")),
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

/// An array of texts.
pub struct Texts<'c> {
    elements: Array<'c, &'c [u8]>,
    /// 0 where it is empty.
    pub dimensions: i32,
}

impl Texts<'_> {
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// The elements in order, None for NULL.
    pub fn iter(&self) -> impl Iterator<Item = Result<Option<&str>, Error>> {
        let elements = self.elements.iter();
        elements.map(|bytes| bytes.map(characters).transpose())
    }
}

/// The columns of a row, in order.
#[derive(Default)]
pub struct Columns {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Columns {
    pub fn and(mut self, value: impl IntoDatum) -> Self {
        let datum = value.into_datum();
        self.nulls.push(datum.is_none());
        self.values.push(datum.unwrap_or(pg_sys::Datum::null()));
        self
    }
}
