"""Prints two tools' figures of one server side by side.

usage: side_by_side.py OURS/report.json aiperf|guidellm THEIRS.json
"""

import json
import sys

ours_path, tool, theirs_path = sys.argv[1:]
ours = json.load(open(ours_path, encoding="utf-8"))
theirs = json.load(open(theirs_path, encoding="utf-8"))


def aiperf(metric, figure):
    return theirs[metric][{"mean": "avg"}.get(figure, figure)]


def guidellm(metric, figure):
    found = theirs["benchmarks"][0]["metrics"][metric + "_ms"]["successful"]
    return found["mean"] if figure == "mean" else found["percentiles"][figure]


def requests():
    if tool == "aiperf":
        failed = theirs.get("error_request_count", {"avg": 0})["avg"]
        return theirs["request_count"]["avg"], failed
    totals = theirs["benchmarks"][0]["metrics"]["request_totals"]
    return totals["successful"], totals["errored"] + totals["incomplete"]


their_figure = {"aiperf": aiperf, "guidellm": guidellm}[tool]
summary = ours["summary"]
done, failed = requests()
print(f"requests     weighbridge {summary['requests']['ok']} ok, {tool} {done:.0f} ok")
print(f"{'ms':12} {'weighbridge':>12} {tool:>12} {'difference':>12}")
# Both call the mean gap of one request its inter-token latency, which is our TPOT.
for name, our_metric, their_metric in [
    ("TTFT", "ttft_s", "time_to_first_token"),
    ("ITL", "tpot_s", "inter_token_latency"),
]:
    for figure in ["mean", "p50", "p90"]:
        one = summary[our_metric][figure]
        one = one["value"] if isinstance(one, dict) else one
        if one is None:
            continue
        one, other = 1e3 * one, their_figure(their_metric, figure)
        print(f"{name + ' ' + figure:12} {one:12.2f} {other:12.2f} {other - one:+12.2f}")
if failed:
    sys.exit(f"{tool}: {failed} requests failed")
