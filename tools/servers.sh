# shellcheck shell=bash
# PostgreSQL servers: which ones there are, and which one is taken. Source it after packages.sh.
# shellcheck disable=SC2154,SC2034 # what the others set, and what is set for them

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

# The server of one major version: the one that is installed, else Debian's own, else the one of a Debian suite that has it.
declare -A suite_of=([15]=bookworm [17]=trixie [18]=forky)
server_of() {
  local major=$1 bin=/usr/lib/postgresql/$1/bin packages
  packages=("postgresql-$major" "postgresql-server-dev-$major")
  supported "$major" || die "PG=$major: magic_link supports PostgreSQL $oldest to $newest"
  if ! is_complete "$bin/pg_config" && apt-cache show "${packages[@]}" >/dev/null 2>&1; then need_packages "the server that PG=$major asks for" "${packages[@]}"; fi
  if ! is_complete "$bin/pg_config"; then
    [ -n "${suite_of[$major]:-}" ] || die "PG=$major: no Debian suite has this version; name a server with PG_CONFIG"
    unpack_from_suite "postgresql-$major" "${suite_of[$major]}" "${packages[@]}" "postgresql-client-$major" "postgresql-$major-cron"
    bin=$unpacked$bin
  fi
  wanted=$bin/pg_config
}

# Sets origin, the pg_config of the server to take, and major.
find_server() {
  local wanted=${PG_CONFIG:-} packages unpacked
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
      mapfile -t packages < <(debian_server_packages)
      need_packages "a PostgreSQL server with its headers ($oldest to $newest)" "${packages[@]}"
      origin=$(newest_server)
      [ -n "$origin" ] || die "installed ${packages[*]}, and still found no server with headers"
    fi
    major=$(major_of "$origin")
  fi
}
