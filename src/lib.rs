//! The map: what is installed, in which order.
::pgrx::pg_module_magic!(name = c"magic_link", version = c"0.1.0");

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    #[pg_test]
    fn one_is_one() {
        assert_eq!(Spi::get_one::<i32>("SELECT 1"), Ok(Some(1)));
    }
}

/// What `cargo pgrx test` asks of the crate's root.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
