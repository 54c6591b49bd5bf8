"""Steps of PyTorch's optimizers on made-up gradients: optimizers.json.

python make_optimizers.py > optimizers.json      # pip install torch

Moments in bfloat16 are PyTorch's arithmetic with what is kept rounded to bfloat16 after each step: widened, updated in
float32, and the parameter follows what was not rounded (as torchao's low-bit optimizers do).
"""
import json
import math

import torch

torch.manual_seed(7)
count, steps, rate = 37, 5, 0.05
start = torch.randn(count, dtype=torch.float64)
gradients = torch.randn(steps, count, dtype=torch.float64) * torch.logspace(-3, 1, count, dtype=torch.float64)


def run(make):
    parameter = torch.nn.Parameter(start.clone())
    optimizer = make([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach().tolist()


def rounded(beta1, beta2, epsilon, decay):
    """AdamW on float32 with moments that are kept in bfloat16."""
    p = start.float()
    m = torch.zeros(count, dtype=torch.bfloat16)
    v = torch.zeros(count, dtype=torch.bfloat16)
    for step, gradient in enumerate(gradients, 1):
        g = gradient.float()
        p = p * (1 - rate * decay)
        wide_m = m.float() * beta1 + g * (1 - beta1)
        wide_v = v.float() * beta2 + g * g * (1 - beta2)
        m, v = wide_m.to(torch.bfloat16), wide_v.to(torch.bfloat16)
        root = wide_v.sqrt() / math.sqrt(1 - beta2**step) + epsilon
        p = p - rate / (1 - beta1**step) * wide_m / root
    return {"parameter": p.double().tolist(), "first": m.double().tolist(), "second": v.double().tolist()}


def orthogonal(x):
    """torch.optim.Muon's Newton-Schulz iterations, in float64 instead of bfloat16."""
    a, b, c = 3.4445, -4.775, 2.0315
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def muon(rows, columns, nesterov):
    """torch.optim.Muon's steps in float64; PyTorch's own, which rounds to bfloat16 inside, must be near."""
    begin = torch.randn(rows, columns, dtype=torch.float64)
    given = torch.randn(steps, rows, columns, dtype=torch.float64)
    momentum, decay = 0.95, 0.1
    p, m = begin.clone(), torch.zeros_like(begin)
    theirs = torch.nn.Parameter(begin.clone())
    optimizer = torch.optim.Muon(
        [theirs], lr=rate, weight_decay=decay, momentum=momentum, nesterov=nesterov, adjust_lr_fn="match_rms_adamw"
    )
    for g in given:
        m = momentum * m + (1 - momentum) * g
        update = (1 - momentum) * g + momentum * m if nesterov else m
        p = p * (1 - rate * decay) - rate * 0.2 * math.sqrt(max(rows, columns)) * orthogonal(update)
        theirs.grad = g.clone()
        optimizer.step()
    error = float((theirs.detach() - p).norm() / (begin - p).norm())
    assert error < 0.02, error
    return {
        "rows": rows,
        "nesterov": nesterov,
        "start": begin.flatten().tolist(),
        "gradients": given.flatten(1).tolist(),
        "parameter": p.flatten().tolist(),
        "first": m.flatten().tolist(),
        "distance_of_torch": error,
    }


def sgd(**options):
    return {"options": options, "parameter": run(lambda p: torch.optim.SGD(p, lr=rate, **options))}


print(
    json.dumps(
        {
            "torch": torch.__version__,
            "learning_rate": rate,
            "start": start.tolist(),
            "gradients": gradients.tolist(),
            "sgd": [
                sgd(),
                sgd(weight_decay=0.1),
                sgd(momentum=0.9),
                sgd(momentum=0.9, weight_decay=0.1),
                sgd(momentum=0.8, weight_decay=0.1, nesterov=True),
            ],
            "adamw": run(lambda p: torch.optim.AdamW(p, lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)),
            "adamw_bfloat16": rounded(0.9, 0.95, 1e-8, 0.1),
            "muon": [muon(4, 6, False), muon(6, 4, True), muon(5, 5, True)],
        }
    )
)
