"""What eqdiff draws and exports against diffusers and the conventions of others.

    python check.py EQDIFF [--base DIR] [--subject NAME]

EQDIFF is the program. The base, in the diffusers layout, is the random one of the recorded cases unless another is
given; a few steps of training with a high learning rate make an adapter that changes its pictures.
"""

import argparse
import csv
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline,
                       UniPCMultistepScheduler)
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as image_to_image
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpainting
from diffusers.utils import logging
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
STEPS, GUIDANCE = 10, 7.5
BOUND = 1e-3  # relative L2 of pictures
TRAINING = """
[training]
steps = 12
learning_rate = 3e-3
checkpoint_every = 100
preview_every = 0
[prior]
class_images = 0
[sampling]
steps = 10
guidance = 7.5
[rra]
references_per_photo = 1
"""
# Stable Diffusion 1.x's schedule file has no spacing; its own sampler's is "leading", and eqdiff keeps to it
LEADING = dict(timestep_spacing="leading")
SAMPLERS = {
    "ddim": (DDIMScheduler, dict(clip_sample=False, set_alpha_to_one=False), "DDIM"),
    "dpmpp-2m": (DPMSolverMultistepScheduler, {}, "DPM++ 2M"),
    "dpmpp-2m-karras": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=True), "DPM++ 2M Karras"),
    "euler": (EulerDiscreteScheduler, {}, "Euler"),
    "unipc": (UniPCMultistepScheduler, {}, "UniPC"),
}


class Checks:
    def __init__(self):
        self.failed = []

    def __call__(self, name, holds, detail=""):
        print(f"{'ok' if holds else 'FAILED':<6} {name}{'  ' + detail if detail else ''}", flush=True)
        if not holds:
            self.failed.append(name)

    def pictures(self, name, ours, theirs, bound):
        gap = distance(ours, theirs)
        self(name, gap < bound, f"relative L2 {gap:.1e} (bound {bound:.0e})")


def distance(a, b):
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b) if a.shape == b.shape else float("inf")


class Bench:
    """The program and diffusers on one base, one prompt and one noise."""

    def __init__(self, program, base, work):
        self.program, self.base, self.work = Path(program).resolve(), str(base), work
        pipe = self.pipe()
        self.side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.latents = torch.randn(1, 4, *[pipe.unet.config.sample_size] * 2, generator=torch.Generator().manual_seed(7))
        save_file({"latents": self.latents}, work / "noise.safetensors")

    def eqdiff(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"eqdiff {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def draw(self, folder, *arguments):
        out = self.work / folder
        self.eqdiff("sample", *arguments, "--steps", STEPS, "--guidance", GUIDANCE, "--init-latents",
                    self.work / "noise.safetensors", "--out", out)
        (picture,) = out.glob("*.png")
        return picture

    def pipe(self):
        pipe = StableDiffusionPipeline.from_pretrained(self.base, dtype=torch.float32, safety_checker=None)
        return quiet(pipe)

    def drawn_there(self, pipe, prompt):
        return pipe(prompt, latents=self.latents, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                    height=self.side, width=self.side).images[0]

    def snippet(self, page, folder):
        """The pipeline that a page's Python makes, up to where it draws."""
        code = re.search(r"```python\n(.*?)```", page.read_text(), re.S).group(1).split("\nimage = ")[0]
        code = code.replace("safety_checker=None", "safety_checker=None, dtype=torch.float32")
        names = dict(BASE=self.base, FOLDER=str(folder), torch=torch)
        exec(code, names)
        return quiet(names["pipe"])


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    pipe.tokenizer.model_max_length = 77  # not every tokenizer's folder says so
    return pipe


def read(picture):
    return Image.open(picture).convert("RGB")


def samplers(bench, check):
    for name, (kind, changes, title) in SAMPLERS.items():
        prompt = "a dog in van gogh style"
        ours = bench.draw(f"sampler-{name}", "--no-adapter", "--base", bench.base, "--prompt", prompt, "--sampler", name)
        pipe = bench.pipe()
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **LEADING, **changes)
        check.pictures(f"sampler {name}", read(ours), bench.drawn_there(pipe, prompt), BOUND)
        png_text(ours, prompt, title, check)


def from_pictures(bench, check):
    """Image to image and inpainting, from the same noise and the means of the encoder's distributions."""
    for module in (image_to_image, inpainting):
        module.randn_tensor = lambda *_, **__: bench.latents
        module.retrieve_latents = lambda encoded, **_: encoded.latent_dist.mode()
    side, prompt = bench.side, "a dog"
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    picture = Image.fromarray(np.stack([255 * x / side, 255 * y / side, 128 + 0 * x], -1).astype(np.uint8))
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4:, side // 4:] = 255
    picture.save(bench.work / "from.png")
    Image.fromarray(mask).save(bench.work / "anew.png")
    shared = ["--no-adapter", "--base", bench.base, "--prompt", prompt, "--from", bench.work / "from.png"]
    for sampler in ("ddim", "dpmpp-2m", "unipc"):
        kind, changes, _ = SAMPLERS[sampler]
        for name, pipeline, ours, theirs, strength in [
            ("image to image", StableDiffusionImg2ImgPipeline, [], {}, 0.6),
            ("inpainting", StableDiffusionInpaintPipeline, ["--mask", bench.work / "anew.png"],
             dict(mask_image=Image.fromarray(mask), height=side, width=side), 1.0),
        ]:
            drawn = bench.draw(f"{name}-{sampler}", *shared, "--sampler", sampler, "--strength", strength, *ours)
            pipe = quiet(pipeline(**bench.pipe().components, requires_safety_checker=False))
            pipe.scheduler = kind.from_config(pipe.scheduler.config, **LEADING, **changes)
            there = pipe(prompt, image=picture, strength=strength, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                         **theirs).images[0]
            # at a mask's border ours goes over into the picture softly
            inner = (3 * side // 8,) * 2 + (side,) * 2 if ours else (0, 0, side, side)
            check.pictures(f"{name} with {sampler}", read(drawn).crop(inner), there.crop(inner), BOUND)


def foreign_lora(bench, check):
    """A LoRA of both models in PEFT's names."""
    pipe, tensors, draw = bench.pipe(), {}, torch.Generator().manual_seed(3)
    layers = [("unet", pipe.unet, r"to_[qkv]$|to_out\.0$"), ("text_encoder", pipe.text_encoder, r"[qv]_proj$")]
    for prefix, model, wanted in layers:
        for name, module in model.named_modules():
            if re.search(wanted, name):
                out, inner = module.weight.shape
                for part, shape in (("A", (4, inner)), ("B", (out, 4))):
                    tensors[f"{prefix}.{name}.lora_{part}.weight"] = 0.3 * torch.randn(shape, generator=draw)
    save_file(tensors, bench.work / "style.safetensors")
    prompt = "a dog"
    alone = ["--no-adapter", "--base", bench.base, "--prompt", prompt]
    ours = read(bench.draw("lora", *alone, "--lora", f"{bench.work / 'style.safetensors'}:0.7"))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **LEADING, **SAMPLERS["ddim"][1])
    pipe.load_lora_weights(str(bench.work), weight_name="style.safetensors", adapter_name="style")
    pipe.set_adapters(["style"], adapter_weights=[0.7])
    check.pictures(f"LoRA of PEFT ({len(tensors) // 2} matrices) by 0.7", ours, bench.drawn_there(pipe, prompt), BOUND)
    gap = distance(ours, read(bench.draw("no-lora", *alone)))
    check("the LoRA changes the picture by much more", gap > 20 * BOUND, f"relative L2 {gap:.1e}")


def png_text(picture, prompt, title, check):
    """A1111's layout, read by somebody else's program."""
    from sd_parsers import ParserManager
    info = ParserManager().parse(picture)
    (sampler,) = info.samplers
    told = {**sampler.parameters, "name": sampler.name}
    found = ([p.value for p in info.prompts], sampler.name, int(told["steps"]), float(told["cfg_scale"]))
    check(f"PNG text of {title}", found == ([prompt], title, STEPS, GUIDANCE), str(found))


def watched(adapter, check):
    """TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(adapter)).Reload()
    with open(adapter / "loss.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for tag in ("total", "denoise", "gradient_norm"):
        wanted = [(int(row["step"]), float(np.float32(row[tag]))) for row in rows]
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        check(f"TensorBoard reads {tag}", found == wanted, f"{len(found)} steps")


def pickled(bench, adapter, wanted, prompt, check):
    """Pickles of diffusers and A1111, as torch writes them."""
    tensors, names = load_file(adapter / "adapter.safetensors"), {}
    layer = re.compile(r"(.*\.attn2)\.to_([kv])\.weight")
    for m, value in ((layer.match(k), v) for k, v in tensors.items()):
        if m:
            names[f"{m[1]}.processor.to_{m[2]}_custom_diffusion.weight"] = value
            names[m[1].replace("attn2", "attn1") + ".processor"] = {}
    torch.save(names, bench.work / "pytorch_custom_diffusion_weights.bin")
    embedding = torch.nn.Parameter(summed(adapter)[None].clone())
    files = {"learned_embeds.bin": {"<it>": embedding.detach()[0]},
             "it.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": embedding}, "name": "it", "step": 7,
                       "sd_checkpoint": None, "sd_checkpoint_name": None},
             "embeddings.pt": {"string_to_token": {"*": torch.tensor(265)},
                               "string_to_param": torch.nn.ParameterDict({"*": embedding})}}
    for name, content in files.items():
        torch.save(content, bench.work / name)
        out = bench.work / f"from-{name}"
        bench.eqdiff("import", "pytorch_custom_diffusion_weights.bin", name, "--base", bench.base, "--class", "thing",
                     "--out", out)
        ours = bench.draw(f"drawn-{name}", "--adapter", out, "--prompt", prompt)
        check.pictures(f"import of pickles with {name}", read(ours), wanted, BOUND)


def randomise(module, seed):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            fan = value[0].numel() if value.ndim > 1 else 2500
            value.copy_(torch.randn(value.shape, generator=draw) * fan ** -0.5 + (value.ndim == 1) * value.mean().round())


def tidied(mask):
    """Without crumbs beside the largest piece and without pinholes, as eqdiff leaves masks."""
    for level, share in ((True, 0.05), (False, 0.003)):
        pieces, left = [], set(zip(*np.nonzero(mask == level)))
        while left:
            piece = [left.pop()]
            for y, x in piece:
                beside = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
                left -= beside
                piece.extend(beside)
            pieces.append(piece)
        whole = max(map(len, pieces), default=0) if level else mask.sum()
        mask = mask.copy()
        for y, x in (place for piece in pieces if len(piece) < share * whole for place in piece):
            mask[y, x] = not level
    return mask


def segment_anything(bench, check):
    """Segment Anything and MobileSAM by their authors' code, with random weights of the published shapes."""
    from mobile_sam import SamPredictor, sam_model_registry
    width, height, box = 320, 240, (70, 60, 210, 200)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    inside = (x - 140) ** 2 + (y - 130) ** 2 < 70 ** 2
    picture = np.where(inside[..., None], [200, 60, 40], np.stack([x * 0.5, y * 0.8, 255 - y * 0.7], -1)).astype(np.uint8)
    Image.fromarray(picture).save(bench.work / "thing.png")
    asked = {"a point": ([(140, 130)], [1], None), "a box": ([], [], box), "both": ([(140, 130), (20, 20)], [1, 0], box)}
    for kind, file in (("vit_t", "mobile_sam.safetensors"), ("vit_b", "sam_vit_b.pth")):
        model = sam_model_registry[kind]().eval()
        randomise(model.image_encoder, 1)
        # candle's have GELU's approximation by tanh in the tiny encoder and the decoder
        for part in [model.mask_decoder.output_upscaling] + [model.image_encoder] * (kind == "vit_t"):
            for module in part.modules():
                if isinstance(module, torch.nn.GELU):
                    module.approximate = "tanh"
        predictor = SamPredictor(model)
        predictor.set_image(picture)

        def masks(points, labels, box):
            found, shares, _ = predictor.predict(
                np.array(points) if points else None, np.array(labels) if points else None,
                np.array(box) if box else None, multimask_output=len(points) == 1 and not box)
            return found[shares.argmax()]

        for seed in range(1000):  # until no mask is all or nothing
            randomise(model.mask_decoder, seed)
            randomise(model.prompt_encoder, seed)
            with torch.no_grad():  # four places that come of one are alike, and so are neighbours
                for layer in (0, 3):
                    kernel = model.mask_decoder.output_upscaling[layer].weight
                    kernel.copy_(kernel.mean((2, 3), keepdim=True).expand_as(kernel) * 2)
            there = {name: masks(*prompt) for name, prompt in asked.items()}
            if all(0.15 < mask.mean() < 0.85 for mask in there.values()):
                break
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        (save_file if file.endswith("safetensors") else torch.save)(state, bench.work / file)
        for name, (points, labels, box) in asked.items():
            marks = [part for (px, py), label in zip(points, labels)
                     for part in ("--point" if label else "--neg-point", f"{px},{py}")]
            marks += ["--box", ",".join(map(str, box))] if box else []
            out = bench.work / f"mask-{kind}-{name}"
            bench.eqdiff("mask", "thing.png", "--sam", file, *marks, "--out", out)
            ours, theirs = np.asarray(Image.open(out / "thing.png").convert("L")) > 127, tidied(there[name])
            share = (ours & theirs).sum() / (ours | theirs).sum()
            check(f"{kind} asked by {name}", share > 0.95 and 0.05 < theirs.mean() < 0.95,
                  f"overlap {share:.4f}, {theirs.mean():.0%} of the photo")


def summed(adapter):
    tensors = load_file(adapter / "adapter.safetensors")
    return tensors["s_low"] + tensors["s_high"]


def diffusers_export(bench, adapter, alone, wanted, prompt, check):
    out = bench.work / "for-diffusers"
    bench.eqdiff("export", adapter, "--to", "diffusers", "--name", "eqdiff-it", "--out", out)
    pipe = bench.snippet(out / "eqdiff-it.md", out)
    theirs = bench.drawn_there(pipe, prompt.replace("S*", "<eqdiff-it>"))
    check.pictures("export to diffusers, drawn there", theirs, wanted, BOUND)
    there = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer.convert_tokens_to_ids("<eqdiff-it>")]
    check("embedding is the sum of both bands", torch.allclose(there, summed(adapter), atol=1e-6))
    gap = distance(alone, wanted)
    check("the adapter changes the picture by much more", gap > 20 * BOUND, f"relative L2 {gap:.1e}")
    imported(bench, pipe, out / "eqdiff-it.safetensors", wanted, prompt, check)


def a1111_embedding(file):
    """What AUTOMATIC1111's create_embedding_from_data makes of a file that is no pickle: [n, d]."""
    data = load_file(file)
    assert "string_to_param" not in data and not {"clip_g", "clip_l"} <= set(data)
    assert len(data) == 1, "embedding file has multiple terms in it"
    (embedding,) = data.values()
    return embedding.unsqueeze(0) if embedding.ndim == 1 else embedding


def kohya_shapes(unet):
    """Shapes of up and down [*, r] and [r, *] by the names that kohya's LoRANetwork gives to cross-attention's K and V."""
    shapes = {}
    for name, module in unet.named_modules():
        if module.__class__.__name__ != "Transformer2DModel":
            continue
        for child, linear in module.named_modules():
            if linear.__class__.__name__ == "Linear" and re.search(r"attn2\.to_[kv]$", child):
                shapes[f"lora_unet_{name}_{child}".replace(".", "_")] = tuple(linear.weight.shape)
    return shapes


def webui_export(bench, adapter, wanted, prompt, check):
    shapes = kohya_shapes(bench.pipe().unet)
    full = max(min(shape) for shape in shapes.values())
    for rank in (4, full):
        out = bench.work / f"for-webui-{rank}"
        said = bench.eqdiff("export", adapter, "--to", "webui", "--name", "eqdiff-it", "--rank", rank, "--out", out)
        error = float(re.search(r"relative error ([0-9.]+) %", said).group(1)) / 100
        pipe = bench.snippet(out / "eqdiff-it.md", out)
        theirs = bench.drawn_there(pipe, prompt.replace("S*", "eqdiff-it"))
        check.pictures(f"LoRA of rank {rank} (error {error:.1%}), drawn in diffusers", theirs, wanted, max(error, BOUND))
    file = out / "eqdiff-it-lora.safetensors"
    tensors = load_file(file)
    fits = all(tensors[f"{name}.lora_up.weight"].shape == (m, full) and tensors[f"{name}.lora_down.weight"].shape == (full, n)
               and tensors[f"{name}.alpha"].item() == full for name, (m, n) in shapes.items())
    check("kohya's keys, all of them and no other", fits and len(tensors) == 3 * len(shapes), f"{len(tensors)} tensors")
    metadata = safe_open(file, "pt").metadata()
    check("metadata that viewers read", {"ss_network_module", "ss_network_dim", "modelspec.architecture"} <= set(metadata))
    read_there = a1111_embedding(out / "eqdiff-it.safetensors")
    check("A1111's reader finds the embedding", torch.allclose(read_there, summed(adapter)[None], atol=1e-6),
          str(tuple(read_there.shape)))
    check("a preview lies beside the LoRA", (out / "eqdiff-it-lora.png").is_file())


def imported(bench, pipe, embedding, wanted, prompt, check):
    """What diffusers itself saves comes back."""
    saved = bench.work / "saved-there"
    pipe.unet.save_attn_procs(saved, safe_serialization=True)
    (weights,) = saved.glob("*.safetensors")
    bench.eqdiff("import", weights, embedding, "--base", bench.base, "--class", "thing", "--out", bench.work / "imported")
    ours = bench.draw("from-imported", "--adapter", bench.work / "imported", "--prompt", prompt)
    check.pictures("import of what diffusers saved", read(ours), wanted, BOUND)


def merged_export(bench, adapter, wanted, prompt, check):
    out = bench.work / "merged"
    bench.eqdiff("export", adapter, "--to", "merged", "--name", "eqdiff-it", "--out", out)
    pipe = bench.snippet(out / "eqdiff-it.md", out)
    theirs = bench.drawn_there(pipe, prompt.replace("S*", "eqdiff-it"))
    check.pictures("merged base, drawn in diffusers", theirs, wanted, BOUND)


def release_export(bench, adapter, check):
    out = bench.work / "for-release"
    bench.eqdiff("export", adapter, "--to", "release", "--out", out)
    weights, ours = load_file(out / "pytorch_custom_diffusion_weights.safetensors"), load_file(adapter / "adapter.safetensors")
    endings = {"to_k.weight": "processor.to_k_custom_diffusion.weight", "to_v.weight": "processor.to_v_custom_diffusion.weight",
               "processor.to_k_ref.weight": "processor.to_k_res.weight", "processor.fuse.weight": "processor.to_out_res.0.weight",
               "processor.to_v_ref.weight": "processor.to_v_res.weight", "processor.fuse.bias": "processor.to_out_res.0.bias"}
    layer = re.compile(r"(.*\.attn[12])\.(.*)")
    same = {f"{m[1]}.{endings[m[2]]}": value for m, value in ((layer.match(k), v) for k, v in ours.items()) if m}
    check("released code's names", same.keys() == weights.keys() and all(torch.equal(same[k], weights[k]) for k in same),
          f"{len(weights)} tensors")
    bands = load_file(out / "freq_embeddings.safetensors")["freq_embeddings"]
    check("released code's band rows", torch.equal(bands, torch.stack([ours["s_high"], ours["s_low"]])))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--base", default=ROOT / "assets/golden/model", type=Path)
    parser.add_argument("--subject", default="clock")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    check = Checks()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(args.program, args.base.resolve(), Path(work))
        samplers(bench, check)
        from_pictures(bench, check)
        foreign_lora(bench, check)
        segment_anything(bench, check)
        (bench.work / "training.toml").write_text(TRAINING)
        adapter = bench.work / "adapter"
        bench.eqdiff("train", "--subject", args.subject, "--base", bench.base, "--config", "training.toml", "--out", adapter)
        prompt = f"a S* {args.subject} on a wooden floor"
        wanted = read(bench.draw("wanted", "--adapter", adapter, "--no-reference", "--prompt", prompt))
        alone = read(bench.draw("alone", "--no-adapter", "--base", bench.base, "--prompt", prompt))
        watched(adapter, check)
        diffusers_export(bench, adapter, alone, wanted, prompt, check)
        pickled(bench, adapter, wanted, prompt, check)
        webui_export(bench, adapter, wanted, prompt, check)
        merged_export(bench, adapter, wanted, prompt, check)
        release_export(bench, adapter, check)
    print(f"{len(check.failed)} checks failed" if check.failed else "all checks passed")
    raise SystemExit(bool(check.failed))


if __name__ == "__main__":
    main()
