# shellcheck shell=bash
# What every script here shares: how they speak, and where things are. Source it; it starts nothing.
set -euo pipefail
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034 # the PostgreSQL versions that we support, for those who source this
oldest=15 newest=18

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# steps N; step WHAT: "[2/5] WHAT", so that somebody who waits knows how much is left.
step_count=0 step_now=0
steps() { step_count=$1 step_now=0; }
step() { step_now=$((step_now + 1)); printf '[%d/%d] %s\n' "$step_now" "$step_count" "$*"; }

# The versions are written down once, in Cargo.toml.
pinned_pgrx() { sed -n 's/^pgrx = "=\(.*\)"$/\1/p' "$root/Cargo.toml"; }
own_version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml"; }
wanted_rust() { sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml"; }

# at_least A B: version A is B or later.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# PostgreSQL's programs refuse root. Three answers to "who runs the server":
#   self     we are an ordinary user;
#   userns   root, seen by the server as an ordinary user through a user namespace: files stay root's;
#   runuser  root where such namespaces are forbidden (containers, chroots): another user's process. Also where the
#            checkout belongs to somebody else, whose files root may write only outside a namespace.
# MAGIC_LINK_NO_USERNS=1 forces the third.
server_user() { if id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi; }
userns_command() { printf '%s\n' unshare -U --map-user="$(id -u "$1")" --map-group="$(id -g "$1")" --; }
server_mode() {
  if [ "$(id -u)" != 0 ]; then
    echo self
  elif [ -z "${MAGIC_LINK_NO_USERNS:-}" ] && [ -O "$root" ] && mapfile -t ns < <(userns_command "$(server_user)") && "${ns[@]}" true 2>/dev/null; then
    echo userns
  else
    echo runuser
  fi
}

# The place for the private servers where the checkout lies in a folder that the server's user may not enter.
outside_home() { printf '/var/tmp/magic_link-%s\n' "$(printf '%s' "$root" | cksum | cut -d ' ' -f 1)"; }

# The user's own settings for psql and cargo would change what the tests see.
clean_environment() {
  unset PGHOST PGHOSTADDR PGPORT PGUSER PGPASSWORD PGPASSFILE PGDATABASE PGDATA PGOPTIONS PGSERVICE PGSERVICEFILE PGSSLMODE \
    PGAPPNAME PGCLIENTENCODING PGTZ PGDATESTYLE PSQLRC PSQL_PAGER CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS \
    CARGO_BUILD_TARGET_DIR CARGO_BUILD_TARGET RUST_BACKTRACE MAKEFLAGS MFLAGS MAKELEVEL
  # pgrx connects as $USER, which containers and cron leave empty.
  USER=$(id -un)
  # Set, and empty: cargo-pgrx passes flags of its own through a setting that this one overrides, and a build
  # with other flags shares nothing.
  RUSTFLAGS=
  LC_ALL=C.UTF-8 PSQL_PAGER=
  export USER RUSTFLAGS LC_ALL PSQL_PAGER
}
