"""The methods that Equilibrated Diffusion is compared with, in plain PyTorch over diffusers' modules, written for reading.

One attention processor serves all of them: what a method does otherwise is in the hooks of a `Rules` object. Rows of
DreamMatcher's passes: reference and picture without the prompt, reference and picture with it. Shapes as in reference.py.
"""

import math
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reference import add_noise, encode_text

TEMPLATES = """a photo of a {}|a rendering of a {}|a cropped photo of the {}|the photo of a {}|a photo of a clean {}|
a photo of a dirty {}|a dark photo of the {}|a photo of my {}|a photo of the cool {}|a close-up photo of a {}|
a bright photo of the {}|a cropped photo of a {}|a photo of the {}|a good photo of the {}|a photo of one {}|
a close-up photo of the {}|a rendition of the {}|a photo of the clean {}|a rendition of a {}|a photo of a nice {}|
a good photo of a {}|a photo of the nice {}|a photo of the small {}|a photo of the weird {}|a photo of the large {}|
a photo of a cool {}|a photo of a small {}""".replace("\n", "").split("|")


# --- attention ----------------------------------------------------------------------------------------------------------

class Rules:
    """What attention does by default: nothing special."""

    def keys_and_values(self, name, layer, states, cross):
        return layer.to_k(states), layer.to_v(states)

    def seen(self, name, layer, query, key, out, probs, cross):
        return out


class Processor:
    def __init__(self, name, rules):
        self.name, self.rules = name.removesuffix(".processor"), rules

    def __call__(self, layer, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        cross = encoder_hidden_states is not None
        query = layer.to_q(hidden_states)
        states = encoder_hidden_states if cross else hidden_states
        key, value = self.rules.keys_and_values(self.name, layer, states, cross)
        out, probs = soft_attention(query, key, value, layer.heads)
        return layer.to_out[0](self.rules.seen(self.name, layer, query, key, out, probs, cross))


def soft_attention(query, key, value, heads):
    """The heads' results [B, N, d], and their maps [B, heads, N, M]."""
    def split(x):
        return x.unflatten(2, (heads, -1)).movedim(2, 1)
    query, key, value = split(query), split(key), split(value)
    maps = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1)
    return (maps @ value).movedim(1, 2).flatten(2), maps


@contextmanager
def attending(unet, rules):
    known = dict(unet.attn_processors)
    unet.set_attn_processor({name: Processor(name, rules) for name in known})
    try:
        yield rules
    finally:
        unet.set_attn_processor(known)


class StartStays(Rules):
    """Custom Diffusion: nothing is learnt through the start-of-text token."""

    def keys_and_values(self, name, layer, states, cross):
        pair = super().keys_and_values(name, layer, states, cross)
        return tuple(torch.cat([x[:, :1].detach(), x[:, 1:]], dim=1) for x in pair) if cross else pair


# --- denoising losses ----------------------------------------------------------------------------------------------------

def denoising(unet, batch, text, alphas, prior_weight=None):
    """Prediction and losses. Where the batch has a mask, a photo's error is summed inside it and divided by its area."""
    noisy = add_noise(alphas, batch["latents"], batch["noise"], batch["timesteps"])
    predicted = unet(noisy, batch["timesteps"], text).sample
    error = (predicted - batch["noise"]).square()
    of_class = batch.get("is_prior", torch.zeros(len(error), dtype=torch.bool))
    if "mask" in batch:
        inside = (error * batch["mask"]).sum((1, 2, 3)) / batch["mask"].sum((1, 2, 3))
        denoise = inside[~of_class].mean()
    else:
        denoise = error[~of_class].mean()
    if prior_weight is None:
        return {"predicted": predicted, "denoise": denoise, "total": denoise}
    prior = error[of_class].mean()
    return {"predicted": predicted, "denoise": denoise, "prior": prior, "total": denoise + prior_weight * prior}


def text_with(encoder, batch, vector):
    count = len(batch["input_ids"])
    return encode_text(encoder, batch["input_ids"], batch["placeholder_index"], vector.expand(count, -1))


def placement(size, scale, row, column):
    """Where a photo of a drawn scale goes, and the latents that count (see the program's `Placement`)."""
    count = size // 8
    mask = torch.ones(count, count)
    if scale < 0.6 * size:
        half = scale // 2
        rows, columns = [row - half, row + half], [column - half, column + half]
        inside = [(torch.arange(count) > a // 8) & (torch.arange(count) < b // 8 - 1) for a, b in (rows, columns)]
        mask = (inside[0][:, None] & inside[1]).float()
        return dict(kind="small", resize=scale, rows=rows, columns=columns, captions=["a far away ", "very small "]), mask
    if scale > size:
        rows, columns = ([c - size // 2, c + size // 2] for c in (row, column))
        return dict(kind="zoomed", resize=scale, rows=rows, columns=columns, captions=["zoomed in ", "close up "]), mask
    return dict(kind="plain", resize=size, rows=[0, size], columns=[0, size], captions=[""]), mask


def guided(unet, latents, t, text, guidance):
    without, with_prompt = unet(latents.repeat(2, 1, 1, 1), t, text).sample.chunk(2)
    return without + guidance * (with_prompt - without)


# --- ELITE ---------------------------------------------------------------------------------------------------------------

class Mapper(nn.Module):
    """Ten networks and a key and value for each cross-attention, under the published names."""

    def __init__(self, unet, width_in, width_out, hidden):
        super().__init__()
        for i in range(5):
            for name in (f"mapping_{i}", f"mapping_patch_{i}"):
                sides = ((width_in, hidden), (hidden, hidden))
                body = [part for a, b in sides for part in (nn.Linear(a, b), nn.LayerNorm(b), nn.LeakyReLU())]
                setattr(self, name, nn.Sequential(*body, nn.Linear(hidden, width_out)))
        for name, module in unet.named_modules():
            for part in ("to_k", "to_v") if name.endswith("attn2") else ():
                own = nn.Linear(*reversed(getattr(module, part).weight.shape), bias=False)
                own.weight.data.copy_(getattr(module, part).weight)
                setattr(self, self.key(name, part), own)

    @staticmethod
    def key(layer, part):
        return layer.replace(".", "_") + "_" + part

    def of(self, layer, states):
        return tuple(getattr(self, self.key(layer, part))(states) for part in ("to_k", "to_v"))

    def pairs(self, features):
        for i, states in enumerate(features):
            yield getattr(self, f"mapping_{i}")(states[:, :1]), getattr(self, f"mapping_patch_{i}")(states[:, 1:])

    def words(self, features):
        return torch.cat([token + patches.mean(1, keepdim=True) for token, patches in self.pairs(features)], dim=1)

    def details(self, features, mask):
        return sum(token + patches for token, patches in self.pairs(features)) / 5 * mask


class Elite(Rules):
    """Keys and values of `everywhere` for texts; `local` = (mapper, details, places of the word, weight) comes on top."""

    def __init__(self, everywhere, local=None):
        self.everywhere, self.local, self.values = everywhere, local, []

    def keys_and_values(self, name, layer, states, cross):
        return self.everywhere.of(name, states) if cross else super().keys_and_values(name, layer, states, cross)

    def seen(self, name, layer, query, key, out, probs, cross):
        if not cross or self.local is None:
            return out
        mapper, details, places, weight = self.local
        own_key, value = mapper.of(name, details)
        more, _ = soft_attention(query, own_key, value, layer.heads)
        word = torch.stack([maps[:, :, place] for maps, place in zip(probs, places)])  # [B, heads, N]
        word = word / word.flatten(1).amax(1)[:, None, None]
        share = (weight * word).movedim(1, 2)[..., None]
        self.values.append(value)
        return out + (more.unflatten(2, (layer.heads, -1)) * share).flatten(2)


def text_with_words(encoder, ids, places, words):
    """Several words at the placeholder; what follows moves on."""
    def replaced(_module, _inputs, rows):
        new = [torch.cat([row[:p], w, row[p + 1:]])[:len(row)] for row, p, w in zip(rows, places, words)]
        return torch.stack(new)
    [table] = [m for n, m in encoder.named_modules() if n.endswith("token_embedding")]
    hook = table.register_forward_hook(replaced)
    try:
        return encoder(ids)[0]
    finally:
        hook.remove()


def patches_of(mask, side):
    """Nearest to 128 x 128, then nearest again: [B, side * side, 1]."""
    for size in (128, side):
        rows, columns = (torch.arange(size) * n // size for n in mask.shape[1:])
        mask = mask[:, rows][:, :, columns]
    return mask.flatten(1)[..., None]


def multistep(alphas, steps):
    """Timesteps, sigmas, and the weights of the last four predictions at every step."""
    a = alphas.double().numpy()
    times = np.linspace(0, len(a) - 1, steps)[::-1].copy()
    sigmas = np.append(np.interp(times, range(len(a)), np.sqrt(1 / a - 1)), 0)
    weights = np.zeros((steps, 4))
    for i in range(steps):
        known = sigmas[max(0, i - 3):i + 1][::-1]
        for k, mine in enumerate(known):
            others = np.delete(known, k)
            basis = np.poly1d(others, r=True) / np.prod(mine - others) if len(others) else np.poly1d([1.0])
            antiderivative = basis.integ()
            weights[i, k] = antiderivative(sigmas[i + 1]) - antiderivative(sigmas[i])
    return times, sigmas, weights


@torch.no_grad()
def draw_multistep(unet, rules, local, text, noise, alphas, steps, guidance):
    times, sigmas, weights = multistep(alphas, steps)
    latents, past = noise * sigmas[0], []
    for t, sigma, row in zip(times, sigmas, weights):
        x, t = latents / math.hypot(sigma, 1), torch.tensor(t, dtype=torch.float32)
        rules.local = None
        without = unet(x, t, text[:1]).sample
        rules.local = local
        past.insert(0, without + guidance * (unet(x, t, text[1:]).sample - without))
        latents = latents + sum(w * eps for w, eps in zip(row, past))
    return latents


# --- DreamMatcher --------------------------------------------------------------------------------------------------------

@torch.no_grad()
def inverted(unet, scheduler, latents, text, steps):
    """Clean latents and those of every step up to noise; the denoiser is asked where a step leads to."""
    scheduler.set_timesteps(steps)
    course, a = [latents], scheduler.final_alpha_cumprod
    for t in reversed(scheduler.timesteps):
        eps = unet(course[-1], t, text).sample
        clean = (course[-1] - (1 - a).sqrt() * eps) / a.sqrt()
        a = scheduler.alphas_cumprod[t]
        course.append(a.sqrt() * clean + (1 - a).sqrt() * eps)
    return course


def principal(a, b, dims):
    """Two [C, h, w] on the leading directions of all their vectors."""
    rows = torch.cat([a.flatten(1), b.flatten(1)], 1).T.double()
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    reduced = (rows @ vectors[:, -dims:]).float().T.unflatten(1, (2, *a.shape[1:]))
    return reduced[:, 0], reduced[:, 1]


def descriptors(second, third, dims):
    """For both halves, unit descriptors [C, h, w] of reference and picture."""
    second = F.interpolate(second, third.shape[2:], mode="bilinear", align_corners=True)
    halves = []
    for r in (0, 2):
        parts = principal(third[r], third[r + 1], dims[1]), principal(second[r], second[r + 1], dims[0])
        halves.append([F.normalize(torch.cat([p[i] for p in parts]), dim=0) for i in (0, 1)])
    return halves


def matched(pair, side):
    """Cosines [picture, reference], both ways' places, and how far there and back misses."""
    reference, picture = (F.normalize(F.interpolate(x[None], (side, side), mode="bilinear")[0].flatten(1), dim=0)
                          for x in pair)
    cosines = picture.T @ reference
    there, back = cosines.argmax(1), cosines.argmax(0)
    ends, starts = back[there], torch.arange(side * side)
    miss = ((ends % side - starts % side) ** 2 + (ends // side - starts // side) ** 2).sqrt()
    return dict(cost=cosines, to_reference=there, to_target=back, error=miss)


class Matcher(Rules):
    def __init__(self, side, word, threshold):
        self.side, self.word, self.threshold = side, word, threshold
        self.active = self.cut = False
        self.descriptors, self.shows, self.log = None, [], {}

    def foreground(self, side):
        m = torch.cat(self.shows).mean(0)
        m = (m - m.min()) / (m.max() - m.min())
        small = math.isqrt(len(m))
        at = torch.arange(side) * small // side
        return m.reshape(small, small)[at][:, at].flatten()

    def keep(self, half, side):
        found, soft = matched(self.descriptors[half], side), self.foreground(side)
        sure = (found["error"] < self.threshold * side * soft.mean()).float()
        self.log[half, side] = found | dict(confidence=sure, foreground=soft)
        return found["to_reference"], sure * soft

    def keys_and_values(self, name, layer, states, cross):
        key, value = super().keys_and_values(name, layer, states, cross)
        if self.active and not cross and name.startswith(("up_blocks.2", "up_blocks.3")):
            rows = list(value)
            for half in (0, 1):
                places, keep = self.keep(half, math.isqrt(value.shape[1]))
                own, theirs = rows[2 * half + 1], rows[2 * half][places]
                rows[2 * half + 1] = keep[:, None] * theirs + (1 - keep[:, None]) * own
            value = torch.stack(rows)
        return key, value

    def seen(self, name, layer, query, key, out, probs, cross):
        if cross and not name.startswith("mid") and probs.shape[2] == (self.side // 4) ** 2:
            self.shows.append(probs[3, :, :, self.word].detach())
        return out.detach() if self.cut else out


def draw_matched(unet, scheduler, course, latents, text, matcher, steps, guidance, dims, active, guiding=(), weight=0.0,
                 tell=lambda *_: None):
    outputs, hooks = {}, []
    for i in (1, 2):
        hooks.append(unet.up_blocks[i].register_forward_hook(lambda _m, _i, y, i=i: outputs.update({i: y.detach()})))
    scheduler.set_timesteps(steps)
    with attending(unet, matcher):
        for i, t in enumerate(scheduler.timesteps):
            matcher.active, matcher.cut, matcher.shows, matcher.log = i in active, i in guiding, [], {}
            rows = torch.cat([course[steps - i], latents]).repeat(2, 1, 1, 1).requires_grad_(i in guiding)
            values = {}
            with torch.set_grad_enabled(i in guiding):
                eps = unet(rows, t, text).sample
                matcher.descriptors = descriptors(outputs[1], outputs[2], dims)
                a = scheduler.alphas_cumprod[t]
                if i in guiding:
                    kept = [matcher.keep(half, matcher.side) for half in (0, 1)]
                    moved = torch.stack([course[0][0].flatten(1)[:, places] for places, _ in kept])
                    keep = torch.stack([k for _, k in kept])[:, None]
                    clean = ((latents - (1 - a).sqrt() * eps[1::2]) / a.sqrt()).flatten(2)
                    loss = (keep * (moved - clean)).square().sum() / (4 * keep.sum())
                    [slope] = torch.autograd.grad(loss, rows)
                    values = dict(loss=loss.detach(), gradient=slope)
                    eps = eps.detach() - weight * (1 - a).sqrt() * slope * torch.tensor([0., 1, 0, 1])[:, None, None, None]
            eps = eps.detach()
            tell(i, matcher.log, values, dict(outputs))
            latents = scheduler.step(eps[1:2] + guidance * (eps[3:] - eps[1:2]), t, latents).prev_sample
    for hook in hooks:
        hook.remove()
    return latents
