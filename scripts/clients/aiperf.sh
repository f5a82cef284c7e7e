#!/usr/bin/env bash
# AIPerf and weighbridge measure one server in turns, with prompts of equal length: small runs.
source "$(dirname "$0")/common.sh"
client aiperf aiperf==0.13.0
serve_for_comparison

theirs() {
  ${CLIENTS_PLACE-} "$ENVIRONMENT/bin/aiperf" profile --model ref-135m --url "${BASE%/v1}" --endpoint-type chat \
    --streaming --tokenizer "$WORK/tokenizer" --use-server-token-count \
    --input-file "$WORK/prompts.jsonl" --custom-dataset-type single-turn \
    --extra-inputs ignore_eos:true temperature:0 "max_completion_tokens:$OUTPUT_TOKENS" \
    --request-rate "$RATE" --arrival-pattern constant --request-count "$REQUESTS" --ui-type none \
    --output-artifact-dir "$WORK/aiperf-$1"
}
compare aiperf "$WORK/aiperf-%/profile_export_aiperf.json"
