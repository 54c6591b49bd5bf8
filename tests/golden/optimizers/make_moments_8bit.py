"""Steps of torchao's AdamW with moments in 8 bits: moments_8bit.json.

python make_moments_8bit.py > moments_8bit.json      # pip install torch torchao

Start and gradients are exact fractions that the test makes again. Arrays are little-endian, in base64.
"""
import base64
import json

import numpy
import torch
import torchao

torch.compile = lambda function, **options: function  # its step, as it is written
from torchao.optim import AdamW8bit  # noqa: E402
from torchao.optim.quant_utils import create_dynamic_map  # noqa: E402

count, steps, rate = 4096, 4, 0.05
place = torch.arange(count, dtype=torch.int64)
start = (place * 7919 % 2001 - 1000).float() / 1024


def gradient(step):
    """Fractions of every size down to 2^-22."""
    return (place * 104729 + step * 7907).remainder(2003).sub(1001).float() / 1024 * 2.0 ** -(
        (place * 31 + step).remainder(12)
    )


def text(array):
    return base64.b64encode(numpy.ascontiguousarray(array).tobytes()).decode()


parameter = torch.nn.Parameter(start.clone())
optimizer = AdamW8bit([parameter], lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, block_size=256)
for step in range(1, steps + 1):
    parameter.grad = gradient(step)
    optimizer.step()
state = optimizer.state[parameter]
print(
    json.dumps(
        {
            "torch": torch.__version__,
            "torchao": torchao.__version__,
            "steps": steps,
            "learning_rate": rate,
            "signed_map": create_dynamic_map(signed=True),
            "unsigned_map": create_dynamic_map(signed=False),
            "parameter": text(parameter.detach().numpy()),
            "first_codes": text(state["exp_avg"].codes.numpy()),
            "first_scales": text(state["exp_avg"].scale.numpy()),
            "second_codes": text(state["exp_avg_sq"].codes.numpy()),
            "second_scales": text(state["exp_avg_sq"].scale.numpy()),
        },
        indent=0,
    )
)
