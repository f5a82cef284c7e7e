#!/usr/bin/env bash
# AIPerf and weighbridge measure one server in turn, with prompts of equal length: a small run.
source "$(dirname "$0")/common.sh"
client aiperf aiperf==0.13.0
serve_for_comparison
weigh

"$ENVIRONMENT/bin/aiperf" profile --model ref-135m --url "${BASE%/v1}" --endpoint-type chat --streaming \
  --tokenizer "$WORK/tokenizer" --use-server-token-count --input-file "$WORK/prompts.jsonl" \
  --custom-dataset-type single-turn --extra-inputs ignore_eos:true temperature:0 \
  "max_completion_tokens:$OUTPUT_TOKENS" --request-rate "$RATE" --arrival-pattern constant \
  --request-count "$REQUESTS" --ui-type none --output-artifact-dir "$WORK/aiperf" >"$WORK/log" 2>&1 ||
  { tail -40 "$WORK/log"; exit 1; }
python3 scripts/clients/side_by_side.py "$WORK/ours/report.json" aiperf \
  "$WORK/aiperf/profile_export_aiperf.json"
