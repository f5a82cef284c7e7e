"""Prints two tools' figures of one server side by side. Ends with 1 where they differ by more than the
noise, or where the noise is too large to tell.

usage: side_by_side.py ROUNDS OURS TOOL THEIRS

OURS and THEIRS are paths in which % stands for the number of a round; in a round the tools measure one
after the other. Shown are the mean difference within a round and its 95 % interval over the rounds.
The tools agree where that holds zero.
"""

import json
import statistics
import sys

# Of Student's distribution, two-sided 95 %, by degrees of freedom.
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
# An interval wider than so much of the figure says nothing.
WIDEST_SHARE = 0.2

rounds, ours_path, tool, theirs_path = sys.argv[1:]
if not 2 <= int(rounds) <= 10:
    sys.exit(f"ROUNDS is {rounds}; accepted is 2 to 10")
numbers = [str(number) for number in range(1, int(rounds) + 1)]


def read(path):
    return [json.load(open(path.replace("%", number), encoding="utf-8")) for number in numbers]


ours, theirs = read(ours_path), read(theirs_path)


def our_figure(run, metric, figure):
    found = run["summary"][metric][figure]
    found = found["value"] if isinstance(found, dict) else found
    return None if found is None else 1e3 * found


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


their_figure = {"aiperf": aiperf, "guidellm": guidellm}[tool]
done = [sum(counts) for counts in zip(*map(requests, theirs))]
ours_done = sum(run["summary"]["requests"]["ok"] for run in ours)
ours_failed = sum(run["summary"]["requests"]["failed"] for run in ours)
print(f"{rounds} rounds; requests: weighbridge {ours_done} ok, {ours_failed} failed; ", end="")
print(f"{tool} {done[0]:.0f} ok, {done[1]:.0f} failed")
print(f"{'ms':12} {'weighbridge':>12} {tool:>12} {'difference':>12} {'95 % of it':>16}")
apart = []
# Both call the mean gap of one request its inter-token latency, which is our TPOT.
for name, our_metric, their_metric in [
    ("TTFT", "ttft_s", "time_to_first_token"),
    ("ITL", "tpot_s", "inter_token_latency"),
]:
    for figure in ["mean", "p50", "p90"]:
        one = [our_figure(run, our_metric, figure) for run in ours]
        if None in one:
            # Too few requests for it.
            continue
        other = [their_figure(run, their_metric, figure) for run in theirs]
        differences = [b - a for a, b in zip(one, other)]
        mean = statistics.mean(differences)
        half = T95[len(differences) - 1] * statistics.stdev(differences) / len(differences) ** 0.5
        if half > WIDEST_SHARE * statistics.mean(one):
            verdict = "CANNOT TELL"
        else:
            verdict = "agree" if abs(mean) <= half else "DIFFER"
        print(
            f"{name + ' ' + figure:12} {statistics.mean(one):12.2f} {statistics.mean(other):12.2f} "
            f"{mean:+12.2f} {mean - half:+8.2f}{mean + half:+8.2f}  {verdict}"
        )
        if verdict != "agree":
            apart.append(f"{name} {figure}")
if done[1] or ours_failed:
    sys.exit("requests failed")
if apart:
    sys.exit(f"{', '.join(apart)}: the tools do not agree within the noise")
