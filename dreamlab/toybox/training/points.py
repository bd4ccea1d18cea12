"""Training of the bundled points prior."""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm

from dreamlab.priors.points import GRID, PointField, cell_centres
from dreamlab.toybox.dataset import COLOUR_NAMES, KIND_NAMES, TRAIN_COLOURS, Views
from dreamlab.toybox.objects import COLOURS, Toy
from dreamlab.toybox.render import shade
from dreamlab.toybox.training.fit import device, fit


def train_points(out: Path, views: Views | None = None, steps: int = 3000, batch: int = 8, seed: int = 3) -> Path:
    """The coarse points prior: for every cell of a 16^3 grid, the share that is shell (up to 0.1 deep) and its mean colour.

    Held-out pairs are left out here too. Loss: binary cross-entropy on the share, and on the colour weighted by the share.
    """
    words = [*KIND_NAMES, *COLOUR_NAMES]
    centres = cell_centres()
    sub = cell_centres(4) / GRID  # 4^3 points spread over one cell
    shell, fixed, main_weight = [], [], []
    for kind in tqdm(KIND_NAMES, desc="filling grids"):
        toy = Toy(kind)
        p = (centres[:, None] + sub).reshape(-1, 3)
        d = torch.cat([toy.sdf(c) for c in p.split(1 << 16)])
        inside = ((d < 0) & (d > -0.1)).float()
        rgb, main = toy.paint(p)
        weight = torch.exp(-d.abs() / 0.03)[:, None] * (d.abs() < 0.1)[:, None] + 1e-9
        colour = torch.cat([rgb, main[:, None]], 1) * (shade(toy.normal(p), torch.zeros_like(p)) + 0.15)
        pool = (colour * weight).view(len(centres), -1, 4).sum(1) / weight.view(len(centres), -1, 1).sum(1)
        shell.append(inside.view(len(centres), -1).mean(1))
        fixed.append(pool[:, :3])
        main_weight.append(pool[:, 3:])
    shell, fixed, main_weight = (torch.stack(x).to(device()) for x in (shell, fixed, main_weight))
    palette = torch.tensor(list(COLOURS.values()), device=device())
    torch.manual_seed(seed)
    field = PointField(len(words)).to(device())

    def loss(generator):
        kind = torch.randint(len(KIND_NAMES), (batch,), generator=generator)
        colour = TRAIN_COLOURS[kind, torch.randint(TRAIN_COLOURS.shape[1], (batch,), generator=generator)]
        cells = torch.randint(len(centres), (batch, 512), generator=generator)
        row = torch.arange(batch)[:, None]
        share = shell[kind][row, cells]
        rgb = (fixed[kind] + main_weight[kind] * palette[colour][:, None])[row, cells].clamp(0, 1)
        bag = field.embedding(torch.stack([kind, colour + len(KIND_NAMES)], 1).to(device())).sum(1)
        out = field(centres.to(device())[cells], bag)
        bce = nn.functional.binary_cross_entropy_with_logits
        return bce(out[..., 0], share) + 2 * (bce(out[..., 1:], rgb, reduction="none").mean(-1) * share).mean()

    fit({"field": field}, loss, steps, 3e-3, out / "checkpoints/points.pt", ema=0.99, seed=seed)
    folder = out / "points"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.json").write_text(json.dumps(words) + "\n")
    save_file({k: v.half().contiguous().cpu() for k, v in field.state_dict().items()}, folder / "model.safetensors")
    return folder
