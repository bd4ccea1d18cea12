"""The bundled prior's quality: ``python -m benchmarks.prior_quality`` prints the figures and writes JSON and the sample grid.

256 samples, 25 DDIM steps, read by the judge. Of the autoencoder: PSNR on fresh renders of the held-out pairs.
"""
import argparse
import json
from pathlib import Path

import torch
from PIL import Image

from dreamlab.noise import seeded
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.prompts import Prompt
from dreamlab.toybox.captions import caption
from dreamlab.toybox.dataset import COLOUR_NAMES, KIND_NAMES, Views, backgrounds
from dreamlab.toybox.judge import Judge
from dreamlab.toybox.objects import COLOURS, HELD_OUT

WEIGHTS = Path("dreamlab/toybox/weights/prior")


def pictures(prior: DiffusionPrior, texts: list[str], seed: int, guidance: float, steps: int = 25) -> torch.Tensor:
    out = []
    for i in range(0, len(texts), 32):
        prompt = Prompt(prior.embed(texts[i : i + 32]), prior.embed([""]))
        out.append(prior.decode(prior.sample(prompt, len(prompt.positive), seeded(seed, i), guidance, steps, offset=1)))
    return torch.cat(out)


def face_threshold(judge: Judge) -> tuple[float, float]:
    """Logit of the judge that best parts true front views (|azimuth| < 45) from true back views, and its accuracy on them.

    The judge is trained to say "faces the camera", which ends at 35 degrees; a front view shows its face up to 45.
    """
    views = Views.make(48, (0.5, 0.0, 0.5), seed=7)
    g = seeded(4)
    colours = torch.tensor(list(COLOURS.values()))[torch.randint(8, (len(views.kind),), generator=g)]
    with torch.no_grad():
        logit = judge(views.paint(torch.arange(len(views.kind)), colours, backgrounds(len(colours), g)))[2]
    front = views.azimuth_deg.abs() < 45
    grid = logit.sort().values
    right = torch.stack([((logit > x) == front).float().mean() for x in grid])
    best = grid[right == right.max()].mean()
    return best.item(), right.max().item()


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--guidance", type=float, help="default: what the prior's folder says")
    arguments.add_argument("--prior", default="toybox")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/prior_quality.json"))
    args = arguments.parse_args()
    prior, judge = DiffusionPrior.load(args.prior), Judge.load()
    args.guidance = args.guidance or prior.card.guidance or 1.0
    pairs = [(k, c) for k in KIND_NAMES for c in COLOUR_NAMES]
    kind_of = torch.tensor([KIND_NAMES.index(k) for k, _ in pairs] * 4)
    colour_of = torch.tensor([COLOUR_NAMES.index(c) for _, c in pairs] * 4)
    held = torch.tensor([p in HELD_OUT for p in pairs] * 4)
    result = {"guidance": args.guidance, "samples": 256, "steps": 25}

    free = pictures(prior, [caption(k, c) for k, c in pairs] * 4, 0, args.guidance)
    kind, colour, _ = judge(free.movedim(-1, 1))
    for name, right in (("kind", kind.argmax(1) == kind_of), ("colour", colour.argmax(1) == colour_of)):
        result[name] = {"all": right.float().mean().item(), "held_out": right[held].float().mean().item(),
                        "trained": right[~held].float().mean().item()}
    threshold, result["accuracy of the face reading on renders"] = face_threshold(judge)
    for name, view in (("front", "front view"), ("back", "back view")):
        texts = [caption(k, c, view) for k, c in pairs] * 2
        _, _, front = judge(pictures(prior, texts, 1, args.guidance).movedim(-1, 1))
        result[f"face in a {name} view"] = (front > threshold).float().mean().item()
        result[f"face in a {name} view, by kind"] = {
            k: (front > threshold)[kind_of[:128] == i].float().mean().item() for i, k in enumerate(KIND_NAMES)}

    # Which view a prompt without view words gave: the view phrase under which the prior itself predicts its noise best.
    x = prior.encode(free)
    errors = []
    with torch.no_grad():
        for view in ("front view", "side view", "back view"):
            total = torch.zeros(len(x))
            for step, t in enumerate((300, 500, 700)):
                eps = torch.randn(x.shape, generator=seeded(2, step))
                for i in range(0, len(x), 32):
                    y = prior.embed([caption(k, c, view) for k, c in (pairs * 4)[i : i + 32]])
                    now = torch.full((len(y),), t)
                    (e,) = prior.eps(prior.add_noise(x[i : i + 32], eps[i : i + 32], now), now, y)
                    total[i : i + 32] += (e - eps[i : i + 32]).square().mean((1, 2, 3))
            errors.append(total)
    named = torch.stack(errors).argmin(0)
    result["views of view-free prompts"] = {
        v: (named == i).float().mean().item() for i, v in enumerate(("front", "side", "back"))}

    views = Views.make(16, (1 / 3, 1 / 3, 1 / 3), seed=99)
    held_colour = dict(HELD_OUT)
    colours = torch.tensor([COLOURS[held_colour[KIND_NAMES[k]]] for k in views.kind])
    x = views.paint(torch.arange(len(views.kind)), colours, backgrounds(len(colours), seeded(3))).movedim(1, -1)
    with torch.no_grad():
        mse = (prior.decode(prior.encode(x)) - x).square().mean((1, 2, 3))
    result["autoencoder PSNR on held-out renders"] = (-10 * mse.log10()).mean().item()
    result["weights in MB"] = sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) / 1e6

    grid = []
    for view in (None, "front view", "left side view", "right side view", "back view"):
        row = pictures(prior, [caption(k, c, view) for k, c in zip(KIND_NAMES, COLOUR_NAMES, strict=True)], 5, args.guidance)
        grid.append(torch.cat(list(row), 1))
    image = Image.fromarray((torch.cat(grid) * 255).byte().numpy())
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS).save(WEIGHTS / "samples.png")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
