//! Which release's tables a call finds.

/// A library is newer than the tables between its installation and ALTER EXTENSION UPDATE. The C name that a declaration
/// calls says which release it is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    V0_1,
    /// Counts failed attempts, stores results, knows the e-mail domains of organizations.
    V0_2,
}
