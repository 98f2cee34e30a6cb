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

# What tools print goes to a log, one for each command of ours, and is shown only where something fails.
open_log() {
  [ -z "${MAGIC_LINK_LOG:-}" ] || return 0
  mkdir -p "$root/.tools/log"
  MAGIC_LINK_LOG=$root/.tools/log/${0##*/}.log
  exec 7>>"$MAGIC_LINK_LOG"
  # Another run of the same command writes there.
  flock -n 7 || MAGIC_LINK_LOG=$root/.tools/log/${0##*/}.$$.log
  : >"$MAGIC_LINK_LOG"
  export MAGIC_LINK_LOG
}

# quietly WHAT COMMAND…: runs it with its output in the log. On a terminal a line shows how far it is; what took more than five
# seconds leaves its time behind.
quietly() {
  local what=$1 status=0 began=$SECONDS progress='' from
  shift
  from=$(wc -c <"$MAGIC_LINK_LOG")
  printf '== %s\n' "$*" >>"$MAGIC_LINK_LOG"
  if [ -t 1 ]; then
    show_progress "$what" &
    progress=$!
  fi
  "$@" </dev/null >>"$MAGIC_LINK_LOG" 2>&1 || status=$?
  if [ -n "$progress" ]; then
    { kill "$progress" && wait "$progress"; } 2>/dev/null || true
    printf '\r\033[K'
  fi
  if [ "$status" != 0 ]; then
    log_since "$from" | tail -n 60 >&2
    printf '      failed: %s. All that was printed is in %s\n' "$what" "${MAGIC_LINK_LOG#"$root/"}" >&2
  elif [ $((SECONDS - began)) -gt 5 ]; then
    say "      $what: $((SECONDS - began)) s"
  fi
  return "$status"
}

# The log from so many bytes on; what cargo wrote over itself stands line by line.
log_since() { tail -c "+$(($1 + 1))" "$MAGIC_LINK_LOG" | tr '\r' '\n'; }

show_progress() {
  local what=$1 began=$SECONDS turn=0 signs='-\|/'
  while :; do
    sleep 0.2
    turn=$((turn + 1))
    [ $((SECONDS - began)) -gt 1 ] || continue
    printf '\r\033[K      %s: %d s %s' "$what" $((SECONDS - began)) "${signs:turn % 4:1}"
  done
}

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
