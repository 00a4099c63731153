"""Side by side: see .ci/bench. One load program (dipperctl bench) for both systems.

Every round starts from an empty directory. No ratio is printed at all unless both systems were seen to sync (at least
once per acknowledged put on a majority, one client), and what they had acknowledged was there after a kill -9 of all
members; none of a row that had an error, or a round that did not begin on an idle machine.
"""

import argparse, json, pathlib, signal, subprocess, sys, time

from cluster import Cluster, Null, disk_syncs_per_second, wait_idle
from report import markdown, svg
from rows import PUT, ROWS, Bench
import large

BUSY_MAX = 0.10
KEYS = 20_000


def syncs_per_put(program, binary):
    """fdatasync and fsync calls per acknowledged put, by member, with one client."""
    cluster = Cluster(binary)
    try:
        traces = []
        for i, pid in enumerate(cluster.pids()):
            out = cluster.directory / f"trace{i}"
            traces.append((out, subprocess.Popen(["strace", "-f", "-c", "-e", "trace=fdatasync,fsync", "-o", str(out),
                                                  "-p", str(pid)], stderr=subprocess.DEVNULL)))
        wait_idle()
        result = Bench(program, "", cluster, 3).ctl("bench", "put", "--clients", "1", "--conns", "1", "--seconds", "3",
                                                    *PUT)
        for _, trace in traces:
            trace.send_signal(signal.SIGINT)
            trace.wait()
        counts = []
        for out, _ in traces:
            calls = 0
            for line in out.read_text().splitlines():
                fields = line.split()
                if fields and fields[-1] in ("fdatasync", "fsync"):
                    calls += int(fields[3])
            counts.append(round(calls / max(1, result["operations"]), 2))
        return sorted(counts, reverse=True)
    finally:
        cluster.stop()


def kept_after_kill(program, name, binary):
    """How many of KEYS acknowledged keys each member holds after all were killed right behind the load."""
    cluster = Cluster(binary)
    try:
        bench = Bench(program, name, cluster, 2)
        bench.fill(KEYS)
        cluster.kill()
        cluster.start()
        return [bench.count(endpoint) for endpoint in cluster.endpoints.split(",")]
    finally:
        cluster.stop()


def trust(options, systems):
    """Why no ratio can be trusted, if so."""
    problems = []
    for name, binary in systems.items():
        counts = syncs_per_put(options.load, binary)
        print(f"{name}: syncs per acknowledged put, by member, 1 client: {counts}", file=sys.stderr)
        if counts[1] < 1:
            problems.append(f"{name} does not sync every acknowledged put on a majority: {counts}")
        kept = kept_after_kill(options.load, name, binary)
        print(f"{name}: of {KEYS} acknowledged keys, members hold after a kill -9 of all: {kept}", file=sys.stderr)
        # etcd 3.5.0 to 3.5.2 lose writes on a member that is killed under load (etcd #13766): the write was durable
        # on a majority all the same. Of ours every member must have everything.
        if sorted(kept)[0 if name == "dipper" else 1] != KEYS:
            problems.append(f"{name}'s members held {kept} of {KEYS} acknowledged keys after all were killed")
    return problems


def measure(options, row, name, binary):
    """One round: the result, and what speaks against it."""
    cluster = Null(binary) if name == "limit" else Cluster(binary, options.flags, options.members)
    try:
        # What a start brings with it is over then, too.
        share = wait_idle()
        problems = [f"the machine was {share:.0%} busy before a round"] if share >= BUSY_MAX else []
        result = row.run(Bench(options.load, name, cluster, options.seconds))
        if name != "limit":
            result.setdefault("rss_mb", cluster.rss_mb())
    except (RuntimeError, subprocess.SubprocessError) as error:
        return None, [f"{name}: {error}"]
    finally:
        cluster.stop()
    if result["errors"]:
        problems.append(f"{name}: errors {result['errors']}")
    return {"busy_before": round(share, 3), **result}, problems


def arguments():
    parser = argparse.ArgumentParser(prog="make bench BENCH=..", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dipper", "load", "peer", "null", "results"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="of each system")
    parser.add_argument("--seconds", type=int, default=5, help="of load in each round")
    parser.add_argument("--rows", help="only these, by name: " + ", ".join(row.name for row in ROWS))
    parser.add_argument("--quick", action="store_true", help="fewer rows, two rounds of 3 s: five minutes")
    parser.add_argument("--large", type=float, metavar="GB", help="the large rows, on one member, with so much data")
    parser.add_argument("--svg", help="where the picture goes")
    options = parser.parse_args()
    rows = large.rows(options.large) if options.large else ROWS
    if options.rows:
        wanted = options.rows.split(",")
        unknown = set(wanted) - {row.name for row in rows}
        if unknown:
            parser.error(f"--rows: there is no {', '.join(sorted(unknown))}")
        rows = [row for row in rows if row.name in wanted]
    elif options.quick:
        rows = [row for row in rows if row.quick]
    if options.quick:
        options.rounds, options.seconds = 2, 3
    options.members, options.flags = 3, ()
    if options.large:
        options.rounds, options.members, options.flags = 1, 1, large.FLAGS
    return options, rows


def main():
    options, rows = arguments()
    version = subprocess.run([options.peer, "--version"], stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]
    version = version.replace(" Version:", "")
    systems = {"dipper": options.dipper, "etcd": options.peer}
    print(f"the disk: {disk_syncs_per_second('.'):,.0f} appends of 4 KiB and fdatasync a second, one after another",
          file=sys.stderr)
    general, problems, results = trust(options, systems), {}, {}
    began = time.monotonic()
    with open(options.results, "a") as record:
        for number, row in enumerate(rows, 1):
            rounds = min(options.rounds, row.rounds)
            order = (["dipper", "etcd", "etcd", "dipper"] * rounds)[: 2 * rounds] + ["limit"] * row.limit
            for name in order:
                result, found = measure(options, row, name, systems.get(name, options.null))
                if found:
                    problems.setdefault(row.name, []).extend(found)
                if not result:
                    continue
                results.setdefault((row.name, name), []).append(result)
                record.write(json.dumps({"row": row.name, "system": name, **result}) + "\n")
                record.flush()
                figures = ", ".join(f"{key} {result[key]:,.1f}" for key in row.targets if key in result)
                minutes = (time.monotonic() - began) / 60
                print(f"{number}/{len(rows)} {minutes:4.1f} min  {row.name} | {name}: {figures}", file=sys.stderr)
    unsound = {row.name for row in rows} if general else set(problems)
    print(markdown(results, rows, version, unsound))
    if options.svg:
        pathlib.Path(options.svg).write_text(svg(results, rows, version, unsound))
    for problem in general:
        print(f"no ratios: {problem}", file=sys.stderr)
    for name, found in problems.items():
        for problem in found:
            print(f"no ratios of {name}: {problem}", file=sys.stderr)
    # What etcd does wrong costs its row the ratio, and is not our failure.
    ours = [problem for found in problems.values() for problem in found if not problem.startswith("etcd: ")]
    sys.exit(1 if general or ours else 0)


main()
