# Keeps one throwaway cluster for as long as somebody holds our standard input open, then stops it
# and takes its folder away. However the tests end (they pass, panic, are interrupted or killed
# outright), the kernel closes their end of the pipe, and the read below returns.
#
# usage: sh -c "$(cat keeper.sh)" keeper BINDIR SETTINGS
# Answers one line on standard output when the cluster accepts connections: its folder.
set -eu
bin=$1
settings=$2

# Nobody may be left to read what we say, and that must not keep us from cleaning up.
trap '' PIPE

# A memory file system saves seconds, but a container's may have room for nothing.
parent=${TMPDIR:-/tmp}
if [ -w /dev/shm ] && [ "$(df -Pk /dev/shm | awk 'NR == 2 { print $4 }')" -gt 1000000 ]; then
    parent=/dev/shm
fi
# The address of a unix socket has room for some 100 bytes.
[ "${#parent}" -le 60 ] || parent=/tmp
folder=$(mktemp -d "$parent/magic_link.XXXXXX")

finish() {
    trap - EXIT
    "$bin/pg_ctl" stop --pgdata="$folder/data" --mode=immediate >/dev/null 2>&1 || :
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

step() {
    "$@" >"$folder/step" 2>&1 </dev/null || {
        cat "$folder/step" >&2
        [ ! -e "$folder/log" ] || cat "$folder/log" >&2
        exit 1
    }
}
cd "$folder"
step "$bin/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --no-sync \
    --encoding=UTF8 --locale=C.UTF-8
printf "unix_socket_directories = '%s'\n%s\n" "$folder" "$settings" >>"$folder/data/postgresql.conf"
step "$bin/pg_ctl" start --wait --pgdata="$folder/data" --log="$folder/log"

echo "$folder"
read -r _ || :
