"""Records cases of methods.py on the small random models of make_golden.py, for `eqdiff verify`.

    OMP_NUM_THREADS=1 python make_methods.py CASES [--seed 0]

CASES/model is the tiny Stable Diffusion that make_golden.py left there. Written are, as safetensors with their settings as
JSON: textual_inversion, dreambooth, dreambooth_text, custom_diffusion, custom_diffusion_sample, elite, elite_local_step,
elite_sample, matching, dreammatcher, dreammatcher_guided; and elite-vision/, elite-global, elite-local.safetensors, random
weights under the published names.

Keys: 'in.*' inputs, 'out.*' results, 'grad.*' gradients of 'out.total'; where a whole model is trained, 'out.grad_norms' and
'out.after_norms' in the order of the JSON's "tensors", and some tensors in full.
"""

import argparse
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel

import methods as m
from make_golden import SCHEDULE, SIDE, WIDTH, ids_of, save
from reference import encode_text

MARK = "#"
TAPS, HIDDEN, PATCHES = (5, 1, 2, 3, 4), 40, 4
CLASS_TOO = ["photo of a # dog", "photo of a # dog", "photo of a dog", "photo of a dog"]


class Recorder:
    def __init__(self, folder):
        self.folder = folder
        whole = folder / "model"
        self.tokenizer = CLIPTokenizer.from_pretrained(whole / "tokenizer")
        self.unet = UNet2DConditionModel.from_pretrained(whole / "unet").float().eval().requires_grad_(False)
        self.text = CLIPTextModel.from_pretrained(whole / "text_encoder").float().eval().requires_grad_(False)
        self.alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod

    def ids(self, *prompts):
        return ids_of(self.tokenizer, list(prompts))

    def place(self, ids, word=MARK):
        [token] = self.ids(word)[:, 1]
        return torch.tensor([row.index(token) if token in row else 0 for row in ids.tolist()])

    def batch(self, prompts, **extra):
        ids, n = self.ids(*prompts), len(prompts)
        return dict(latents=torch.randn(n, 4, SIDE, SIDE), noise=torch.randn(n, 4, SIDE, SIDE),
                    timesteps=torch.tensor([17, 905, 420, 666][:n]), input_ids=ids, placeholder_index=self.place(ids), **extra)

    def vector(self):
        row = self.text.get_input_embeddings().weight[self.ids("dog")[0, 1]]
        return (row + 0.1 * torch.randn(WIDTH)).clone().requires_grad_()

    def write(self, name, tensors, settings):
        save(self.folder / f"{name}.safetensors", tensors, settings)

    def step(self, name, batch, losses, trained, full=None, clip=1.0, rate=1e-3, others=(), **settings):
        """Gradients of the total, and one step of AdamW; of many tensors norms, and `full` of them."""
        losses["total"].backward()
        adamw = dict(lr=rate, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01, max_grad_norm=clip)
        tensors = {f"in.{k}": v for k, v in batch.items()} | {f"out.{k}": v.detach() for k, v in losses.items()}
        tensors |= dict(others)
        kept = list(trained) if full is None else full
        tensors |= {f"grad.{k}": trained[k].grad.clone() for k in kept}
        norms = lambda of: torch.stack([of(p).double().norm() for p in trained.values()]).detach()
        if full is not None:
            tensors["out.grad_norms"] = norms(lambda p: p.grad)
        if clip is not None:
            tensors["out.grad_norm"] = torch.nn.utils.clip_grad_norm_(trained.values(), clip)
        options = {k: v for k, v in adamw.items() if k != "max_grad_norm"}
        torch.optim.AdamW(trained.values(), **options).step()
        tensors |= {f"out.after.{k}": trained[k].detach() for k in kept}
        if full is not None:
            tensors["out.after_norms"] = norms(lambda p: p)
            settings["tensors"] = list(trained)
        self.write(name, tensors, settings | {"adamw": adamw})

    def textual_inversion(self):
        prompts = ["a photo of the weird #", "a rendition of a #"]
        batch, vector = self.batch(prompts), self.vector()
        start = {"in.embedding": vector.detach().clone()}
        losses = m.denoising(self.unet, batch, m.text_with(self.text, batch, vector), self.alphas)
        del losses["denoise"]
        self.step("textual_inversion", batch, losses, {"embedding": vector}, clip=None, rate=5e-3, others=start,
                  prompts=prompts, placeholder=MARK, templates=m.TEMPLATES)

    def dreambooth(self, name, with_text):
        unet, text = deepcopy(self.unet), deepcopy(self.text)
        prompts = ["a photo of sks dog"] * 2 + ["a photo of dog"] * 2
        batch = self.batch(prompts, is_prior=torch.tensor([False, False, True, True]))
        trained = {f"unet.{n}": p.requires_grad_() for n, p in unet.named_parameters()}
        full = ["conv_in.bias", "time_embedding.linear_2.weight", "down_blocks.0.downsamplers.0.conv.weight",
                "down_blocks.1.resnets.0.conv_shortcut.weight", "down_blocks.2.attentions.1.norm.weight",
                "mid_block.attentions.0.proj_out.weight", "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight",
                "up_blocks.0.upsamplers.0.conv.weight", "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v.weight",
                "up_blocks.2.resnets.1.norm1.bias", "up_blocks.3.resnets.0.time_emb_proj.bias", "conv_norm_out.weight"]
        full = [f"unet.{n}" for n in full]
        if with_text:
            short = ((n.removeprefix("text_model."), p) for n, p in text.named_parameters())
            trained |= {f"text.{n}": p.requires_grad_() for n, p in short}
            full = ["text.embeddings.position_embedding.weight", "text.encoder.layers.1.self_attn.v_proj.weight",
                    "text.encoder.layers.0.mlp.fc2.bias", "text.encoder.layers.0.layer_norm1.weight", "unet.conv_out.bias"]
        losses = m.denoising(unet, batch, text(batch["input_ids"])[0], self.alphas, 1.0)
        self.step(name, batch, losses, trained, full, prompts=prompts, prior_weight=1.0)

    def custom_diffusion(self):
        unet, size = deepcopy(self.unet), 8 * SIDE
        scales = [(54, 40, 90), (128, 0, 0), (88, 0, 0), (70, 93, 35), (170, 100, 70)]
        placed = [m.placement(size, *scale) for scale in scales]
        prompts = ["a far away " + CLASS_TOO[0], *CLASS_TOO[1:]]
        mask = torch.ones(4, 1, SIDE, SIDE)
        mask[0, 0] = placed[0][1]
        batch, vector = self.batch(prompts, is_prior=torch.tensor([False, False, True, True]), mask=mask), self.vector()
        others = {"in.embedding": vector.detach().clone()} | {f"out.placement.{i}.mask": p[1] for i, p in enumerate(placed)}
        tuned = {n: p.requires_grad_() for n, p in unet.named_parameters() if "attn2.to_k" in n or "attn2.to_v" in n}
        with m.attending(unet, m.StartStays()):
            losses = m.denoising(unet, batch, m.text_with(self.text, batch, vector), self.alphas, 0.5)
        self.step("custom_diffusion", batch, losses, {"embedding": vector} | tuned, others=others, prompts=prompts,
                  placeholder=MARK, prior_weight=0.5, size=size, scales=scales, placements=[p[0] for p in placed])

    @torch.no_grad()
    def ancestral(self):
        steps, prompts, scheduler = 5, dict(negative="", prompt="a dog on the moon"), DDIMScheduler(**SCHEDULE)
        text, latents = self.text(self.ids(*prompts.values()))[0], torch.randn(1, 4, SIDE, SIDE)
        tensors = {"in.init_latents": latents, "in.step_noise": torch.randn(steps, 1, 4, SIDE, SIDE)}
        scheduler.set_timesteps(steps)
        for t, noise in zip(scheduler.timesteps, tensors["in.step_noise"]):
            eps = m.guided(self.unet, latents, t, text, 6.0)
            latents = scheduler.step(eps, t, latents, eta=1.0, variance_noise=noise).prev_sample
        self.write("custom_diffusion_sample", tensors | {"out.latents": latents},
                   dict(prompts=prompts, steps=steps, guidance=6.0, eta=1.0))

    def elite(self):
        unet, image = deepcopy(self.unet), 14 * PATCHES
        vision = CLIPVisionModel(CLIPVisionConfig(hidden_size=24, intermediate_size=48, num_hidden_layers=5,
                                                  num_attention_heads=4, image_size=image, patch_size=14)).eval()
        mappers = [m.Mapper(unet, 24, WIDTH, HIDDEN) for _ in range(2)]
        with torch.no_grad():
            for p in (p for model in (vision, *mappers) for p in model.parameters()):
                p.add_(0.05 * torch.randn_like(p))
        vision.requires_grad_(False).save_pretrained(self.folder / "elite-vision")
        path = self.folder / "elite-vision/model.safetensors"
        named = {f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in load_file(path).items()}
        save_file(named, path, metadata={"format": "pt"})
        for name, mapper in zip(("global", "local"), mappers):
            save_file(mapper.state_dict(), self.folder / f"elite-{name}.safetensors", metadata={"format": "pt"})
        everywhere, local = mappers
        see = lambda pixels: [vision(pixels, output_hidden_states=True).hidden_states[tap] for tap in TAPS]
        common = dict(placeholder=MARK, taps=TAPS, hidden=HIDDEN)
        some = ["mapping_1.0.weight", "mapping_2.4.weight", "mapping_patch_0.6.bias", "mapping_patch_3.3.weight",
                "up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.weight",
                "down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_v.weight"]
        prompts = ["a bright photo of the # on a table", "a good photo of a #"]

        photos, objects = torch.randn(2, 3, image, image), torch.randn(2, 3, image, image)
        features, batch, trained = see(photos), self.batch(prompts), deepcopy(everywhere)
        words = trained.words(features)
        text = m.text_with_words(self.text, batch["input_ids"], batch["placeholder_index"], words)
        with m.attending(unet, m.Elite(trained)):
            losses = m.denoising(unet, batch, text, self.alphas) | dict(words=words, text=text, regular=words.abs().mean())
        losses["total"] = losses["denoise"] + 0.01 * losses["regular"]
        others = {"in.pixels": photos} | {f"out.features.{i}": f for i, f in enumerate(features)}
        self.step("elite", batch, losses, dict(trained.named_parameters()), some, others=others, prompts=prompts, **common)

        subject = torch.zeros(2, 60, 84)
        subject[0, 10:40, 30:70], subject[1, 25:, :50] = 1, 1
        mask = torch.ones(2, 1, SIDE, SIDE)
        mask[1, 0] = m.placement(8 * SIDE, 60, 70, 60)[1]
        batch, trained = self.batch(prompts, mask=mask, patch_mask=m.patches_of(subject, PATCHES)), deepcopy(local)
        everywhere.requires_grad_(False)
        details = trained.details(see(objects), batch["patch_mask"])
        text = m.text_with_words(self.text, batch["input_ids"], batch["placeholder_index"], everywhere.words(features)[:, :1])
        with m.attending(unet, m.Elite(everywhere, (trained, details, batch["placeholder_index"], 1.0))) as rules:
            losses = m.denoising(unet, batch, text, self.alphas) | dict(details=details)
        losses["regular"] = torch.stack([value.abs().mean() for value in rules.values]).mean()
        losses["total"] = losses["denoise"] + 0.0001 * losses["regular"]
        others = {"in.pixels": photos, "in.object_pixels": objects, "in.subject": subject}
        self.step("elite_local_step", batch, losses, dict(trained.named_parameters()), some, others=others, prompts=prompts,
                  **common)
        self.elite_sample(unet, everywhere, local.requires_grad_(False), see, photos[:1], objects[:1], subject[:1], common)

    @torch.no_grad()
    def elite_sample(self, unet, everywhere, local, see, photo, thing, subject, common):
        prompt, steps, guidance, weight, at = "a # under a tree", 5, 5.0, 0.8, 333.25
        ids, noise, mask = self.ids(prompt), torch.randn(1, 4, SIDE, SIDE), m.patches_of(subject, PATCHES)
        word, details = everywhere.words(see(photo))[:, :1], local.details(see(thing), mask)
        text = torch.cat([self.text(self.ids(""))[0], m.text_with_words(self.text, ids, self.place(ids), word)])
        times, sigmas, weights = m.multistep(self.alphas, steps)
        tensors = {"in.noise": noise, "in.pixels": photo, "in.object_pixels": thing, "in.patch_mask": mask, "out.word": word,
                   "out.details": details, "out.text": text, "out.timesteps": torch.from_numpy(times),
                   "out.sigmas": torch.from_numpy(sigmas), "out.coefficients": torch.from_numpy(weights)}
        for name, branch in (("global", None), ("local", (local, details, self.place(ids), weight))):
            with m.attending(unet, m.Elite(everywhere)) as rules:
                drawn = m.draw_multistep(unet, rules, branch, text, noise, self.alphas, steps, guidance)
                tensors |= {f"out.{name}.latents": drawn, f"out.{name}.predicted": unet(noise, at, text[1:]).sample}
        settings = dict(prompt=prompt, steps=steps, guidance=guidance, predicted_at=at) | {"lambda": weight}
        self.write("elite_sample", tensors, common | settings)

    def matching(self):
        dims, second, third = (20, 14), torch.randn(4, 48, 8, 8), torch.randn(4, 32, 16, 16)
        for x, shift in ((third, (3, -2)), (second, (1, -1))):
            x[1::2] = 0.7 * x[1::2] + x[0::2].roll(shift, (2, 3))
        tensors = {"in.second": second, "in.third": third}
        for half, pair in enumerate(m.descriptors(second, third, dims)):
            for side in (8, 16):
                found = m.matched(pair, side)
                tensors |= {f"out.{half}.{side}.{k}": v for k, v in found.items() if k != "cost" or side == 8}
        self.write("matching", tensors, dict(dims=dims))

    def dreammatcher(self, name, guiding, tries):
        """Of several draws the one whose decisions are the furthest from a tie."""
        unet = deepcopy(self.unet)
        tuned = {n: p.mul_(8) for n, p in unet.named_parameters()
                 if n.startswith(("up_blocks.2", "up_blocks.3")) and n.endswith("attn1.to_v.weight")}
        steps, dims, guidance, threshold, active = 4, (24, 16), 10.0, 0.4, range(1, 4)
        prompts = dict(empty="", reference="a photo of a # dog", prompt="oil painting: a # dog, close up")
        ids = {k: self.ids(v) for k, v in prompts.items()}
        word, best = int(self.place(ids["prompt"], "dog")), (0.0,)
        for _ in range(tries):
            vector = self.vector().detach()[None]
            with torch.no_grad():
                empty = encode_text(self.text, ids["empty"])
                named = [encode_text(self.text, ids[k], self.place(ids[k]), vector) for k in ("reference", "prompt")]
            text, latents, photo = torch.cat([empty, empty, *named]), *torch.randn(2, 1, 4, SIDE, SIDE)
            scheduler = DDIMScheduler(**SCHEDULE)
            course = m.inverted(unet, scheduler, photo, empty, steps)
            tensors, margins = {}, [1.0]

            def tell(i, log, values, outputs):
                tensors.update({f"out.{i}.{k}": v for k, v in values.items()})
                if i == 0:
                    tensors.update({f"out.0.up_block.{k}": v for k, v in outputs.items()})
                for (half, side), found in log.items():
                    tensors[f"out.{i}.{half}.{side}.to_reference"] = found["to_reference"].int()
                    tensors[f"out.{i}.{half}.{side}.confidence"] = found["confidence"]
                    tensors[f"out.{i}.foreground.{side}"] = found["foreground"]
                    limit = threshold * side * found["foreground"].mean()
                    margins.append(float((found["error"] - limit).abs().min()) / 100)
                    for dim in (0, 1):
                        two = found["cost"].topk(2, dim).values
                        margins.append(float((two.select(dim, 0) - two.select(dim, 1)).min()))

            drawn = m.draw_matched(unet, scheduler, course, latents, text, m.Matcher(SIDE, word, threshold), steps, guidance,
                                   dims, active, guiding, 50.0, tell)
            if min(margins) > best[0]:
                inputs = {"in.reference_latents": photo, "in.init_latents": latents, "in.embedding": vector}
                results = {"out.trajectory": torch.cat(course), "out.text": text, "out.latents": drawn}
                with torch.no_grad():
                    plain = m.draw_matched(unet, scheduler, course, latents, text, m.Matcher(SIDE, word, threshold), steps,
                                           guidance, dims, ())
                best = (min(margins), tensors | inputs | results | {"out.unmatched.latents": plain})
        margin, tensors = best
        assert margin > 1e-5, margin
        tensors |= {f"in.unet.{n}": p for n, p in tuned.items()}
        self.write(name, tensors, dict(
            prompts=prompts, placeholder=MARK, token_index=word, steps=steps, guidance=guidance, dims=dims,
            matched_steps=[active.start, active.stop], guided_steps=[guiding.start, guiding.stop], guidance_weight=50.0,
            threshold=threshold, smallest_margin=margin))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    recorder = Recorder(arguments.cases)
    recorder.textual_inversion()
    recorder.dreambooth("dreambooth", False)
    recorder.dreambooth("dreambooth_text", True)
    recorder.custom_diffusion()
    recorder.ancestral()
    recorder.elite()
    recorder.matching()
    recorder.dreammatcher("dreammatcher", range(0), 24)
    recorder.dreammatcher("dreammatcher_guided", range(2, 3), 12)


if __name__ == "__main__":
    main()
