#!/usr/bin/env bash
# GuideLLM and weighbridge measure one server in turns, with prompts of equal length: small runs.
source "$(dirname "$0")/common.sh"
client guidellm guidellm==0.8.1
serve_for_comparison

theirs() {
  ${CLIENTS_PLACE-} "$ENVIRONMENT/bin/guidellm" run --disable-progress \
    --backend "kind=openai_http,target=${BASE%/v1},model=ref-135m,max_tokens=$OUTPUT_TOKENS,http2=false" \
    --profile "kind=constant,rate=$RATE" --constraint "kind=max_requests,count=$REQUESTS" \
    --data "kind=json_file,path=$WORK/prompts.jsonl" --output "kind=json,path=$WORK/guidellm-$1.json"
}
compare guidellm "$WORK/guidellm-%.json"
