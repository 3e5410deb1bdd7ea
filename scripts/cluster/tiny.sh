# A study of seconds for proofs: tiny_plan FILE STEPS writes its plan. To be sourced.
tiny_plan() {
  local root
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  cat > "$1" <<PLAN
title = "a proof"
base = "$root/assets/golden/model"
clip = "mini"
dino = "mini"
seeds = [0, 1]
baseline = "A"
subjects = [{ folder = "dog" }, { folder = "clock" }]

[prompts]
limit = 5

[settings]
training.steps = $2
training.checkpoint_every = 2
prior.class_images = 4
prior.class_steps = 4
sampling.steps = 4
rra.references_per_photo = 1

[[methods]]
name = "A"
preset = "a"

[[methods]]
name = "F"
preset = "f"
PLAN
}
