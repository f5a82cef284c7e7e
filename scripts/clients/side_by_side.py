"""Prints two tools' figures of one server side by side, with the noise of each, and ends with 1 where
they do not agree within it.

usage: side_by_side.py ROUNDS OURS TOOL THEIRS

OURS and THEIRS are paths in which % stands for the number of a round. The noise of a figure is the
largest difference between two rounds of the same tool; the figures of two tools agree where their
medians over the rounds do not differ by more.
"""

import json
import statistics
import sys

rounds, ours_path, tool, theirs_path = sys.argv[1:]
numbers = [str(number) for number in range(1, int(rounds) + 1)]


def read(path):
    return [json.load(open(path.replace("%", number), encoding="utf-8")) for number in numbers]


ours, theirs = read(ours_path), read(theirs_path)


def our_figure(run, metric, figure):
    found = run["summary"][metric][figure]
    return 1e3 * (found["value"] if isinstance(found, dict) else found)


def aiperf(run, metric, figure):
    return run[metric][{"mean": "avg"}.get(figure, figure)]


def guidellm(run, metric, figure):
    found = run["benchmarks"][0]["metrics"][metric + "_ms"]["successful"]
    return found["mean"] if figure == "mean" else found["percentiles"][figure]


def requests(run):
    if tool == "aiperf":
        failed = run.get("error_request_count", {"avg": 0})["avg"]
        return run["request_count"]["avg"], failed
    totals = run["benchmarks"][0]["metrics"]["request_totals"]
    return totals["successful"], totals["errored"] + totals["incomplete"]


def spread(values):
    return max(values) - min(values)


their_figure = {"aiperf": aiperf, "guidellm": guidellm}[tool]
done = [sum(counts) for counts in zip(*map(requests, theirs))]
ours_done = sum(run["summary"]["requests"]["ok"] for run in ours)
ours_failed = sum(run["summary"]["requests"]["failed"] for run in ours)
print(f"{rounds} rounds; requests: weighbridge {ours_done} ok, {ours_failed} failed; ", end="")
print(f"{tool} {done[0]:.0f} ok, {done[1]:.0f} failed")
print(f"{'ms':12} {'weighbridge':>12} {tool:>12} {'difference':>12} {'noise':>12}")
apart = []
# Both call the mean gap of one request its inter-token latency, which is our TPOT.
for name, our_metric, their_metric in [
    ("TTFT", "ttft_s", "time_to_first_token"),
    ("ITL", "tpot_s", "inter_token_latency"),
]:
    for figure in ["mean", "p50"]:
        one = [our_figure(run, our_metric, figure) for run in ours]
        other = [their_figure(run, their_metric, figure) for run in theirs]
        noise = max(spread(one), spread(other))
        medians = statistics.median(one), statistics.median(other)
        difference = medians[1] - medians[0]
        agrees = abs(difference) <= noise
        print(
            f"{name + ' ' + figure:12} {medians[0]:12.2f} {medians[1]:12.2f} {difference:+12.2f} "
            f"{noise:12.2f}  {'agree' if agrees else 'DIFFER'}"
        )
        if not agrees:
            apart.append(f"{name} {figure}")
if done[1] or ours_failed:
    sys.exit("requests failed")
if apart:
    sys.exit(f"{', '.join(apart)}: the tools differ by more than their own noise")
