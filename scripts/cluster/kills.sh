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
cells() { cat killed/trainings/*/cells.jsonl 2>/dev/null | wc -l; }
RANDOM=${SEED:-1} killed=0
for i in $(seq "$times"); do
  "$program" study plan.toml --out killed 2>killed.log & child=$!
  # from at once to a few of the kills' share of the whole
  wait=$(( (RANDOM * 32768 + RANDOM) % (took * 4 / times + took / 8 + 200) ))
  sleep "$(( wait / 1000 )).$(printf %03d $(( wait % 1000 )))"
  if kill -9 "$child" 2>/dev/null; then killed=$(( killed + 1 )); fi
  wait "$child" 2>/dev/null || true
  printf 'kill %d after %d ms: %d cells\n' "$i" "$wait" "$(cells)"
done
"$program" study plan.toml --out killed 2>killed.log || { cat killed.log; exit 1; }
cmp whole/ledger.jsonl killed/ledger.jsonl
for picture in $(cd whole && find trainings -name '*.png' -path '*pictures*'); do
  cmp "whole/$picture" "killed/$picture"
done
left=$(find killed -name '*.part' | wc -l)
[ "$left" = 0 ] || { echo "$left unfinished files are left"; exit 1; }
echo "$killed kills of $times tries met it at work; $(wc -l < whole/ledger.jsonl) lines and all pictures are the same"
