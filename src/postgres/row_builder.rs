//! Rows that a SQL function answers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;

use pgrx::{IntoDatum, PgMemoryContexts, check_for_interrupts, pg_sys};

use super::call::{Call, declaration_mismatch};
use super::error::Error;

thread_local! {
    /// By the function's oid.
    static DESCRIPTORS: RefCell<HashMap<pg_sys::Oid, pg_sys::TupleDesc>> = RefCell::default();
}

impl Call {
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
        let function = unsafe { (*(*self.fcinfo()).flinfo).fn_oid };
        let kept = DESCRIPTORS.with_borrow(|kept| kept.get(&function).copied());
        if let Some(descriptor) = kept {
            return Ok(descriptor);
        }
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: a composite result leaves a descriptor; the copy lives as long as the session.
        let descriptor = unsafe {
            let class =
                pg_sys::get_call_result_type(self.fcinfo(), std::ptr::null_mut(), &mut descriptor);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
                return Err(declaration_mismatch());
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
            pg_sys::InitMaterializedSRF(self.fcinfo(), 0);
            let result = (*self.fcinfo()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
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
    pub fn row(&self, mut columns: RowBuilder) -> Result<Option<pg_sys::Datum>, Error> {
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

    fn check(&self, columns: &RowBuilder) -> Result<(), Error> {
        // SAFETY: a descriptor that lives as long as the call.
        if unsafe { (*self.descriptor).natts } as usize == columns.values.len() {
            return Ok(());
        }
        Err(declaration_mismatch())
    }
}

/// The rows that a call answers.
pub struct RowSet<'c> {
    set: *mut pg_sys::Tuplestorestate,
    row_type: RowType<'c>,
}

impl RowSet<'_> {
    /// Answers these rows.
    pub fn fill(
        self,
        rows: impl Iterator<Item = Result<RowBuilder, Error>>,
    ) -> Result<Option<pg_sys::Datum>, Error> {
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

/// The columns of a row, in order.
#[derive(Default)]
pub struct RowBuilder {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl RowBuilder {
    pub fn column(mut self, value: impl IntoDatum) -> Self {
        let datum = value.into_datum();
        self.nulls.push(datum.is_none());
        self.values.push(datum.unwrap_or(pg_sys::Datum::null()));
        self
    }
}
