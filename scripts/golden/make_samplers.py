"""Records what diffusers' schedulers make of a toy denoiser, for `eqdiff verify`.

    OMP_NUM_THREADS=1 python make_samplers.py OUT [--seed 0]

writes OUT/samplers.safetensors and OUT/samplers.json. The denoiser is a linear function of latents and timestep, so that
no model is needed: it predicts latents * (0.2 + 0.6 t / 1000) + pattern * (0.5 - t / 1000).

Keys: 'in.latents' [1, 4, 2, 2] the first noise, 'in.pattern'; for each case of the JSON 'out.CASE.timesteps' and
'out.CASE.latents' [steps, 4, 2, 2] after each step; 'in.CASE.noise' the fresh noise of each step where there is some.
Latents that grow with their noise (Euler's) are recorded times their signal's share, so that all have one variance.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler, UniPCMultistepScheduler)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
from safetensors.torch import save_file

# Stable Diffusion 1.x
SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                timestep_spacing="leading", steps_offset=1, prediction_type="epsilon")
ZERO_SNR = dict(timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True)
SAMPLERS = {
    "ddim": (DDIMScheduler, dict(clip_sample=False, set_alpha_to_one=False)),
    "dpmpp-2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp-2m-karras": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=True)),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
CASES = [(name, steps, {}) for name in SAMPLERS for steps in (7, 20)] + [
    ("dpmpp-2m", 1, {}), ("unipc", 2, {}), ("dpmpp-2m", 7, dict(timestep_spacing="linspace")),
    ("unipc", 7, dict(timestep_spacing="linspace")), ("dpmpp-2m", 7, dict(timestep_spacing="trailing")),
    ("dpmpp-2m", 7, ZERO_SNR), ("unipc", 7, ZERO_SNR), ("ddim", 7, ZERO_SNR),
    ("dpmpp-2m-karras", 7, dict(prediction_type="v_prediction")), ("euler-a", 7, dict(prediction_type="v_prediction"))]


def denoiser(latents, t, pattern):
    return latents * (0.2 + 0.6 * t / 1000) + pattern * (0.5 - t / 1000)


def record(name, steps, changes, noise, pattern):
    kind, more = SAMPLERS[name]
    scheduler = kind(**(SCHEDULE | changes), **more)
    scheduler.set_timesteps(steps)
    drawn, draw = [], ancestral.randn_tensor
    if name == "euler-a":
        ancestral.randn_tensor = lambda *args, **kwargs: drawn.append(draw(*args, **kwargs)) or drawn[-1]
    latents, after = noise * scheduler.init_noise_sigma, []
    for i, t in enumerate(scheduler.timesteps):
        predicted = denoiser(scheduler.scale_model_input(latents, t), t.item(), pattern)
        latents = scheduler.step(predicted, t, latents).prev_sample
        grown = (scheduler.sigmas[i + 1] ** 2 + 1) ** 0.5 if name.startswith("euler") else 1
        after.append(latents / grown)
    ancestral.randn_tensor = draw
    tensors = {"timesteps": scheduler.timesteps.to(torch.int64), "latents": torch.cat(after)}
    return tensors, torch.cat(drawn) if drawn else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    noise, pattern = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    tensors, cases = {"in.latents": noise, "in.pattern": pattern}, {}
    for name, steps, changes in CASES:
        case = "-".join([name, str(steps), *map(str, changes.values())])
        recorded, fresh = record(name, steps, changes, noise, pattern)
        tensors |= {f"out.{case}.{key}": value for key, value in recorded.items()}
        if fresh is not None:
            tensors[f"in.{case}.noise"] = fresh
        _, more = SAMPLERS[name]
        schedule = SCHEDULE | changes | {k: v for k, v in more.items() if k != "use_karras_sigmas"}
        cases[case] = dict(sampler=name, steps=steps, schedule=schedule)
    without, with_prompt = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    guided = without + 7.5 * (with_prompt - without)
    tensors |= {"in.guided": guided, "in.with_prompt": with_prompt,
                "out.rescaled": rescale_noise_cfg(guided, with_prompt, 0.7)}
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, args.out / "samplers.safetensors")
    (args.out / "samplers.json").write_text(json.dumps({"cases": cases, "rescale": 0.7}, indent=None) + "\n")


if __name__ == "__main__":
    main()
