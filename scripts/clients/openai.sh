#!/usr/bin/env bash
# The `openai` Python package against `weighbridge serve`: streams, whole answers, usage, stop
# strings, seeds and errors. CI runs it.
source "$(dirname "$0")/common.sh"
client openai openai==3.54.0
serve --target cpu --model ref-tiny --kv-memory 32MiB --max-sequences 1 --max-queue 1
"$ENVIRONMENT/bin/python" scripts/clients/openai_client.py "$BASE"
