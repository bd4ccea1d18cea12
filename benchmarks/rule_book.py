"""Every rule on one prompt, from the same starts and under the same settings: the picture half of notebook 04.

``python -m benchmarks.rule_book`` runs what is missing, so it can be stopped and started; ``--rules`` names some of them. It
keeps the latents under ``runs/rule_book``, and writes ``dreamlab/course/data/rule_book.json`` and the contact sheet beside it,
where rules without latents here keep what they have, if it was made with the same settings.
Nothing was tuned on the prompt, and nothing to any one rule.
"""
import argparse
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamlab.course import DATA
from dreamlab.course.rulebook import comparison
from dreamlab.files import write_json
from dreamlab.metrics.appearance import measure, references
from dreamlab.noise import seeded
from dreamlab.pipeline import Asked, work
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.prompts import Prompt
from dreamlab.report import save_image
from dreamlab.rules import RULES
from dreamlab.settings import options
from dreamlab.widgets.rule_comparison import ask

PROMPT, PICTURES, STEPS, SEEDS = "a green owl", 2, 150, 3
ORDER = [rule for rule in RULES if rule not in ("SDI", "PFD")] + ["SDI", "PFD"]  # ten times as slow as SDS, so last
RUNS = Path("runs/rule_book")
ABOUT = ("settings: what all rules share, on the method text2image; rows: by rule, then samples of the prior and true renders, "
         "the measures of each seed's pictures (dreamlab.metrics.appearance)")
KEPT = ("saturation_ratio", "sharpness_ratio", "realism", "clipped", "kind", "colour")


def plan(rule: str, seed: int) -> Asked:
    return ask(PROMPT, rule, STEPS, seed, {"start.pictures": PICTURES})


def shared(prior: DiffusionPrior) -> dict:
    """The settings that all rules have alike."""
    asked = plan("SDS", 0)
    part = asked.parts["pictures"]
    return {"prompt": PROMPT, "method": asked.method.name, "version": asked.method.version, "prior": part.prior,
            "pictures": PICTURES, "steps": STEPS, "guidance": options(part.rule)["guidance"][1], "rate": part.rates["latents"],
            "critic_rate": prior.card.critic_rate}


def one(rule: str, seed: int, prior: DiffusionPrior) -> None:
    """One run's latents, with its seconds."""
    item = next(work(plan(rule, seed), prior=prior))
    start = time.perf_counter()
    for _ in item.run(progress=False):
        pass
    seconds = time.perf_counter() - start
    RUNS.mkdir(parents=True, exist_ok=True)
    save_file(item.stage.scene.state_dict(), path(rule, seed), {"seconds": f"{seconds:.1f}"})
    print(f"{rule:14s} seed {seed}: {seconds:.0f} s", flush=True)


def path(rule: str, seed: int) -> Path:
    return RUNS / f"{rule}-{seed}.safetensors"


def done(rule: str) -> list[int]:
    return [seed for seed in range(SEEDS) if path(rule, seed).exists()]


def latents(rule: str, seed: int) -> Tensor:
    with safe_open(path(rule, seed), "pt") as file:
        return file.get_tensor("latents")


def write(prior: DiffusionPrior) -> None:
    """The table, and the contact sheet: a row a rule, all seeds side by side; then samples of the prior and true renders."""
    def through(images: Tensor) -> Tensor:
        return prior.decode(prior.encode(images))

    real, others = references(PROMPT, through=through), references(PROMPT, SEEDS * PICTURES, seed=1, through=through)
    prompt = Prompt(prior.embed([PROMPT]), prior.null)
    settings = shared(prior)
    sampled = [prior.decode(prior.sample(prompt, PICTURES, seeded(seed), settings["guidance"], offset=1))
               for seed in range(SEEDS)]
    pictures = {rule: [prior.decode(latents(rule, seed)) for seed in done(rule)] for rule in RULES if done(rule)}
    pictures |= {"samples": sampled, "renders": list(others.split(PICTURES))}
    before, sheet = comparison()
    rows, strips = before["rows"], dict(zip(before["rows"], sheet.split(real.shape[1]), strict=True))
    if before["settings"] != settings:
        rows, strips = {}, {}
    blank = torch.full_like(real[:PICTURES], 0.9)  # a run that was not made
    for name, batches in pictures.items():
        rows[name] = [{k: round(v, 3) for k, v in measure(images, PROMPT, real).items() if k in KEPT} for images in batches]
        strips[name] = torch.cat([*torch.cat(batches + [blank] * (SEEDS - len(batches)))], 1)
    rows = {name: rows[name] for name in [*RULES, "samples", "renders"] if name in rows}
    write_json(DATA / "rule_book.json", {"about": ABOUT, "settings": settings, "rows": rows})
    sheet = torch.cat([strips[name] for name in rows])
    save_image(Image.fromarray((sheet * 255).round().byte().numpy()), DATA / "rule_book.webp", quality=85)
    for name, runs in rows.items():
        print(f"{name:14s} {len(runs)} runs:", "  ".join(f"{k} {sum(r[k] for r in runs) / len(runs):.2f}" for k in KEPT))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rules", nargs="*", default=ORDER, choices=ORDER, help="none at all: only write")
    prior, chosen = DiffusionPrior.load(), arguments.parse_args().rules
    for half in (ORDER[:-2], ORDER[-2:]):
        for seed in range(SEEDS):
            for rule in half:
                if rule in chosen and not path(rule, seed).exists():
                    one(rule, seed, prior)
    write(prior)


if __name__ == "__main__":
    main()
