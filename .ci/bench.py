#!/usr/bin/env python3
"""Side by side: see .ci/bench. One load program (dipperctl bench) for both systems.

Every round starts from an empty directory. A ratio is only printed when no round had an error, the machine was
idle before each, and both systems were seen to sync: at least once per acknowledged put on a majority, one client.
"""

import argparse, json, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time, urllib.request

LOADS = [
    # name, dipperctl arguments, whether 100,000 keys are loaded first
    ("put, 64 clients", ["put", "--clients", "64", "--conns", "16", "--key-size", "32", "--val-size", "256",
                         "--key-space-size", "100000"], False),
    ("put, 1 client", ["put", "--clients", "1", "--conns", "1", "--key-size", "32", "--val-size", "256",
                       "--key-space-size", "100000"], False),
    ("page of 100 in 100,000", ["range", "--clients", "8", "--conns", "8"], True),
]
KEYS = 100_000


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """Three members of one system in a temporary directory; ends only its own processes."""

    def __init__(self, binary):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dipper-bench-"))
        ports = free_ports(6)
        peers = ",".join(f"m{i}=http://127.0.0.1:{ports[i]}" for i in range(3))
        self.endpoints = ",".join(f"127.0.0.1:{port}" for port in ports[3:])
        self.processes = []
        for i in range(3):
            command = [binary, "--name", f"m{i}", "--data-dir", str(self.directory / f"m{i}"),
                       "--listen-peer-urls", f"http://127.0.0.1:{ports[i]}",
                       "--initial-advertise-peer-urls", f"http://127.0.0.1:{ports[i]}",
                       "--listen-client-urls", f"http://127.0.0.1:{ports[i + 3]}",
                       "--advertise-client-urls", f"http://127.0.0.1:{ports[i + 3]}",
                       "--initial-cluster", peers]
            log = open(self.directory / f"m{i}.log", "wb")
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        for port in ports[3:]:
            self.wait_healthy(port)

    def wait_healthy(self, port):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                    if b'"true"' in answer.read():
                        return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"no healthy member on port {port} after 20 s: see {self.directory}")

    def pids(self):
        return [process.pid for process in self.processes]

    def rss_mb(self):
        total = 0
        for pid in self.pids():
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            total += int(re.search(r"VmHWM:\s+(\d+)", status)[1])
        return round(total / 1024)

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def load(program, cluster, arguments, seconds):
    command = [program, "--endpoints", cluster.endpoints, "-w", "json", "bench", *arguments,
               "--seconds", str(seconds), "--server-pids", ",".join(map(str, cluster.pids()))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the load failed: {done.stderr[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def fill(program, cluster):
    """100,000 keys bench-... of 256 B values, in order."""
    arguments = ["put", "--clients", "64", "--conns", "16", "--key-size", "32", "--val-size", "256",
                 "--key-space-size", str(KEYS), "--sequential-keys", "--total", str(KEYS)]
    command = [program, "--endpoints", cluster.endpoints, "-w", "json", "bench", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def busy():
    """The share of the machine that is busy, over one second."""
    def read():
        fields = [int(x) for x in open("/proc/stat").readline().split()[1:]]
        return sum(fields), fields[3] + fields[4]
    total, idle = read()
    time.sleep(1)
    total2, idle2 = read()
    return 1 - (idle2 - idle) / max(1, total2 - total)


def wait_idle():
    for _ in range(60):
        share = busy()
        if share < 0.10:
            return share
    return share


def syncs_per_put(program, binary):
    """fdatasync and fsync calls per acknowledged put, by member, with one client."""
    cluster = Cluster(binary)
    try:
        traces = []
        for i, pid in enumerate(cluster.pids()):
            out = cluster.directory / f"trace{i}"
            traces.append((out, subprocess.Popen(["strace", "-f", "-c", "-e", "trace=fdatasync,fsync", "-o", str(out),
                                                  "-p", str(pid)], stderr=subprocess.DEVNULL)))
        time.sleep(1)
        result = load(program, cluster, LOADS[1][1], 3)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("dipper", "load", "peer", "results"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    version = subprocess.run([options.peer, "--version"], stdout=subprocess.PIPE, text=True).stdout.splitlines()[0]
    systems = {"dipper": options.dipper, "etcd": options.peer}
    problems, rows = [], {}
    for name, binary in systems.items():
        counts = syncs_per_put(options.load, binary)
        print(f"{name}: syncs per acknowledged put, by member, 1 client: {counts}", file=sys.stderr)
        if counts[1] < 1:
            problems.append(f"{name} does not sync every acknowledged put on a majority: {counts}")
    order = (["dipper", "etcd", "etcd", "dipper"] * options.rounds)[: 2 * options.rounds]
    with open(options.results, "a") as results:
        for load_name, arguments, needs_keys in LOADS:
            for name in order:
                share = wait_idle()
                if share >= 0.10:
                    problems.append(f"the machine was {share:.0%} busy before a round of {load_name}")
                cluster = Cluster(systems[name])
                try:
                    extra = []
                    if needs_keys:
                        fill(options.load, cluster)
                        extra = ["--limit", "100", "!", "~"]
                    result = load(options.load, cluster, arguments + extra, options.seconds)
                    result.update(system=name, load=load_name, rss_mb=cluster.rss_mb(), busy_before=round(share, 3))
                finally:
                    cluster.stop()
                if result["errors"]:
                    problems.append(f"{name}: errors {result['errors']} in {load_name}")
                rows.setdefault((load_name, name), []).append(result)
                results.write(json.dumps(result) + "\n")
                print(f"{load_name} | {name}: {result['ops_per_second']:.0f} op/s, {result['server_cpu_us_per_op']:.1f} us/op", file=sys.stderr)
    table(rows, version, problems)


def table(rows, version, problems):
    median = lambda key, load_name, name: statistics.median(row[key] for row in rows[(load_name, name)])
    print(f"\n| load | measure | Dipper | {version.replace(' Version:', '')} | ratio |\n|---|---|---|---|---|")
    for load_name, _, _ in LOADS:
        for measure, key, better in (("op/s", "ops_per_second", "more"), ("p50, us", "p50_us", "less"), ("p99, us", "p99_us", "less"),
                                     ("server CPU, us/op", "server_cpu_us_per_op", "less"), ("client CPU, us/op", "client_cpu_us_per_op", ""),
                                     ("RSS of three, MB", "rss_mb", "less")):
            ours, theirs = median(key, load_name, "dipper"), median(key, load_name, "etcd")
            ratio = "" if problems or not better or not ours or not theirs else \
                f"{(ours / theirs if better == 'more' else theirs / ours):.1f}x"
            print(f"| {load_name} | {measure} | {ours:,.2f} | {theirs:,.2f} | {ratio} |")
    for problem in problems:
        print(f"no ratios: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


main()
