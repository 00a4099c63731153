"""Side by side: see .ci/bench. One load program (dipperctl bench) for both systems.

Every round starts from an empty directory. A ratio is only printed when no round had an error, the machine was idle
before each, both systems were seen to sync (at least once per acknowledged put on a majority, one client), and what
they had acknowledged was there after a kill -9 of all members.
"""

import argparse, json, pathlib, re, signal, subprocess, sys

from cluster import Cluster, wait_idle
from report import markdown, svg
from rows import PUT, ROWS, Bench

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
        result = Bench(program, "", cluster, 3).load("put", "--clients", "1", "--conns", "1", *PUT)
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
    """How many of KEYS acknowledged keys are there after every member was killed right behind the load."""
    cluster = Cluster(binary)
    try:
        bench = Bench(program, name, cluster, 2)
        bench.fill(KEYS)
        cluster.kill()
        cluster.start()
        command = [program, "--endpoints", cluster.endpoints, "-w", "fields", "get", "", "--prefix", "--count-only"]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        return int(re.search(r'"Count" : (\d+)', found)[1])
    finally:
        cluster.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dipper", "load", "peer", "results"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=3, help="of each system")
    parser.add_argument("--seconds", type=int, default=6, help="of load in each round")
    parser.add_argument("--rows", help="only these, by name: " + ",".join(row[0] for row in ROWS))
    parser.add_argument("--quick", action="store_true", help="fewer rows, two rounds of 3 s: five minutes")
    parser.add_argument("--svg", help="where the picture goes")
    options = parser.parse_args()
    rows = ROWS
    if options.rows:
        wanted = options.rows.split(",")
        unknown = set(wanted) - {row[0] for row in ROWS}
        if unknown:
            parser.error(f"--rows: there is no {', '.join(sorted(unknown))}")
        rows = [row for row in ROWS if row[0] in wanted]
    elif options.quick:
        rows = [row for row in ROWS if row[4]]
    if options.quick:
        options.rounds, options.seconds = 2, 3
    version = subprocess.run([options.peer, "--version"], stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]
    version = version.replace(" Version:", "")
    systems = {"dipper": options.dipper, "etcd": options.peer}
    problems, results = [], {}
    for name, binary in systems.items():
        counts = syncs_per_put(options.load, binary)
        print(f"{name}: syncs per acknowledged put, by member, 1 client: {counts}", file=sys.stderr)
        if counts[1] < 1:
            problems.append(f"{name} does not sync every acknowledged put on a majority: {counts}")
        kept = kept_after_kill(options.load, name, binary)
        if kept != KEYS:
            problems.append(f"{name} held {kept} of {KEYS} acknowledged keys after all its members were killed")
    order = (["dipper", "etcd", "etcd", "dipper"] * options.rounds)[: 2 * options.rounds]
    with open(options.results, "a") as record:
        for number, (row, what, run, keys, _) in enumerate(rows, 1):
            for name in order:
                share = wait_idle()
                if share >= BUSY_MAX:
                    problems.append(f"the machine was {share:.0%} busy before a round of {row}")
                cluster = Cluster(systems[name])
                try:
                    result = run(Bench(options.load, name, cluster, options.seconds))
                    result.setdefault("rss_mb", cluster.rss_mb())
                except (RuntimeError, subprocess.SubprocessError) as error:
                    problems.append(f"{row} | {name}: {error}")
                    continue
                finally:
                    cluster.stop()
                if result["errors"]:
                    problems.append(f"{row} | {name}: errors {result['errors']}")
                results.setdefault((row, name), []).append(result)
                record.write(json.dumps({"row": row, "system": name, "busy_before": round(share, 3), **result}) + "\n")
                record.flush()
                figures = ", ".join(f"{key} {result[key]:,.1f}" for key in keys)
                print(f"{number}/{len(rows)} {row} | {name}: {figures}", file=sys.stderr)
    print(markdown(results, rows, version, not problems))
    if options.svg:
        pathlib.Path(options.svg).write_text(svg(results, rows, version))
    for problem in problems:
        print(f"no ratios: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


main()
