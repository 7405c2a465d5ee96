#!/bin/sh
# Shows what shmtable does, on a private region, in a few seconds. Called by `make demo`.
set -eu
bin="${TARGET:-target}/release"
name="demo-$$"
export SHMTABLE_NAME="$name"
ready=$(mktemp)
pid=
finish() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; fi
    rm -f "$ready"
}
trap finish EXIT
trap 'exit 130' INT TERM

show() { printf '$ client'; for word in "$@"; do printf ' %s' "$word"; done; printf '\n'; "$bin/client" "$@"; }

echo "\$ server -s 10000 -n 2 &"
"$bin/server" -s 10000 -n 2 --log-level warn >"$ready" &
pid=$!
# The client itself waits for the server: no sleep, no poll loop.
"$bin/client" --wait-for-server 10s ping >/dev/null
cat "$ready"
show insert greeting hello
show read greeting
show bucket greeting
show incr visits 3
show delete greeting
show stats
echo "# One short process: attach, 3,000 operations, every reply checked:"
show 100 10
echo "# 3,000,000 operations, every reply checked:"
show 1000 1000
kill "$pid"; wait "$pid" || true; pid=
if ls /dev/shm 2>/dev/null | grep -q "^$name\."; then echo "error: the region was left behind in /dev/shm" >&2; exit 70; fi
echo "# server stopped, nothing left in /dev/shm"
