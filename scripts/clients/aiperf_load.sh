#!/usr/bin/env bash
# AIPerf drives a load against a server, for `benches/client_accuracy`.
#   scripts/clients/aiperf_load.sh BASE closed:USERS|open:RATE SECONDS OUTPUT_TOKENS FOLDER
# FOLDER then has AIPerf's export and `cpu_s`: the CPU seconds of all its processes, start included.
# ON=1 keeps all of them on processor 1. FOLDER is to be absolute.
source "$(dirname "$0")/common.sh"
BASE=$1 LOAD=$2 SECONDS_LONG=$3 OUTPUT_TOKENS=$4 FOLDER=$5
client aiperf aiperf==0.13.0
[ -e "$CLIENTS/tokenizer" ] || "$ENVIRONMENT/bin/python" scripts/clients/tokenizer.py "$CLIENTS/tokenizer"
case $LOAD in
  closed:*) load=(--concurrency "${LOAD#*:}") ;;
  open:*) load=(--request-rate "${LOAD#*:}" --arrival-pattern poisson) ;;
esac
on=()
[ -n "${ON:-}" ] && on=(taskset -c "$ON")
mkdir -p "$FOLDER"
printf '{"text":"今天天气怎么样？我想出去走走，请给我一些建议。"}\n%.0s' {1..64} >"$FOLDER/prompts.jsonl"
"${on[@]}" python3 - "$FOLDER" "$ENVIRONMENT/bin/aiperf" profile --model mock --url "${BASE%/v1}" \
  --endpoint-type chat --streaming --tokenizer "$CLIENTS/tokenizer" --use-server-token-count \
  --input-file "$FOLDER/prompts.jsonl" --custom-dataset-type single-turn \
  --extra-inputs "max_completion_tokens:$OUTPUT_TOKENS" "${load[@]}" \
  --benchmark-duration "$SECONDS_LONG" --ui-type none \
  --output-artifact-dir "$FOLDER" <<'PYTHON'
import pathlib, resource, subprocess, sys

folder, *command = sys.argv[1:]
with open(f"{folder}/log", "w") as log:
    status = subprocess.run(command, stdout=log, stderr=log).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
pathlib.Path(folder, "cpu_s").write_text(str(used.ru_utime + used.ru_stime))
if status:
    sys.exit(pathlib.Path(folder, "log").read_text()[-4000:])
PYTHON
