"""Reads what `weighbridge export` wrote with the tools' own models; used by scripts/interop."""

import csv
import json
import math
import statistics
import sys
from pathlib import Path

from aiperf.common.models.export_models import JsonExportData
from aiperf.common.models.record_models import MetricRecordInfo

run, out = Path(sys.argv[1]), Path(sys.argv[2])


def close(name: str, found: float, expected: float) -> None:
    assert math.isclose(found, expected, rel_tol=1e-9), f"{name}: {found} is not {expected}"
    print(f"ok    {name}: {found:.6g}")


# AIPerf's summary and records validate as its own models, and agree with each other.
summary = JsonExportData.model_validate_json((out / "profile_export_aiperf.json").read_text())
lines = (out / "profile_export.jsonl").read_text().splitlines()
records = [MetricRecordInfo.model_validate_json(line) for line in lines]
finished = [record for record in records if record.error is None]
close("AIPerf count", summary.request_count.avg, len(finished))
for tag in ("time_to_first_token", "inter_token_latency", "request_latency"):
    values = [record.metrics[tag].value for record in finished if tag in record.metrics]
    close(f"AIPerf mean {tag}, ms", getattr(summary, tag).avg, statistics.fmean(values))

# vLLM's result: the summary follows from its own lists by the formulas of `vllm bench serve`.
vllm = json.loads((out / "vllm.json").read_text())
done = [index for index, error in enumerate(vllm["errors"]) if not error and vllm["latencies"][index]]
close("vLLM completed", vllm["completed"], len(done))
close("vLLM mean TTFT, ms", vllm["mean_ttft_ms"], 1e3 * statistics.fmean(vllm["ttfts"][i] for i in done))
tpots = [
    (vllm["latencies"][i] - vllm["ttfts"][i]) / (vllm["output_lens"][i] - 1)
    for i in done
    if vllm["output_lens"][i] > 1
]
close("vLLM mean TPOT, ms", vllm["mean_tpot_ms"], 1e3 * statistics.fmean(tpots))
tokens = sum(vllm["output_lens"][i] for i in done)
close("vLLM output tokens/s", vllm["output_throughput"], tokens / vllm["duration"])

# InferenceX's row is what its process_result.py makes of that.
row = json.loads((out / "agg_weighbridge.json").read_text())
close("InferenceX tput_per_gpu", row["tput_per_gpu"], vllm["total_token_throughput"] / row["tp"])
close("InferenceX median_tpot, s", row["median_tpot"], vllm["median_tpot_ms"] / 1e3)
close("InferenceX median_intvty", row["median_intvty"], 1e3 / vllm["median_tpot_ms"])

# The CSV has a row for each request of the window, and our own figures.
with open(out / "requests.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
report = json.loads((run / "report.json").read_text())
close("CSV rows", len(rows), report["summary"]["requests"]["total"])
ttfts = [float(row["ttft_s"]) for row in rows if row["ttft_s"] and row["outcome"] == "ok"]
if report["summary"]["requests"]["ok"] == report["summary"]["ttft_s"]["count"]:
    close("CSV mean TTFT, s", statistics.fmean(ttfts), report["summary"]["ttft_s"]["mean"])
print("all hold")
