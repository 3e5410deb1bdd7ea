"""Muon (Jordan et al. 2024): the momentum of a matrix, orthogonalised; AdamW for everything else."""
import torch


@torch.no_grad()
def orthogonal(g, steps=5):
    """Nearest semi-orthogonal matrices of a stack [k, m, n], by a quintic Newton-Schulz iteration."""
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.transpose(1, 2) if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Updates have the size that AdamW's have (0.2 a weight), so both share one learning rate."""

    def __init__(self, params, lr, momentum=0.95, decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault((len(p), p.numel() // len(p)), []).append(p)
            for shape, stack in shapes.items():
                moved = []
                for p in stack:
                    m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["momentum"])
                    moved.append(p.grad.lerp(m, group["momentum"]).view(shape))
                size = 0.2 * max(shape) ** 0.5
                for p, u in zip(stack, orthogonal(torch.stack(moved))):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(u.view_as(p), alpha=-group["lr"] * size)


class Both:
    """Muon for the matrices inside, AdamW for the rest, as one optimiser."""

    def __init__(self, module, lr, decay):
        inner = lambda n, p: p.ndim >= 2 and min(len(p), p.numel() // len(p)) > 16 and "embed" not in n
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.parts = [
            Muon([p for n, p in named if inner(n, p)], lr, decay=decay),
            torch.optim.AdamW([p for n, p in named if not inner(n, p)], lr, betas=(0.9, 0.99), weight_decay=decay, fused=True),
        ]

    @property
    def param_groups(self):
        return [g for part in self.parts for g in part.param_groups]

    def zero_grad(self, set_to_none=True):
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self):
        for part in self.parts:
            part.step()

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states):
        for part, state in zip(self.parts, states):
            part.load_state_dict(state)
