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
  "$WEIGHBRIDGE" serve --listen 127.0.0.1:0 "$@" >"$said" &
  SERVER=$!
  trap 'kill "$SERVER" 2>/dev/null; wait "$SERVER" || true' EXIT
  until grep -q http "$said"; do
    kill -0 "$SERVER"
    sleep 0.1
  done
  BASE=$(grep -o 'http://.*/v1' "$said")
  rm "$said"
}
