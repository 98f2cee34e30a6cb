# shellcheck shell=bash
# Finds what is there, installs what is missing and only that, and sets the environment in which everything is built,
# tested and shown. Source it after lib.sh and call set_up.
# shellcheck disable=SC2154 # what lib.sh sets

install_packages() {
  say "      installing from Debian: $*"
  if [ "$(id -u)" = 0 ]; then
    "$root/tools/install-packages" "$@"
  elif command -v sudo >/dev/null; then
    sudo "$root/tools/install-packages" "$@"
  else
    die "these Debian packages are missing, and only root can install them. As root, run:

  $root/tools/install-packages $*
"
  fi || die "could not install $*"
}

need_apt() { command -v apt-get >/dev/null || die "$1 is missing, and this is not Debian: please install it yourself"; }

# The real pg_config beside the server's programs: Debian's /usr/bin/pg_config is a wrapper for whatever version is newest.
real_pg_config() {
  local bindir
  bindir=$("$1" --bindir 2>/dev/null) && [ -n "$bindir" ] || return 1
  if [ -x "$bindir/pg_config" ]; then printf '%s\n' "$bindir/pg_config"; else readlink -f "$1"; fi
}
major_of() { "$1" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p'; }
supported() { [[ $1 =~ ^[0-9]+$ ]] && [ "$1" -ge "$oldest" ] && [ "$1" -le "$newest" ]; }
has_server() { [ -x "$("$1" --bindir)/postgres" ] && [ -x "$("$1" --bindir)/initdb" ]; }
has_headers() { [ -f "$("$1" --includedir-server)/postgres.h" ]; }
is_complete() { [ -x "$1" ] && has_server "$1" && has_headers "$1"; }

newest_server() {
  local candidate real major
  for candidate in /usr/lib/postgresql/*/bin/pg_config /usr/pgsql-*/bin/pg_config /usr/local/pgsql/bin/pg_config "$(command -v pg_config || true)"; do
    [ -x "$candidate" ] && real=$(real_pg_config "$candidate") || continue
    major=$(major_of "$real")
    if supported "$major" && is_complete "$real"; then printf '%s %s\n' "$major" "$real"; fi
  done | sort -s -n -r -k 1,1 | sed -n '1s/^[0-9]* //p'
}

# Debian's own: a server that is there already and lacks its headers, else the newest that apt knows.
debian_server_packages() {
  local major
  for ((major = newest; major >= oldest; major--)); do
    if [ -x "/usr/lib/postgresql/$major/bin/postgres" ] && apt-cache show "postgresql-server-dev-$major" >/dev/null 2>&1; then
      printf '%s\n' "postgresql-server-dev-$major"
      return
    fi
  done
  for ((major = newest; major >= oldest; major--)); do
    if apt-cache show "postgresql-$major" "postgresql-server-dev-$major" >/dev/null 2>&1; then
      printf '%s\n' "postgresql-$major" "postgresql-server-dev-$major"
      return
    fi
  done
  # No lists yet: what Debian 12 has.
  printf '%s\n' postgresql-15 postgresql-server-dev-15
}

# bindgen loads libclang at run time and needs the headers that come with the compiler.
has_libclang() {
  [ -z "${LIBCLANG_PATH:-}" ] || return 0
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*-linux-gnu/libclang-*.so*' >/dev/null ||
    compgen -G '/usr/lib*/libclang.so*' >/dev/null || return 1
  compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null || compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null
}

check_rust() {
  local have
  # rustup writes this folder into the login shell's profile, which a service never reads.
  command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin
  if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    die "Rust is missing: version $(wanted_rust) or later, with cargo, rustfmt and clippy, for instance from https://rustup.rs"
  fi
  have=$(cd "$root" && rustc --version | awk '{print $2}')
  at_least "$have" "$(wanted_rust)" || die "Rust $have is too old: $(wanted_rust) or later is needed (rustup update stable)"
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    command -v rustup >/dev/null || die "rustfmt and clippy are missing: install the ones that belong to Rust $have"
    rustup component add rustfmt clippy
  fi
}

install_cargo_pgrx() {
  local version=$1
  [ "$("$root/.tools/bin/cargo-pgrx" --version 2>/dev/null | awk '{print $NF}')" != "$version" ] || return 0
  say "      building cargo-pgrx $version into .tools (about two minutes, once)"
  # A debug build takes less than half as long to make and is as quick in use. The default features would need OpenSSL.
  CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-pgrx --version "$version" --locked --ignore-rust-version --debug --no-default-features --force \
    --root "$root/.tools" || die "could not install cargo-pgrx $version"
}

# The compiler that libFuzzer's instrumentation takes, and what drives it.
need_cargo_fuzz() {
  if ! cargo +nightly --version >/dev/null 2>&1; then
    command -v rustup >/dev/null || die "fuzzing takes a nightly Rust: there is no rustup to install it with"
    rustup toolchain install nightly --profile minimal || die "the nightly Rust could not be installed"
  fi
  [ ! -x "$root/.tools/bin/cargo-fuzz" ] || return 0
  say "      building cargo-fuzz into .tools (a minute, once)"
  CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-fuzz --version 0.13.2 --locked --debug --root "$root/.tools" ||
    die "could not install cargo-fuzz"
}

# Where the private server goes. A user that root turns into must be able to enter the place.
server_home() {
  local home=$root/.tools/$1
  mkdir -p "$home"
  if [ "$MAGIC_LINK_SERVER_MODE" = runuser ] && ! runuser -u "$(server_user)" -- test -x "$home"; then
    home=$(outside_home)
    [ -e "$home" ] || mkdir "$home"
    # Anybody may make folders there: one that somebody else made first is not ours to use.
    [ ! -L "$home" ] && [ -O "$home" ] || die "$home belongs to somebody else"
    home=$home/$1
    mkdir -p "$home"
  fi
  printf '%s\n' "$home"
}

# unpack_from_suite NAME SUITE PACKAGE…: another Debian suite's packages in a folder of ours called NAME; sets unpacked to it.
unpack_from_suite() {
  local name=$1 suite=$2
  shift 2
  if ! command -v patchelf >/dev/null; then
    need_apt "patchelf"
    install_packages patchelf
  fi
  unpacked=$(server_home "$name")
  [ -e "$unpacked/.unpacked" ] || say "      unpacking from Debian $suite into ${unpacked#"$root/"}: $*"
  "$root/tools/debian-package" "$suite" "$unpacked" "$@" || exit 1
}

# The server of one major version: the one that is installed, else Debian's own, else the one of a Debian suite that has it.
declare -A suite_of=([15]=bookworm [17]=trixie [18]=forky)
server_of() {
  local major=$1 bin=/usr/lib/postgresql/$1/bin packages
  packages=("postgresql-$major" "postgresql-server-dev-$major")
  supported "$major" || die "PG=$major: magic_link supports PostgreSQL $oldest to $newest"
  if ! is_complete "$bin/pg_config" && apt-cache show "${packages[@]}" >/dev/null 2>&1; then install_packages "${packages[@]}"; fi
  if ! is_complete "$bin/pg_config"; then
    [ -n "${suite_of[$major]:-}" ] || die "PG=$major: no Debian suite has this version; name a server with PG_CONFIG"
    unpack_from_suite "postgresql-$major" "${suite_of[$major]}" "${packages[@]}" "postgresql-client-$major" "postgresql-$major-cron"
    bin=$unpacked$bin
  fi
  wanted=$bin/pg_config
}

# What the tests run beside the server, pgbouncer, and in it, pg_cron, and the locales that they make; sets MAGIC_LINK_PGBOUNCER.
need_companions() {
  local candidate
  MAGIC_LINK_PGBOUNCER=
  # Since 1.21 it knows the protocol's prepared statements where connections are shared.
  for candidate in "$(command -v pgbouncer || true)" /usr/sbin/pgbouncer; do
    [ -x "$candidate" ] && at_least "$("$candidate" --version 2>/dev/null | sed -n 's/^PgBouncer //p')" 1.21 || continue
    MAGIC_LINK_PGBOUNCER=$candidate
    break
  done
  if [ -z "$MAGIC_LINK_PGBOUNCER" ]; then
    # Not installed: the package would start a service.
    unpack_from_suite pgbouncer trixie pgbouncer
    MAGIC_LINK_PGBOUNCER=$unpacked/usr/sbin/pgbouncer
  fi
  export MAGIC_LINK_PGBOUNCER
  # Its sources are for the locales that few machines have; without them those tests are left out, and say so.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -e /usr/share/i18n/locales/tr_TR ]; then install_packages locales; fi
  # Another server than Debian's own has pg_cron or goes without, and the tests say so.
  if [[ $origin == /usr/lib/postgresql/* ]] && ! has_pg_cron "$origin"; then install_packages "postgresql-$major-cron"; fi
}

# Sets MAGIC_LINK_VALGRIND: the one that is installed, else this Debian's, unpacked.
need_valgrind() {
  local suite unpacked
  MAGIC_LINK_VALGRIND=$(command -v valgrind || true)
  if [ -z "$MAGIC_LINK_VALGRIND" ]; then
    need_apt "valgrind"
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    unpack_from_suite valgrind "$suite" valgrind
    MAGIC_LINK_VALGRIND=$unpacked/usr/bin/valgrind
    export VALGRIND_LIB=$unpacked/usr/libexec/valgrind
  fi
  export MAGIC_LINK_VALGRIND
}

has_pg_cron() { [ -f "$("$1" --sharedir)/extension/pg_cron.control" ]; }

# A start as root leaves files that an ordinary user cannot write.
need_writable() {
  local path
  for path in "$@"; do
    [ ! -e "$path" ] || [ -w "$path" ] || die "$path is not yours to write: remove it as the user who made it (make clean)"
  done
}

# Sets: origin (the server as given), server_key, and exports what cargo, pgrx, the harness and PostgreSQL's programs read.
set_up() {
  local wanted=${PG_CONFIG:-} home major packages unpacked
  clean_environment
  MAGIC_LINK_SERVER_MODE=$(server_mode)
  export MAGIC_LINK_SERVER_MODE
  check_rust

  need_writable "$root" "$root/.tools" "$root/.tools/.lock" "$root/target"
  mkdir -p "$root/.tools"
  # Two starts at once would install over each other.
  exec 9>"$root/.tools/.lock"
  flock 9

  if ! command -v cc >/dev/null; then
    need_apt "a C compiler"
    install_packages gcc libc6-dev
  fi
  if [ -z "$wanted" ] && [ -n "${PG:-}" ]; then server_of "$PG"; fi
  if [ -n "$wanted" ]; then
    [ -x "$wanted" ] && [ ! -d "$wanted" ] || die "PG_CONFIG=$wanted is not a program"
    origin=$(real_pg_config "$wanted") || die "PG_CONFIG=$wanted does not answer like PostgreSQL's pg_config"
    major=$(major_of "$origin")
    supported "$major" || die "PG_CONFIG=$wanted is $("$origin" --version); magic_link supports PostgreSQL $oldest to $newest"
    has_server "$origin" || die "PG_CONFIG=$wanted belongs to no server: there is no postgres in $("$origin" --bindir) (on Debian: apt-get install postgresql-$major)"
    has_headers "$origin" || die "PG_CONFIG=$wanted: the server's headers are missing (on Debian: apt-get install postgresql-server-dev-$major)"
  else
    origin=$(newest_server)
    if [ -z "$origin" ]; then
      need_apt "a PostgreSQL server with its headers ($oldest to $newest)"
      mapfile -t packages < <(debian_server_packages)
      install_packages "${packages[@]}"
      origin=$(newest_server)
      [ -n "$origin" ] || die "installed ${packages[*]}, and still found no server with headers"
    fi
    major=$(major_of "$origin")
  fi
  # After the server: its headers bring clang on Debian.
  if ! has_libclang; then
    need_apt "libclang"
    install_packages libclang-dev
  fi
  install_cargo_pgrx "$(pinned_pgrx)"
  # Before the private server, which has what the given one has.
  if [ -n "${companions:-}" ]; then need_companions; fi

  # A name for this very server: another one of the same version has other headers, so it gets another folder for builds.
  server_key=pg$major
  [ "$origin" = "/usr/lib/postgresql/$major/bin/pg_config" ] || server_key+=-$(printf '%s' "$origin" | cksum | cut -d ' ' -f 1)
  pg_feature=pg$major

  need_writable "$root/.tools/$server_key" "$root/target/$server_key" "$root/target/$server_key/debug" "$root/target/$server_key/release"
  home=$(server_home "$server_key")
  "$root/tools/private-server" "$origin" "$home/server" || exit 1
  bindir=$(readlink -f "$home/server/.bin")
  PG_CONFIG=$bindir/pg_config
  PGRX_HOME=$root/.tools/$server_key/pgrx
  CARGO_TARGET_DIR=$root/target/$server_key
  mkdir -p "$PGRX_HOME" "$CARGO_TARGET_DIR"
  # `cargo pgrx init` rewrites its file each time, and that alone rebuilds the bindings.
  if ! grep -qsxF "$pg_feature = \"$PG_CONFIG\"" "$PGRX_HOME/config.toml" || [ "$home/server/.signature" -nt "$PGRX_HOME/config.toml" ]; then
    PGRX_HOME=$PGRX_HOME "$root/.tools/bin/cargo-pgrx" pgrx init "--$pg_feature" "$PG_CONFIG" --no-run >/dev/null ||
      die "cargo pgrx init failed"
  fi
  PATH=$root/.tools/bin:$PATH
  # pgrx's test framework starts cargo-pgrx by itself
  CARGO_PGRX=$root/.tools/bin/cargo-pgrx
  export PG_CONFIG PGRX_HOME CARGO_TARGET_DIR PATH CARGO_PGRX
  flock -u 9
  exec 9>&-
  say "      $("$PG_CONFIG" --version) from ${origin%/*}, $(rustc --version | cut -d ' ' -f 1,2), cargo-pgrx $(pinned_pgrx)"
}

set_up_for_tests() {
  local companions=1
  set_up
}

# install_extension [--release]: the extension as everybody gets it, into the private server. cargo shows what it compiles; the
# rest is worth reading only where it fails.
install_extension() {
  local out
  cd "$root" || return
  cargo build --ignore-rust-version --locked "$@" --lib --no-default-features --features "$pg_feature" &&
    { out=$(PGRX_BUILD_FLAGS=--ignore-rust-version cargo pgrx install "$@" --pg-config "$PG_CONFIG" --no-default-features --features "$pg_feature" 2>&1) ||
      { printf '%s\n' "$out" >&2 && false; }; } &&
    install_releases
}

# The releases before this version, oldest first, of which tests/upgrade/ keeps the script that CREATE EXTENSION ran.
releases() {
  local script release current
  current=$(own_version)
  for script in "$root"/tests/upgrade/magic_link--*.sql; do
    [ -e "$script" ] || continue
    release=${script##*/magic_link--} release=${release%.sql}
    [ "$release" = "$current" ] || printf '%s\n' "$release"
  done | sort -V
}

# What CREATE EXTENSION … VERSION and ALTER EXTENSION … UPDATE find besides: the scripts of those releases, and no other.
# One that an earlier build left behind could open a way that this checkout has not, or close one.
install_releases() {
  local folder script release
  folder=$("$PG_CONFIG" --sharedir)/extension
  for script in "$folder"/magic_link--*.sql; do
    [ "${script##*/}" = "magic_link--$(own_version).sql" ] || [ -e "$root/sql/${script##*/}" ] || rm "$script" || return
  done
  for release in $(releases); do
    install -m 644 "$root/tests/upgrade/magic_link--$release.sql" "$folder/" || return
  done
}
