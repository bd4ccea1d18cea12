"""What the trainings share: the device, the loop with its checkpoint, and bfloat16."""
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dreamlab.files import Refused, check_weights, writing
from dreamlab.noise import seeded


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(modules: dict[str, nn.Module], loss: Callable[[torch.Generator], Tensor], steps: int, lr: float, checkpoint: Path,
        ema: float = 0.0, seed: int = 0, weight_decay: float = 1e-2) -> None:
    """AdamW with 100 steps of warm-up and a cosine to zero; resumes from ``checkpoint`` and leaves it when done.

    With ``ema`` > 0 the modules end at the exponential moving average of their weights. OSError for a checkpoint that cannot
    be read, ``files.Refused`` for one of other modules.
    """
    nets = nn.ModuleDict(modules)
    params = [p for p in nets.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)
    average = [p.detach().clone() for p in params] if ema else []
    start, mend = 0, "remove it to train anew"
    if checkpoint.exists():
        try:
            state = torch.load(checkpoint, weights_only=True, map_location=device())
            moments = {f"{i}.{k}": (v, params[i]) for i, held in state["optimiser"]["state"].items()
                       for k, v in held.items() if k != "step"}
            name = lambda tensors: {str(i): x for i, x in enumerate(tensors)}  # noqa: E731
            for found, like in ((state["nets"], nets.state_dict()), (name(state["average"]), name(average)),
                                ({k: v for k, (v, _) in moments.items()}, {k: p for k, (_, p) in moments.items()})):
                check_weights(checkpoint, found, like, mend)
            nets.load_state_dict(state["nets"])
            optimiser.load_state_dict(state["optimiser"])
            average, start = state["average"], state["step"]
        except Refused:
            raise
        except Exception as error:  # pickle raises what it likes
            raise OSError(f"the checkpoint {checkpoint} cannot be read, it is damaged or something else: {mend}") from error
        if start > steps:
            raise ValueError(f"{checkpoint} has made {start} steps, got steps {steps}: raise steps, or remove it to train anew")
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=checkpoint.stem, mininterval=10)
    running = None

    def save(step):
        with writing(checkpoint) as part:
            torch.save({"nets": nets.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step}, part)

    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        value = loss(seeded(seed, step))
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        decay = min(ema, (step + 1) / (step + 10))
        for a, p in zip(average, params, strict=False):
            a.lerp_(p.detach(), 1 - decay)
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save(step + 1)
    for a, p in zip(average, params, strict=False):
        p.data.copy_(a)


def amp():
    """bfloat16 autocast: about a third faster on CPUs that have it, and the usual choice on a GPU."""
    return torch.autocast(device().type, torch.bfloat16)
