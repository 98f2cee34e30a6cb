# shellcheck shell=bash
# What is installed or fetched where it is missing: Debian's packages, programs of other Debian suites, cargo's tools. Source
# it after lib.sh.
# shellcheck disable=SC2154 # what lib.sh and setup.sh set

# What apt is about to install is said beforehand, with the reason. APT=no installs nothing: it names what is missing.
need_packages() { # WHY PACKAGE…
  local why=$1 as_root=()
  shift
  command -v apt-get >/dev/null || die "$why is missing, and this is not Debian: please install it yourself"
  if [ "${APT:-yes}" = no ]; then
    die "$why is missing. With APT=no nothing is installed; this would do it:

  apt-get install --no-install-recommends $*
"
  fi
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "$why is missing, and only root can install it. As root, run:

  $root/tools/install-packages $*
"
    as_root=(sudo)
    # sudo asks for a password here, and not into the log.
    sudo -v || die "$why is missing, and sudo did not let $(id -un) install it"
  fi
  say "      $why is missing: apt-get installs $* (with APT=no it would not)"
  quietly "apt-get install" "${as_root[@]}" "$root/tools/install-packages" "$@" || die "could not install $*"
}

# bindgen loads libclang at run time and needs the headers that come with the compiler.
has_libclang() {
  [ -z "${LIBCLANG_PATH:-}" ] || return 0
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*-linux-gnu/libclang-*.so*' >/dev/null ||
    compgen -G '/usr/lib*/libclang.so*' >/dev/null || return 1
  compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null || compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null
}

# What installs the #[pg_test]s, and one of the two ways to install that tests/install.rs compares.
need_cargo_pgrx() {
  local version
  version=$(pinned_pgrx)
  [ "$("$root/.tools/bin/cargo-pgrx" --version 2>/dev/null | awk '{print $NF}')" != "$version" ] || return 0
  # A debug build takes less than half as long to make and is as quick in use. The default features would need OpenSSL.
  CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 quietly "building cargo-pgrx $version into .tools (about two minutes, once)" \
    cargo install cargo-pgrx --version "$version" --locked --debug --no-default-features --force --ignore-rust-version \
    --root "$root/.tools" || die "could not install cargo-pgrx $version"
}

# The compiler that libFuzzer's instrumentation takes, and what drives it.
need_cargo_fuzz() {
  if ! cargo +nightly --version >/dev/null 2>&1; then
    command -v rustup >/dev/null || die "fuzzing takes a nightly Rust: there is no rustup to install it with"
    quietly "a nightly Rust" rustup toolchain install nightly --profile minimal || die "the nightly Rust could not be installed"
  fi
  [ ! -x "$root/.tools/bin/cargo-fuzz" ] || return 0
  CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 quietly "building cargo-fuzz into .tools (a minute, once)" \
    cargo install cargo-fuzz --version 0.13.2 --locked --debug --root "$root/.tools" ||
    die "could not install cargo-fuzz"
}

# unpack_from_suite NAME SUITE PACKAGE…: another Debian suite's packages in a folder of ours called NAME; sets unpacked to it.
unpack_from_suite() {
  local name=$1 suite=$2
  shift 2
  command -v patchelf >/dev/null || need_packages "patchelf, which points programs at the libraries unpacked with them," patchelf
  unpacked=$(server_home "$name")
  [ -e "$unpacked/.unpacked" ] || [ "${APT:-yes}" != no ] || die "$name of Debian $suite is missing, and APT=no unpacks nothing"
  quietly "unpacking $name of Debian $suite into ${unpacked#"$root/"}" "$root/tools/debian-package" "$suite" "$unpacked" "$@" ||
    exit 1
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
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -e /usr/share/i18n/locales/tr_TR ]; then need_packages "the source of a locale that the tests make" locales; fi
  # Another server than Debian's own has pg_cron or goes without, and the tests say so.
  if [[ $origin == /usr/lib/postgresql/* ]] && ! has_pg_cron "$origin"; then need_packages "pg_cron, for the test of the nightly purge," "postgresql-$major-cron"; fi
}

# Sets MAGIC_LINK_VALGRIND: the one that is installed, else this Debian's, unpacked.
need_valgrind() {
  local suite unpacked
  MAGIC_LINK_VALGRIND=$(command -v valgrind || true)
  if [ -z "$MAGIC_LINK_VALGRIND" ]; then
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    unpack_from_suite valgrind "$suite" valgrind
    MAGIC_LINK_VALGRIND=$unpacked/usr/bin/valgrind
    export VALGRIND_LIB=$unpacked/usr/libexec/valgrind
  fi
  export MAGIC_LINK_VALGRIND
}

has_pg_cron() { [ -f "$("$1" --sharedir)/extension/pg_cron.control" ]; }
