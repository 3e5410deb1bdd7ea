#!/usr/bin/env bash
# A study that is killed many times at random ends with the ledger of one that nobody disturbed, byte for byte.
# Usage: kills.sh [TIMES] [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."
times=${1:-50} program=$(realpath "${2:-target/release/eqdiff}")
source scripts/cluster/tiny.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tiny_plan "$work/plan.toml" 4
cd "$work"
begin=$(date +%s%N)
"$program" study plan.toml --out whole 2>whole.log || { cat whole.log; exit 1; }
took=$(( ($(date +%s%N) - begin) / 1000000 ))
all=$(wc -l < whole/ledger.jsonl)
cells() { cat killed/trainings/*/cells.jsonl 2>/dev/null | wc -l; }
# lets the killed study end, and compares it with the undisturbed one
finish() {
  "$program" study plan.toml --out killed 2>killed.log || { cat killed.log; exit 1; }
  cmp whole/ledger.jsonl killed/ledger.jsonl
  for picture in $(cd whole && find trainings -name '*.png' -path '*pictures*'); do
    cmp "whole/$picture" "killed/$picture"
  done
  left=$(find killed -name '*.part' | wc -l)
  [ "$left" = 0 ] || { echo "$left unfinished files are left"; exit 1; }
  studies=$(( studies + 1 ))
}
RANDOM=${SEED:-1} killed=0 studies=0
while [ "$killed" -lt "$times" ]; do
  # one that has survived so far is compared, and another one begun: every kill is to meet a study at work
  if [ "$(cells)" -ge "$all" ]; then finish; rm -rf killed; fi
  "$program" study plan.toml --out killed 2>killed.log & child=$!
  # from at once to a few of the kills' share of the whole
  wait=$(( (RANDOM * 32768 + RANDOM) % (took * 4 / times + took / 8 + 200) ))
  sleep "$(( wait / 1000 )).$(printf %03d $(( wait % 1000 )))"
  if kill -9 "$child" 2>/dev/null; then killed=$(( killed + 1 )); fi
  wait "$child" 2>/dev/null || true
  printf 'kill %d after %d ms: %d cells\n' "$killed" "$wait" "$(cells)"
done
finish
echo "$killed kills, $studies studies: each ended with the $all lines and all pictures of the undisturbed one"
