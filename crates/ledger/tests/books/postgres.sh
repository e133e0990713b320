#!/bin/sh
# A PostgreSQL server for tests, on loopback: prints its address, or `none` where PostgreSQL is not installed, and ends with its standard input. It does not
# run as root: then it runs as `postgres`.
set -eu
binaries=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
initdb=$(command -v initdb || echo "$binaries/initdb")
[ -x "$initdb" ] || { echo none; exit; }
binaries=$(dirname "$(readlink -f "$initdb")")
directory=$(mktemp -d)
as=
if [ "$(id -u)" = 0 ]; then
    chown postgres "$directory"
    as="runuser -u postgres --"
fi
trap '$as "$binaries/pg_ctl" -D "$directory/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$directory"' EXIT
trap 'exit 1' INT TERM HUP
cd "$directory"
$as "$binaries/initdb" -D "$directory/data" -A trust -U farthing --no-sync -E UTF8 --locale C >/dev/null
# Any free port: the server is told one after the other.
tries=0
while :; do
    port=$((20000 + ($$ * 7 + tries * 97) % 40000))
    if $as "$binaries/pg_ctl" -D "$directory/data" -l "$directory/log" -w -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off" start >/dev/null 2>&1; then
        break
    fi
    tries=$((tries + 1))
    [ "$tries" -lt 20 ] || { cat "$directory/log" >&2; exit 1; }
done
echo "postgres://farthing@127.0.0.1:$port"
cat >/dev/null
