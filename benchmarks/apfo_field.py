"""DreamFlow's claim about time, tried in 3D: APFO beside VSD on one radiance field: ``python -m benchmarks.apfo_field``.

Field, cameras, critic, guidance and views of a step are the same; a seed comes with its own prompt and reaches the field, the
cameras, the noise and the critic. APFO's grid is made for its budget, so a quarter of the budget is a run of its own; VSD draws
its t anew at each step, as ProlificDreamer does, and is looked at on its way. Each run keeps the loss (mean square of the
residual over its weight, so that both are in units of noise) and the norm of the gradient of every step, four fixed views at
every tenth of the run, and what was measured. Rows go to ``dreamlab/course/data/apfo_field.json`` as they come.
"""
import json
import time
from datetime import date

import torch

from dreamlab.cameras import ring
from dreamlab.course import DATA
from dreamlab.files import write_text
from dreamlab.methods import METHODS
from dreamlab.metrics.truth import truth
from dreamlab.pipeline import Part
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.schedules import Annealed
from dreamlab.stage import run
from dreamlab.toybox.captions import parse
from dreamlab.toybox.render import blur

PROMPTS = ["a red mug", "a blue duck", "a green robot", "an orange bear", "a purple house"]  # one for each seed
BUDGETS = (30, 60, 120)  # steps: 25, 50 and 100 %
FILE = DATA / "apfo_field.json"
FIELD = METHODS["dreamflow"].toy["nerf"]
MEASURES = ("iou", "psnr", "score", "p_kind", "p_colour", "fronts", "view_ratio", "sharpness_ratio", "saturation_ratio")


def part(rule: str, budget: int) -> Part:
    """The field's part under one of the two rules."""
    if rule == "APFO":
        return FIELD.set({"rule.grid.points": budget, "rule.guidance": 4.5, "rule.critic": "lora", "rule.weight": "none"})
    return FIELD.set({"rule": "VSD", "rule.guidance": 4.5, "timesteps": Annealed(980, 500, since=0.2, until=0.2),
                      "steps": budget})


def one(rule: str, budget: int, seed: int, prior: DiffusionPrior) -> list[dict]:
    """A run: its rows, for APFO one at its end, for VSD one at each of the budgets."""
    prompt, stage = PROMPTS[seed], part(rule, budget).build(PROMPTS[seed], prior, seed)
    looks = {round(budget * k / 10) for k in range(11)}
    course, views, rows, spent = {"loss": [], "norm": [], "t": []}, [], [], 0.0

    @torch.no_grad()
    def look():
        shown = stage.scene.render(ring(4), 64, torch.ones(3)).rgb.permute(0, 3, 1, 2)
        views.append(blur(shown, 1.5))

    look()
    begin = time.process_time()
    for step in run(stage, progress=False):
        weight = step.residual.weight.view(-1, 1, 1, 1)
        course["loss"].append(round((step.residual.value / weight).square().mean().item(), 5))
        course["norm"].append(round(step.grad_norm, 6))
        course["t"].append(int(step.t.float().mean()))
        done, spent = step.step + 1, spent + time.process_time() - begin
        if done in looks:
            look()
        if done == budget or rule == "VSD" and done in BUDGETS:
            with torch.no_grad():
                found = truth(stage.scene.render, *parse(prompt)).asdict()
            rows.append({"rule": rule, "budget": done, "seed": seed, "prompt": prompt, "seconds": round(spent, 1)} | {
                k: round(found[k], 4) for k in MEASURES})
        begin = time.process_time()
    moved = [(b - a).square().mean().sqrt().item() for a, b in zip(views, views[1:], strict=False)]
    rows[-1] |= {"course": course, "moved": [round(m, 5) for m in moved],
                 "net": round((views[-1] - views[0]).square().mean().sqrt().item(), 5)}
    return rows


def main() -> None:
    table = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    prior = DiffusionPrior.load(FIELD.prior)
    for seed in range(len(PROMPTS)):
        for rule, budgets in (("APFO", BUDGETS), ("VSD", BUDGETS[-1:])):
            for budget in budgets:
                if any((r["rule"], r["budget"], r["seed"]) == (rule, budget, seed) for r in table):
                    continue
                table += one(rule, budget, seed, prior)
                write_text(FILE, json.dumps({"date": str(date.today()), "torch": torch.__version__, "rows": table}) + "\n")
                print(seed, rule, budget, "done", flush=True)


if __name__ == "__main__":
    main()
