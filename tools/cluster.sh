# shellcheck shell=bash
# Throwaway clusters: everything that runs lives below one folder, which is gone at exit with all that ran in it.
# Source it after lib.sh and setup.sh; needs set_up.
# shellcheck disable=SC2154 # what those two set

open_run() {
  local base=/dev/shm old
  # Shared memory saves seconds of disk per cluster, but a container may have 64 MB of it, and a cluster takes about that.
  if [ ! -w "$base" ] || [ "$(df -k --output=avail "$base" | tail -n 1)" -lt 1000000 ]; then base=${TMPDIR:-/tmp}; fi
  # A socket's path may have 107 bytes.
  [ ${#base} -lt 60 ] || base=/tmp
  # What a start that was killed the hard way left behind.
  for old in "$base"/magic_link.??????; do
    [ -O "$old" ] && [ ! -L "$old" ] && [ -f "$old/.owner" ] && ! kill -0 "$(cat "$old/.owner")" 2>/dev/null || continue
    stop_servers "$old"
    rm -rf "$old"
  done
  MAGIC_LINK_RUN_DIR=$(mktemp -d "$base/magic_link.XXXXXX")
  export MAGIC_LINK_RUN_DIR
  trap close_run EXIT
  # Left to itself bash would skip the trap above.
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  echo $$ >"$MAGIC_LINK_RUN_DIR/.owner"
  if [ "$MAGIC_LINK_SERVER_MODE" = runuser ]; then
    chmod 711 "$MAGIC_LINK_RUN_DIR"
    # For the harness, which is then really root: see pgrx-tests/. No folder of ours, since the other user may not enter it.
    MAGIC_LINK_RUN_SERVER_AS="env -C / runuser -u $(server_user) --"
    export MAGIC_LINK_RUN_SERVER_AS
  fi
}

close_run() {
  local status=$?
  trap '' INT TERM HUP
  # What was started beside it does not hear of an interrupt from the terminal.
  stop_cluster
  jobs -p | xargs -r kill 2>/dev/null || true
  stop_servers "$MAGIC_LINK_RUN_DIR"
  rm -rf "$MAGIC_LINK_RUN_DIR"
  exit "$status"
}

# run_folder NAME: a folder below the run's, which the server's user may write to.
run_folder() {
  mkdir -p "$MAGIC_LINK_RUN_DIR/$1"
  if [ "$MAGIC_LINK_SERVER_MODE" = runuser ]; then chown "$(server_user)" "$MAGIC_LINK_RUN_DIR/$1"; fi
  printf '%s\n' "$MAGIC_LINK_RUN_DIR/$1"
}

# The servers of a run, by their process ids. Started by whomever, below the run's folder or with its name in the environment.
servers_of() {
  local run=$1 proc exe owner
  for proc in /proc/[0-9]*; do
    exe=$(readlink "$proc/exe" 2>/dev/null) || continue
    [[ ${exe% (deleted)} == */@(postgres|pgbouncer) ]] || continue
    # Anybody may call a process postgres.
    owner=$(stat -c %U "$proc" 2>/dev/null) || continue
    [ "$owner" = "$(id -un)" ] || [ "$owner" = "$(server_user)" ] || continue
    # A postmaster's command line names its data folder, and it keeps the environment it was started with; its children do neither.
    if { tr '\0' '\n' <"$proc/cmdline" | grep -F "$run/" || tr '\0' '\n' <"$proc/environ" | grep -xF "MAGIC_LINK_RUN_DIR=$run"; } >/dev/null 2>&1; then
      printf '%s\n' "${proc#/proc/}"
    fi
  done
}

# Immediate shutdown: nothing in these clusters is worth a checkpoint. Who started a server removes its folder.
stop_servers() {
  local pid tries
  while read -r pid; do
    kill -QUIT "$pid" 2>/dev/null || continue
    # A dead process may stay in the list until init looks at it, but has no program any more.
    for ((tries = 0; tries < 200; tries++)); do
      [ -n "$(readlink "/proc/$pid/exe" 2>/dev/null)" ] || break
      sleep 0.05
    done
    if [ "$tries" = 200 ]; then kill -KILL "$pid" 2>/dev/null || true; fi
  done < <(servers_of "$1")
}

# start_cluster: a server that listens on a socket only, started and stopped as the tests' servers are; afterwards psql and the
# rest connect to it as its superuser. It ends with us, however we end: then the kernel closes its standard input.
start_cluster() {
  local folder settings
  # Nothing here has to survive a crash of the machine.
  settings="listen_addresses = ''
unix_socket_permissions = 0700
fsync = off
synchronous_commit = off
full_page_writes = off
log_line_prefix = '%m [%p] %q%u@%d '"
  # In a process group of its own, which an interrupt from the terminal does not reach.
  set -m
  coproc SERVER { exec "$root/tools/as-server-user" sh "$root/pgrx-tests/src/server.sh" "$bindir" cluster "$settings" --no-locale; }
  set +m
  read -r folder <&"${SERVER[0]}" || die "the server did not start"
  export PGHOST=$folder PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
}

# stop_cluster: before the end of the run.
stop_cluster() {
  local server=${SERVER_PID:-} input=${SERVER[1]:-}
  [ -n "$input" ] || return 0
  exec {input}>&-
  wait "$server" || true
}

# The #[pg_test]s install an extension with tests in it, and a benchmark a release build, into a server that others here use.
lock_server() {
  exec 8>"$root/.tools/$server_key/.test-lock"
  flock -n 8 || {
    say "      waiting for another run on this server"
    flock 8
  }
}

unlock_server() { flock -u 8; }

# with_servers COMMAND…: runs what starts servers by itself. Where root is seen as somebody else, that is for the whole of it; where
# it is not, the harness looks after it.
with_servers() {
  if [ "$MAGIC_LINK_SERVER_MODE" = userns ]; then "$root/tools/as-server-user" "$@"; else "$@"; fi
}
