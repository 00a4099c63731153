#!/usr/bin/env bash
# Kills the leader of a cluster, Dipper's or etcd's, and only that process; prints how long the others had no leader.
#
#   kill-leader.sh --endpoints A,B,C --pids P,Q,R [--signal KILL] [--times 1] [--every 10]
#
# Endpoint and pid at the same place belong together; whoever restarts members is up to you, and gives the new pids.
#
# Example: three members on loopback, the second one leads
#   kill-leader.sh --endpoints 127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 --pids 4001,4002,4003
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "kill-leader.sh: $*" >&2; exit 1; }

endpoints="" pids="" signal=KILL times=1 every=10
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --endpoints) endpoints=$2; shift 2 ;;
        --pids) pids=$2; shift 2 ;;
        --signal) signal=$2; shift 2 ;;
        --times) times=$2; shift 2 ;;
        --every) every=$2; shift 2 ;;
        *) fail "unknown: $1 (try --help)" ;;
    esac
done
[ -n "$endpoints" ] && [ -n "$pids" ] || { usage >&2; exit 1; }
IFS=, read -r -a endpoint <<<"$endpoints"
IFS=, read -r -a pid <<<"$pids"
[ ${#endpoint[@]} = ${#pid[@]} ] || fail "as many pids as endpoints, please"
[ "$times" -le 1000 ] || fail "1000 times are enough"
command -v etcdctl >/dev/null || fail "etcdctl is not installed"
export ETCDCTL_API=3

# The place of the leader, or nothing.
leader() {
    local i status
    for i in "${!endpoint[@]}"; do
        status=$(etcdctl --endpoints "${endpoint[i]}" --dial-timeout 300ms --command-timeout 500ms endpoint status 2>/dev/null) || continue
        [ "$(cut -d, -f5 <<<"$status" | tr -d ' ')" = true ] && { echo "$i"; return; }
    done
    return 0
}
await_leader() { # prints its place
    local found
    for _ in $(seq 300); do
        found=$(leader)
        [ -z "$found" ] || { echo "$found"; return; }
        sleep 0.02
    done
    fail "no leader"
}

for round in $(seq "$times"); do
    who=$(await_leader)
    kill -0 "${pid[who]}" 2>/dev/null || fail "${endpoint[who]} leads, but its process ${pid[who]} is not there"
    began=$(date +%s%N)
    kill -s "$signal" "${pid[who]}"
    echo "SIG$signal to the leader ${endpoint[who]}, process ${pid[who]}"
    for _ in $(seq 500); do
        next=$(leader)
        [ -n "$next" ] && [ "$next" != "$who" ] && break
        sleep 0.01
    done
    [ -n "${next:-}" ] && [ "$next" != "$who" ] || fail "nobody else leads after 5 s"
    echo "${endpoint[next]} leads $((($(date +%s%N) - began) / 1000000)) ms later (asking takes some of it)"
    [ "$round" = "$times" ] || sleep "$every"
done
