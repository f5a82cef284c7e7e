# Shared by the scripts beside it; not run by itself. They measure or test `weighbridge serve` with
# clients that other people wrote, in a virtual environment of their own below target/clients/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

WEIGHBRIDGE=${WEIGHBRIDGE:-target/release/weighbridge}
[ -x "$WEIGHBRIDGE" ] || WEIGHBRIDGE=target/debug/weighbridge
if [ ! -x "$WEIGHBRIDGE" ]; then
  echo "no binary: run \`cargo build --release\` first, or set WEIGHBRIDGE to one" >&2
  exit 2
fi
CLIENTS=${CLIENTS:-target/clients}

# client NAME PACKAGE==VERSION: makes the environment; ends the script, saying so, where pip cannot
# install.
client() {
  ENVIRONMENT=$CLIENTS/$1
  [ -e "$ENVIRONMENT/$2" ] && return
  rm -rf "$ENVIRONMENT"
  mkdir -p "$CLIENTS"
  if ! python3 -m venv "$ENVIRONMENT" || ! "$ENVIRONMENT/bin/pip" install --quiet "$2"; then
    rm -rf "$ENVIRONMENT"
    echo "skipped: pip cannot install $2 here"
    exit 0
  fi
  touch "$ENVIRONMENT/$2"
}

# serve FLAGS…: starts a server on a free port and sets BASE; it ends with the script.
serve() {
  local said
  said=$(mktemp)
  ${SERVERS_PLACE-} "$WEIGHBRIDGE" serve --listen 127.0.0.1:0 "$@" >"$said" &
  SERVER=$!
  trap 'kill "$SERVER" 2>/dev/null; wait "$SERVER" || true; rm -rf "${WORK:-}"' EXIT
  until grep -q http "$said"; do
    kill -0 "$SERVER"
    sleep 0.1
  done
  BASE=$(grep -o 'http://.*/v1' "$said")
  rm "$said"
}

PROMPT_TOKENS=96
OUTPUT_TOKENS=32
RATE=${RATE:-2}
REQUESTS=${REQUESTS:-40}
ROUNDS=${ROUNDS:-5}

# Server and clients get a processor each, the first two that this script may use: a client that needs
# more of it would slow down the server that it measures. SERVERS_PLACE and CLIENTS_PLACE, commands
# that run another, override that.
place_apart() {
  local allowed
  allowed=$(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0))[:2])' 2>/dev/null) || allowed=
  if command -v taskset >/dev/null && [[ $allowed == *" "* ]]; then
    SERVERS_PLACE=${SERVERS_PLACE-taskset -c ${allowed% *}}
    CLIENTS_PLACE=${CLIENTS_PLACE-taskset -c ${allowed#* }}
  fi
}

# Without prefix cache equal prompts cost the same. Also writes prompts and a tokenizer for the other
# tool.
serve_for_comparison() {
  place_apart
  serve --target "${TARGET:-cpu}" --threads 1 --model ref-135m --kv-memory 256MiB --prefix-cache off
  WORK=$(mktemp -d)
  python3 scripts/clients/prompts.py "$BASE" ref-135m "$REQUESTS" "$PROMPT_TOKENS" \
    "$OUTPUT_TOKENS" "$WORK/prompts.jsonl"
  "$ENVIRONMENT/bin/python" scripts/clients/tokenizer.py "$WORK/tokenizer" 2>/dev/null
}

# weigh ROUND: weighbridge's own figures, in WORK/ours-ROUND. A run that is INVALID because the
# machine is busy is still shown. Without a preflight, whose server would share the client's processor.
weigh() {
  local code=0
  ${CLIENTS_PLACE-} "$WEIGHBRIDGE" run --target "$BASE" --model ref-135m --rate "$RATE" \
    --arrivals constant --workload "random:$PROMPT_TOKENS/$OUTPUT_TOKENS" --requests "$REQUESTS" \
    --duration 1h --no-preflight --out "$WORK/ours-$1" >"$WORK/ours.txt" 2>"$WORK/log" || code=$?
  case $code in
    0) ;;
    1) grep -A3 INVALID "$WORK/ours.txt" || true ;;
    *) cat "$WORK/log"; exit 1 ;;
  esac
}

# compare TOOL THEIR_EXPORT: weighbridge and the tool (a function `theirs ROUND`, which writes
# THEIR_EXPORT with the number of the round for %) in turns, then their figures and what they differ by.
compare() {
  local round
  for round in $(seq "$ROUNDS"); do
    echo "round $round of $ROUNDS" >&2
    # Who is first changes, so that a machine that gets slower favours neither.
    [ $((round % 2)) = 0 ] || weigh "$round"
    theirs "$round" >"$WORK/log" 2>&1 || { tail -40 "$WORK/log"; exit 1; }
    [ $((round % 2)) = 1 ] || weigh "$round"
  done
  python3 scripts/clients/side_by_side.py "$ROUNDS" "$WORK/ours-%/report.json" "$1" "$2"
}
