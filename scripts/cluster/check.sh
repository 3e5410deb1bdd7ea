#!/usr/bin/env bash
# A study over a real Slurm, one task killed and requeued in the middle, has the ledger of a single run, byte for byte.
# Usage, as root on Debian: scripts/cluster/check.sh [PROGRAM]; PROGRAM is built where none is given.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/scripts/cluster
if [ $# -ge 1 ]; then program=$(realpath "$1"); else
  cargo build --release --locked
  program=$PWD/target/release/eqdiff
fi
source "$here/tiny.sh"
work=$(mktemp -d)
finish() {
  code=$?
  cat "$work"/slurm/*.pid 2>/dev/null | xargs -r kill 2>/dev/null || true
  if [ "$code" = 0 ]; then
    for _ in 1 2 3 4 5; do rm -rf "$work" 2>/dev/null && break; sleep 1; done # the daemons write until they end
  else
    echo "failed; logs are in $work"
  fi
}
trap finish EXIT
tiny_plan "$work/plan.toml" 20
"$here/start-slurm.sh" "$work/slurm"
export SLURM_CONF=$work/slurm/slurm.conf EQDIFF=$program
# nodes of one processor: the single run gets one too
export RAYON_NUM_THREADS=1
cd "$work"
job=$(sbatch --parsable --array=1-4 --output="$work/task-%a.log" "$here/study.sbatch" plan.toml parts)
echo "job $job: four tasks on two nodes"
state() { squeue -h -r -j "${job}_$1" -o %T 2>/dev/null || true; }
lines() { cat parts/trainings/*/cells.jsonl 2>/dev/null | wc -l; }
# task 2 has the second quarter of the trainings; it is killed when it has done something and has something to do
wait_for() { for _ in $(seq 6000); do if "$@"; then return 0; fi; sleep 0.1; done; echo "timeout: $*"; squeue; exit 1; }
at_work() { [ "$(state 2)" = RUNNING ] && grep -q 'pictures are done' task-2.log 2>/dev/null && [ "$(lines)" -gt 0 ]; }
wait_for at_work
scontrol requeue "${job}_2"
echo "task 2 killed and requeued when $(lines) cells were done, at: $(tail -n 1 task-2.log)"
# Slurm lets a requeued task wait for two minutes; there is nothing to wait for here
requeued() { [ "$(state 2)" = PENDING ] && scontrol update "jobid=${job}_2" starttime=now; }
wait_for requeued
done_all() { [ -z "$(squeue -h -j "$job" 2>/dev/null)" ]; }
wait_for done_all
restarts=$(scontrol show job "${job}_2" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p')
[ "$restarts" = 1 ] || { echo "task 2 was restarted ${restarts:-no} times"; exit 1; }
"$program" study merge parts
"$program" study plan.toml --out whole
cmp parts/ledger.jsonl whole/ledger.jsonl
twice=$(cut -d, -f1 parts/ledger.jsonl | sort | uniq -d | wc -l)
[ "$twice" = 0 ] || { echo "$twice cells are there twice"; exit 1; }
echo "ok: $(wc -l < whole/ledger.jsonl) lines, the same by four tasks with a kill and by a single run"
