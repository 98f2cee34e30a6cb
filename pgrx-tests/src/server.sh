# Runs one throwaway server for as long as somebody holds our standard input open, then stops it
# and removes its folder. However the tests end (they pass, panic, are interrupted or killed
# outright), the kernel closes their end of the pipe, and the read below returns.
#
# usage: sh server.sh BINDIR KIND ARGUMENT...
#   cluster SETTINGS OPTION...            a PostgreSQL cluster, made with these options of initdb
#   standby FOLDER                        a hot standby of the cluster that listens in FOLDER
#   pooler PROGRAM SETTINGS ROLES         a pgbouncer; ROLES is its list of users
# Answers one line on standard output when the server accepts connections: its folder. Then it runs each line that it is
# given, and answers a line with its exit status; what it said is in FOLDER/step.
set -eu
bin=$1
kind=$2
shift 2

# Nobody may be left to read what we say, and that must not keep us from cleaning up.
trap '' PIPE

# A memory file system saves seconds, but a container's may hold nothing.
parent=${TMPDIR:-/tmp}
if [ -w /dev/shm ] && [ "$(df -Pk /dev/shm | awk 'NR == 2 { print $4 }')" -gt 1000000 ]; then
    parent=/dev/shm
fi
# Unless somebody wants to see the disk at work.
parent=${MAGIC_LINK_CLUSTER_PARENT:-$parent}
# The address of a unix socket holds some 100 bytes.
[ "${#parent}" -le 60 ] || parent=/tmp
folder=$(mktemp -d "$parent/magic_link.XXXXXX")

stop_cluster() { "$bin/pg_ctl" stop --pgdata="$folder/data" --mode=immediate; }
stop_standby() { stop_cluster; }
# It ends at once, and the wait returns when it has.
stop_pooler() { kill -QUIT "$pooler" && wait "$pooler"; }

finish() {
    trap - EXIT
    "stop_$kind" >/dev/null 2>&1 || :
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

give_up() {
    cat "$folder/step" >&2
    [ ! -e "$folder/log" ] || cat "$folder/log" >&2
    exit 1
}
step() { "$@" >"$folder/step" 2>&1 </dev/null || give_up; }

start() {
    printf "unix_socket_directories = '%s'\n%s\n" "$folder" "$1" >>"$folder/data/postgresql.conf"
    step "$bin/pg_ctl" start --wait --pgdata="$folder/data" --log="$folder/log"
}

start_cluster() {
    settings=$1
    shift
    step "$bin/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --no-sync \
        --encoding=UTF8 --locale=C.UTF-8 "$@"
    start "$settings"
}

# Its settings come along with the data; the folder of its socket, which comes last, wins.
start_standby() {
    step "$bin/pg_basebackup" --pgdata="$folder/data" --host="$1" --port=5432 --username=postgres \
        --no-sync --checkpoint=fast --write-recovery-conf
    start ''
}

start_pooler() {
    printf '%s\nunix_socket_dir = %s\nauth_file = %s\n' "$2" "$folder" "$folder/roles" >"$folder/settings"
    printf '%s\n' "$3" >"$folder/roles"
    "$1" "$folder/settings" >"$folder/log" 2>&1 </dev/null &
    pooler=$!
    : >"$folder/step"
    until "$bin/pg_isready" --host="$folder" --port=5432 --quiet; do
        kill -0 "$pooler" 2>/dev/null || give_up
        sleep 0.02
    done
}

cd "$folder"
"start_$kind" "$@"

echo "$folder"
while read -r line; do
    status=0
    PATH=$bin:$PATH sh -c "$line" >"$folder/step" 2>&1 </dev/null || status=$?
    echo "$status"
done
