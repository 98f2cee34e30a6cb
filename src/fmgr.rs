//! PostgreSQL's function manager: how a call's arguments come in and its answer goes out.
//!
//! The doors are V1 functions declared in `sql/functions.sql`, and not `#[pg_extern]`s, because only
//! a V1 function can raise a SQLSTATE of our own (see `raise`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

use pgrx::datum::Interval;
use pgrx::fcinfo::{
    direct_function_call, direct_function_call_as_datum, pg_getarg, pg_getarg_datum,
};
use pgrx::{Array, FromDatum, IntoDatum, PgMemoryContexts, check_for_interrupts, pg_sys};
use serde::Serialize;
use uuid::Uuid;

use crate::raise::{Failure, Report, SqlState, internal, or_throw};
use crate::settings;

/// Gives a function of so many arguments to PostgreSQL, under its name, or another, after `magic_link_`.
macro_rules! door {
    ($body:ident($arguments:literal)) => {
        $crate::fmgr::door!($body($arguments) = $body);
    };
    ($name:ident($arguments:literal) = $body:expr) => {
        const _: () = {
            #[unsafe(export_name = concat!("magic_link_", stringify!($name)))]
            extern "C-unwind" fn call(
                fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
            ) -> ::pgrx::pg_sys::Datum {
                // SAFETY: PostgreSQL calls this by its V1 convention; `fcinfo` is valid for the
                // call, and this frame holds nothing that needs dropping.
                unsafe { $crate::fmgr::call(fcinfo, $arguments, $body) }
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
pub struct Call(pg_sys::FunctionCallInfo);

/// What a function answers; None is NULL.
pub type Answer = Option<pg_sys::Datum>;

/// Runs a door.
///
/// # Safety
/// `fcinfo` is what PostgreSQL passed, and no frame above needs dropping (see [`or_throw`]).
pub unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    arguments: i16,
    body: fn(&Call) -> Result<Answer, Failure>,
) -> pg_sys::Datum {
    // SAFETY: as the caller promises.
    unsafe {
        let answer = or_throw(|| {
            if (*fcinfo).nargs != arguments {
                return Err(declared_otherwise());
            }
            settings::check_client()?;
            body(&Call(fcinfo))
        });
        (*fcinfo).isnull = answer.is_none();
        answer.unwrap_or(pg_sys::Datum::null())
    }
}

/// 42P13: as after an update that only one of the library and its declarations went through.
fn declared_otherwise() -> Failure {
    let report = Report::new(
        SqlState::INVALID_FUNCTION_DEFINITION,
        "the function's declaration and magic_link's library do not match",
    );
    report.hint("Run ALTER EXTENSION magic_link UPDATE.").into()
}

/// 25006, in PostgreSQL's own words, where nothing may be written: a hot standby, say.
pub fn forbid_in_read_only_transaction(function: &CStr) {
    // SAFETY: the name is zero-terminated and copied.
    unsafe { pg_sys::PreventCommandIfReadOnly(function.as_ptr()) }
}

impl Call {
    /// The text argument at `position`, None where it is NULL.
    pub fn text(&self, position: usize) -> Option<&str> {
        // SAFETY: sql/functions.sql declares this argument as text; the datum outlives the call.
        unsafe { pg_getarg(self.0, position) }
    }

    /// The text argument at `position`, which may not be NULL (22004).
    pub fn required_text(&self, position: usize, name: &str) -> Result<&str, Failure> {
        self.text(position).ok_or_else(|| Report::null(name).into())
    }

    pub fn integer(&self, position: usize) -> Option<i32> {
        // SAFETY: sql/functions.sql declares this argument as integer.
        unsafe { pg_getarg(self.0, position) }
    }

    /// The uuid argument at `position`, which may not be NULL (22004).
    pub fn required_uuid(&self, position: usize, name: &str) -> Result<Uuid, Failure> {
        // SAFETY: sql/functions.sql declares this argument as uuid.
        let id: Option<pgrx::Uuid> = unsafe { pg_getarg(self.0, position) };
        let id = id.ok_or_else(|| Report::null(name))?;
        Ok(Uuid::from_bytes(*id.as_bytes()))
    }

    pub fn interval(&self, position: usize) -> Option<Interval> {
        // SAFETY: sql/functions.sql declares this argument as interval.
        unsafe { pg_getarg(self.0, position) }
    }

    /// The text array argument at `position`, None where it is NULL.
    pub fn texts(&self, position: usize) -> Option<Texts<'_>> {
        // SAFETY: sql/functions.sql declares this argument as text[]; the array outlives the call.
        // array_ndims takes any array.
        unsafe {
            let array = pg_getarg_datum(self.0, position);
            Some(Texts {
                elements: pg_getarg(self.0, position)?,
                dimensions: direct_function_call(pg_sys::array_ndims, &[array]).unwrap_or(0),
            })
        }
    }

    pub fn jsonb(&self, position: usize) -> Option<Jsonb> {
        // SAFETY: sql/functions.sql declares this argument as jsonb; the datum outlives the call.
        unsafe { pg_getarg(self.0, position) }
    }

    /// A row of the type that the function is declared to answer.
    pub fn row(&self, mut columns: Columns) -> Result<Answer, Failure> {
        let descriptor = self.descriptor()?;
        // SAFETY: a blessed descriptor, which is compared with the number of our columns before their
        // arrays are read.
        unsafe {
            if (*descriptor).natts as usize != columns.values.len() {
                return Err(declared_otherwise());
            }
            let tuple = pg_sys::heap_form_tuple(
                descriptor,
                columns.values.as_mut_ptr(),
                columns.nulls.as_mut_ptr(),
            );
            Ok(Some(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)))
        }
    }

    /// What the columns of the answer are. PostgreSQL puts it together from the catalogue each time, of
    /// 10,000 instructions; we keep it, since what a function answers changes with its oid alone.
    fn descriptor(&self) -> Result<pg_sys::TupleDesc, Failure> {
        // SAFETY: fcinfo is valid for the call, and says which function was called.
        let function = unsafe { (*(*self.0).flinfo).fn_oid };
        let kept = DESCRIPTORS.with_borrow(|kept| kept.get(&function).copied());
        if let Some(descriptor) = kept {
            return Ok(descriptor);
        }
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: a composite result leaves a descriptor; the copy lives as long as the session.
        let descriptor = unsafe {
            let class = pg_sys::get_call_result_type(self.0, std::ptr::null_mut(), &mut descriptor);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
                return Err(declared_otherwise());
            }
            PgMemoryContexts::TopMemoryContext
                .switch_to(|_| pg_sys::BlessTupleDesc(pg_sys::CreateTupleDescCopy(descriptor)))
        };
        DESCRIPTORS.with_borrow_mut(|kept| kept.insert(function, descriptor));
        Ok(descriptor)
    }

    /// Rows of the type that the function is declared to answer a set of.
    pub fn rows(
        &self,
        rows: impl Iterator<Item = Result<Columns, Failure>>,
    ) -> Result<Answer, Failure> {
        // SAFETY: fcinfo is valid for the call; PostgreSQL makes the set and its descriptor, or raises
        // an error where the caller takes none.
        let (set, descriptor) = unsafe {
            pg_sys::InitMaterializedSRF(self.0, 0);
            let result = (*self.0).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            ((*result).setResult, (*result).setDesc)
        };
        for row in rows {
            check_for_interrupts!();
            let mut columns = row?;
            // SAFETY: the set and the descriptor from above; the arrays have as many members as the
            // descriptor has columns, and are copied.
            unsafe {
                if (*descriptor).natts as usize != columns.values.len() {
                    return Err(declared_otherwise());
                }
                let values = columns.values.as_mut_ptr();
                pg_sys::tuplestore_putvalues(set, descriptor, values, columns.nulls.as_mut_ptr());
            }
        }
        Ok(None)
    }
}

/// An array of texts.
pub struct Texts<'c> {
    elements: Array<'c, &'c str>,
    /// 0 where it is empty.
    pub dimensions: i32,
}

impl Texts<'_> {
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// The elements in order, None for NULL.
    pub fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        self.elements.iter()
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

/// The same 16 bytes in pgrx's type.
pub fn pg_uuid(id: Uuid) -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(id.into_bytes())
}

/// A jsonb value, kept as PostgreSQL holds it, so that it is handed back whole: numbers and depths
/// that a parser of ours would not take included.
#[derive(Clone, Copy)]
pub struct Jsonb(pg_sys::Datum);

impl Jsonb {
    /// From text that is JSON.
    pub fn parse(json: &CStr) -> Result<Self, Failure> {
        // SAFETY: jsonb_in takes a cstring and answers a jsonb.
        let jsonb =
            unsafe { direct_function_call_as_datum(pg_sys::jsonb_in, &[json.into_datum()]) };
        jsonb.map(Self).ok_or_else(|| internal("jsonb_in"))
    }

    pub fn from_serialize(value: &impl Serialize) -> Result<Self, Failure> {
        let json = serde_json::to_vec(value).map_err(|_| internal("to JSON"))?;
        Self::parse(&CString::new(json).map_err(|_| internal("to JSON"))?)
    }

    pub fn to_text(self) -> Result<String, Failure> {
        // SAFETY: jsonb_out takes a jsonb, toasted or not, and answers a cstring.
        let text: Option<&CStr> =
            unsafe { direct_function_call(pg_sys::jsonb_out, &[Some(self.0)]) };
        let text = text.ok_or_else(|| internal("jsonb_out"))?;
        Ok(text.to_string_lossy().into_owned())
    }

    /// A copy in the memory of SPI's caller.
    pub fn outliving_spi(self) -> Self {
        // SAFETY: a jsonb read through an open SPI connection.
        Self(unsafe { pg_sys::SPI_datumTransfer(self.0, false, -1) })
    }
}

impl FromDatum for Jsonb {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then_some(Self(datum))
    }
}

impl IntoDatum for Jsonb {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}
