"""PyTorch's times of what `eqdiff doctor --speed` times, in bf16, on the first GPU: a line each, as scripts/check-cuda.sh gpu
shows them. Sizes of Stable Diffusion 1.4's outermost level, four samples of 64 x 64 pixels."""
import time

import torch
from torch.nn import functional as f

SAMPLES, SIDE, WIDTH, HEADS, RUNS = 4, 64, 320, 8, 20


def normal(*shape, scale=1.0):
    return (torch.randn(shape, device="cuda") * scale).to(torch.bfloat16)


def show(name, operation):
    operation()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(RUNS):
        operation()
    torch.cuda.synchronize()
    print(f"{(time.perf_counter() - start) / RUNS * 1e3:9.3f} ms  {name}")


with torch.inference_mode():
    x = normal(SAMPLES, WIDTH, SIDE, SIDE).to(memory_format=torch.channels_last)
    filters = normal(WIDTH, WIDTH, 3, 3, scale=0.02).to(memory_format=torch.channels_last)
    gain, lift = normal(WIDTH, scale=0.02), normal(WIDTH, scale=0.02)
    normed = lambda: f.silu(f.group_norm(x, 32, gain, lift))
    show("3x3 convolution, 320 channels", lambda: f.conv2d(x, filters, lift, padding=1))
    show("the same after a norm, with residual", lambda: f.conv2d(normed(), filters, lift, padding=1) + x)
    show("group norm and SiLU", normed)
    tokens = normal(SAMPLES, SIDE * SIDE, WIDTH)
    weight = normal(8 * WIDTH, WIDTH, scale=0.02)
    show("layer norm", lambda: f.layer_norm(tokens, (WIDTH,), gain, lift))
    show("linear map from 320 to 2560", lambda: f.linear(tokens, weight))
    heads = tokens.view(SAMPLES, SIDE * SIDE, HEADS, WIDTH // HEADS).transpose(1, 2)
    show("attention of 4096 tokens, heads of 40", lambda: f.scaled_dot_product_attention(heads, heads, heads))
