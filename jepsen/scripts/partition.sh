#!/usr/bin/env bash
# Drops packets that arrive in a network namespace from some addresses, for a while; counts them, and heals.
#
#   partition.sh --namespace NAME --from IP[,IP...] [--seconds 5] [--loss PERCENT] [--both]
#
#   one direction   NAME does not hear the addresses: a deaf member. For a mute one give the others' namespaces.
#   --both          it cannot answer them either
#   --loss 30       only that share is lost
#
# Only in the named namespace (`ip netns`), never in the machine's own.
#
# Example: member m0 is cut off from m1 and m2 for ten seconds
#   partition.sh --namespace m0 --from 10.99.0.2,10.99.0.3 --both --seconds 10
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "partition.sh: $*" >&2; exit 1; }

namespace="" from="" seconds=5 loss="" both=""
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --namespace) namespace=$2; shift 2 ;;
        --from) from=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --loss) loss=$2; shift 2 ;;
        --both) both=yes; shift ;;
        *) fail "unknown: $1 (try --help)" ;;
    esac
done
[ -n "$namespace" ] && [ -n "$from" ] || { usage >&2; exit 1; }
[ "${seconds%.*}" -le 3600 ] || fail "an hour is enough"
[ -e "/run/netns/$namespace" ] || fail "there is no network namespace $namespace"
command -v nft >/dev/null || fail "nft is not installed"

table=cut_$$
share=${loss:+numgen random mod 100 < $loss}
heal() { ip netns exec "$namespace" nft delete table inet "$table" 2>/dev/null || true; }
trap heal EXIT
trap 'exit 130' INT TERM
rules="table inet $table {
    chain in { type filter hook input priority 0; ip saddr { $from } $share counter drop; }"
[ -z "$both" ] || rules+="
    chain out { type filter hook output priority 0; ip daddr { $from } $share counter drop; }"
ip netns exec "$namespace" nft -f - <<<"$rules
}"
echo "$namespace does not hear $from${loss:+, $loss % of it}${both:+, nor do they hear it}"
sleep "$seconds" &
wait $!
dropped=$(ip netns exec "$namespace" nft list table inet "$table" |
    awk '/counter packets/ { for (i = 1; i < NF; i++) if ($i == "packets") n += $(i + 1) } END { print n + 0 }')
heal
echo "healed; $dropped packets were dropped"
[ "$dropped" -gt 0 ] || fail "no effect: nothing was dropped"
