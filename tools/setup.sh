# shellcheck shell=bash
# Finds what is there, installs what is missing and only that, and sets the environment in which everything is built,
# tested and shown. Source it after lib.sh and call set_up.
# shellcheck disable=SC2154 # what lib.sh sets
. "$root/tools/packages.sh"
. "$root/tools/servers.sh"
. "$root/tools/extension.sh"

check_rust() {
  local have
  # rustup writes this folder into the login shell's profile, which a service never reads.
  command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin
  if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    die "Rust is missing: version $(wanted_rust) or later, with cargo, for instance from https://rustup.rs"
  fi
  have=$(cd "$root" && rustc --version | awk '{print $2}')
  at_least "$have" "$(wanted_rust)" || die "Rust $have is too old: $(wanted_rust) or later is needed (rustup update stable)"
}

need_rustfmt_and_clippy() {
  if cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; then return; fi
  command -v rustup >/dev/null || die "rustfmt and clippy are missing: install the ones that belong to your Rust"
  quietly "rustfmt and clippy" rustup component add rustfmt clippy || die "rustfmt and clippy could not be installed"
}

# A start as root leaves files that an ordinary user cannot write.
need_writable() {
  local path
  for path in "$@"; do
    [ ! -e "$path" ] || [ -w "$path" ] || die "$path is not yours to write: remove it as the user who made it (make clean)"
  done
}

# Sets: origin (the server as given), server_key, and exports what cargo, pgrx, the harness and PostgreSQL's programs read.
set_up() {
  local home major pgrx_config
  clean_environment
  MAGIC_LINK_SERVER_MODE=$(server_mode)
  export MAGIC_LINK_SERVER_MODE
  need_writable "$root" "$root/.tools" "$root/.tools/.lock" "$root/target"
  open_log
  check_rust

  # Two starts at once would install over each other.
  exec 9>"$root/.tools/.lock"
  flock 9

  command -v cc >/dev/null || need_packages "a C compiler, which links Rust's programs," gcc libc6-dev
  find_server
  # After the server: its headers bring clang on Debian.
  has_libclang || need_packages "libclang, which reads PostgreSQL's headers," libclang-dev
  if [ -n "${for_tests:-}" ]; then
    need_rustfmt_and_clippy
    need_cargo_pgrx
    # Before the private server, which has what the given one has.
    need_companions
  fi

  # A name for this very server: another one of the same version has other headers, so it gets another folder for builds.
  server_key=pg$major
  [ "$origin" = "/usr/lib/postgresql/$major/bin/pg_config" ] || server_key+=-$(printf '%s' "$origin" | cksum | cut -d ' ' -f 1)
  pg_feature=pg$major

  need_writable "$root/.tools/$server_key" "$root/target/$server_key" "$root/target/$server_key/debug" "$root/target/$server_key/release"
  home=$(server_home "$server_key")
  "$root/tools/private-server" "$origin" "$home/server" || exit 1
  bindir=$(readlink -f "$home/server/.bin")
  PG_CONFIG=$bindir/pg_config
  # pgrx's build asks this pg_config. It watches the file that `cargo pgrx init` would write, and builds anew where that is
  # missing or was written again.
  PGRX_PG_CONFIG_PATH=$PG_CONFIG
  PGRX_HOME=$root/.tools/$server_key/pgrx
  CARGO_TARGET_DIR=$root/target/$server_key
  # pgrx asks for a newer Rust than it needs.
  PGRX_BUILD_FLAGS=--ignore-rust-version
  mkdir -p "$PGRX_HOME" "$CARGO_TARGET_DIR"
  pgrx_config=$(printf '[configs]\n%s = "%s"' "$pg_feature" "$PG_CONFIG")
  [ "$(cat "$PGRX_HOME/config.toml" 2>/dev/null)" = "$pgrx_config" ] || printf '%s\n' "$pgrx_config" >"$PGRX_HOME/config.toml"
  PATH=$root/.tools/bin:$PATH
  # pgrx's test framework starts cargo-pgrx by itself.
  CARGO_PGRX=$root/.tools/bin/cargo-pgrx
  export PG_CONFIG PGRX_PG_CONFIG_PATH PGRX_HOME CARGO_TARGET_DIR PGRX_BUILD_FLAGS PATH CARGO_PGRX
  flock -u 9
  exec 9>&-
  say "      $("$PG_CONFIG" --version) from ${origin%/*}, $(rustc --version | cut -d ' ' -f 1,2)"
}

set_up_for_tests() {
  local for_tests=1
  set_up
}
