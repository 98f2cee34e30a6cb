//! Keeps the linker from dropping what only the SQL generator and PostgreSQL look up by name; with the
//! argument here and not in RUSTFLAGS, `cargo pgrx test` and `cargo build` share their work.
fn main() {
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    println!("cargo::rerun-if-changed=build.rs");
}
