"""Cost per operation as things grow: keys, connections, watches. Dipper alone; see `make curve`.

Prints a table, and draws server CPU per operation over each size, each line relative to its own start: flat is 1.
"""

import argparse, math, pathlib, subprocess, sys, time

from cluster import Cluster, wait_idle
from drawing import chart
from large import FLAGS
from rows import PUT, Bench

FLAT = 1.5


def decades(low, high):
    return [10 ** power for power in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def over_keys(options):
    """One member: server CPU of a put and of a get among so many keys."""
    for keys in decades(10_000, options.keys):
        cluster = Cluster(options.dipper, FLAGS, members=1)
        try:
            bench = Bench(options.load, "dipper", cluster, options.seconds)
            bench.fill(keys, 64)
            wait_idle()
            space = ["--key-size", "32", "--key-space-size", str(keys), "--val-size", "64"]
            for what in ("range", "put"):
                result = bench.load(what, "--clients", "100", "--conns", "10", *space)
                yield f"{'get' if what == 'range' else what}, by keys", keys, result
        finally:
            cluster.stop()


def over_connections(options):
    """A hundred clients on one connection, up to a client on each of so many."""
    for connections in decades(1, options.connections):
        cluster = Cluster(options.dipper)
        try:
            bench = Bench(options.load, "dipper", cluster, options.seconds)
            wait_idle()
            clients = ["--clients", str(max(100, connections)), "--conns", str(connections)]
            yield "put, by connections", connections, bench.load("put", *clients, *PUT)
        finally:
            cluster.stop()


def over_watches(options):
    """Puts while so many watches of another key are open."""
    for watches in decades(1, options.watches):
        cluster = Cluster(options.dipper)
        watching = None
        try:
            bench = Bench(options.load, "dipper", cluster, options.seconds)
            arguments = ["bench", "watch", "not-ours", "--watchers", str(watches), "--streams", str(min(100, watches)),
                         "--idle"]
            watching = subprocess.Popen(bench.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True)
            # It says so when every watch is confirmed.
            if "confirmed" not in watching.stdout.readline():
                raise SystemExit(f"{watches} watches could not be opened")
            yield "put, by watches", watches, bench.load("put", "--clients", "100", "--conns", "10", *PUT)
        finally:
            if watching:
                watching.kill()
                watching.wait()
            cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dipper", "load", "svg"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--watches", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    curves = {}
    print("| curve | size | op/s | server CPU, us/op | of the first | errors |", "|---|---|---|---|---|---|", sep="\n")
    failed = False
    for over in (over_keys, over_connections, over_watches):
        for name, size, result in over(options):
            points = curves.setdefault(name, [])
            points.append((size, result["server_cpu_us_per_op"]))
            relative = points[-1][1] / points[0][1]
            failed |= bool(result["errors"])
            print(f"| {name} | {size:,} | {result['ops_per_second']:,.0f} | {points[-1][1]:.1f} | {relative:.2f} | "
                  f"{result['errors'] or ''} |", flush=True)
    drawn = {name: [(size, cost / points[0][1]) for size, cost in points] for name, points in curves.items()}
    pathlib.Path(options.svg).write_text(chart("Server CPU per operation, relative to the smallest size", drawn,
                                               "size", logarithmic=True, mark=FLAT))
    for name, points in drawn.items():
        worst = max(cost for _, cost in points)
        print(f"{name}: {'flat' if worst <= FLAT else 'NOT flat'}, at most {worst:.2f} times the smallest size",
              file=sys.stderr)
    sys.exit(failed)


main()
