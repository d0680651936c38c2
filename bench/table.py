"""Makes the table of bench/compare: medians of the runs, and ratios to nchan and the bare server, or to an earlier revision."""
import json
import platform
import statistics
import sys

rows = {}
for line in open(sys.argv[1]):
    case, server, text, fsync = line.rstrip("\n").split("|", 3)
    report = json.loads(text)
    if report:
        report["fsync"] = json.loads(fsync or "{}")
        rows.setdefault(case, {}).setdefault(server, []).append(report)


def figures(r):
    took = max(r["took"], 1) / 1e9
    streams, deliveries = max(r["streams"], 1), max(r["deliveries"], 1)
    return {
        "opened/s": r["streams"] / max(r["openedIn"] / 1e9, 1e-9),
        "KB/stream": r["memoryBytes"] / 1000 / streams,
        "publishes/s": r["publishes"] / took,
        "deliveries/s": r["deliveries"] / took,
        "µs CPU/delivery": r["cpu"] / 1000 / deliveries,
        "ack p50 ms": r["ack"]["p50"] / 1e6,
        "delivered p50 ms": r["delay"]["p50"] / 1e6,
        "delivered p99 ms": r["delay"]["p99"] / 1e6,
        "kernel KB/dead": r.get("kernelBytes", 0) / 1000 / max(r.get("dead", 0), 1),
        "fsync p50 ms": r.get("fsync", {}).get("p50", 0) / 1e6,
        "fsync p99 ms": r.get("fsync", {}).get("p99", 0) / 1e6,
    }


def show(v):
    if v != v or v == 0:
        return "–"
    return f"{v:,.0f}" if v >= 100 else f"{v:.2f}"


def columns(case):
    names = list(figures({"took": 1, "streams": 1, "deliveries": 1, "openedIn": 1, "memoryBytes": 1, "publishes": 1, "cpu": 1,
                          "ack": {"p50": 1}, "delay": {"p50": 1, "p99": 1}}))
    if case.startswith("idle"):
        return names[:2]
    if case.startswith("resume"):
        return ["deliveries/s", "µs CPU/delivery"]
    if "dead" in case:
        return [n for n in names[3:9]]
    return [*names[2:8], *(names[9:] if case.startswith("steady") else [])]


before = sys.argv[3] if len(sys.argv) > 3 else ""
beside = f"before, {before}" if before else "beside nchan and a bare server"
print(f"# Fanfare {beside}\n\n`bench/compare`, medians of {sys.argv[2]} runs by turns, on {platform.machine()}, "
      "Linux " + platform.release().split("-")[0] + ".\nEach server on one processor, the generator on another; Fanfare durable (`sync`), nchan in memory only. "
      "Read them as ratios.\n")
for case, servers in rows.items():
    names = columns(case)
    medians = {s: {n: statistics.median(figures(r)[n] for r in reports) for n in names} for s, reports in servers.items()}
    print(f"## {case}\n\n| | " + " | ".join(names) + " |\n|---" * 1 + "|---" * len(names) + "|")
    for server, m in medians.items():
        print(f"| {server} | " + " | ".join(show(m[n]) for n in names) + " |")
    shared = rows.get("resume, 2,000 streams x 200 events", {}).get("nchan")
    if "own channels x" in case and shared:
        nchan = statistics.median(figures(r)["deliveries/s"] for r in shared)
        print(f"| fanfare : nchan, one shared channel, no restart | {medians['fanfare']['deliveries/s'] / nchan:.2f} × | |")
    for other in ("nchan", "bare", "before"):
        if other in medians and "fanfare" in medians:
            ratios = [medians["fanfare"][n] / medians[other][n] if medians[other][n] else float("nan") for n in names]
            print(f"| fanfare : {other} | " + " | ".join("–" if r != r else f"{r:.2f} ×" for r in ratios) + " |")
    print()
