"""The stored sweeps under the names of today: ``python -m benchmarks.rename_rows 7785ace`` gives their rows new tags.

It proves first, for every row, that only names changed. That commit and this one each build the row's run from their own table,
say all that it consists of (scene, rule, timesteps, rates, cameras, prompts, loop), take its first step, and hash the leaves
before and after; everything must be equal. Random streams have names since then, so here alone they are the old ones. The new
tags are of ``version`` 1 of the methods: today's version 2 draws otherwise, and its runs are told apart from these.
"""
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from dreamlab.files import writing

ROOT = Path(__file__).parents[1]
DATA = ROOT / "dreamlab/course/data"
TABLES = ("demo", "dreammapping", "janus")

COMMON = '''
import hashlib, json, sys, tomllib
from pathlib import Path
import torch
from dreamlab import stage as loop
from dreamlab.cameras import ring
from dreamlab.noise import seeded
from dreamlab.sweep import jobs

def digest(tensors):
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]

def numbers(thing):
    return {k: repr(v) for k, v in vars(thing).items() if isinstance(v, (int, float, str, bool, tuple))}

def say(plan, betas):
    rule, prompt = plan.rule, plan.prompts(ring(5))
    learner = getattr(rule, "learner", None) or getattr(getattr(rule, "critic", None), "learner", None)
    found = {
        "scene": type(plan.scene).__name__, "leaves": digest(plan.scene.parameters()),
        "prior": digest(dict(plan.prior.unet.state_dict())), "rule": type(rule).__name__, "fields": numbers(rule),
        "weight": rule.weight.__name__, "state": digest(rule.state_dict()),
        "rate": learner and learner.optimizer.param_groups[0]["lr"],
        "timesteps": [type(plan.timesteps).__name__, numbers(plan.timesteps)],
        "rates": plan.rates, "decay": [type(plan.decay).__name__, numbers(plan.decay)], "betas": betas,
        "cameras": [type(plan.cameras).__name__, numbers(plan.cameras)],
        "growth": plan.growth and 1, "regularise": plan.regularise and 1,
        "background": plan.background.__name__, "loop": [plan.steps, plan.views, plan.resolution, plan.seed],
        "prompt": digest({"y": prompt.positive, "null": prompt.null, "negative": prompt.negative,
                          **{f"perp{i}{j}": x for i, pair in enumerate(prompt.perp) for j, x in enumerate(pair)}})}
    loop.advance(plan, loop.make_optimiser(plan), 0)
    return found | {"after a step": digest(plan.scene.parameters())}

found = {}
for name in sys.argv[1:]:
    for job in jobs(tomllib.loads(Path(f"sweeps/{name}.toml").read_text())):
        plan, betas, tag = build(job)
        found[f"{name}/{job.key}"] = [tag, say(plan, betas)]
print(json.dumps(found))
'''
OLD = '''
def build(job):
    from dreamlab.pipelines.dreammapping import stage
    plan = stage(job.settings)
    return plan, plan.betas, job.tag
'''
NEW = '''
import dreamlab.pipeline, dreamlab.priors.critic, dreamlab.rules.vdm
from dreamlab.noise import seeded
dreamlab.pipeline.stream = lambda seed, name, index=0: seeded(seed)
dreamlab.rules.vdm.stream = lambda seed, name, index=0: None
dreamlab.priors.critic.subseed = lambda seed, name, index=0: 0
dreamlab.priors.critic.stream = lambda seed, name, index=0: seeded(0, -1 - index)

def build(job):
    part, = job.asked.parts.values()
    plan = part.build(job.asked.prompt, seed=job.asked.seed)
    return plan, plan.optimiser.betas, job.asked.tag("shape", version=1)
'''


def told(build: str, where: Path) -> dict[str, list]:
    """Tag and description of every run of the tables, as the code in a folder has it."""
    out = subprocess.run([sys.executable, "-c", build + COMMON, *TABLES], check=True, cwd=where, capture_output=True, text=True)
    return json.loads(out.stdout)


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["git", "clone", "-q", str(ROOT), place], check=True)
        subprocess.run(["git", "checkout", "-q", sys.argv[1]], check=True, cwd=place)
        old, new = told(OLD, Path(place)), told(NEW, ROOT)
    wrong = [key for key in old.keys() | new.keys() if key not in old or key not in new or old[key][1] != new[key][1]]
    for key in wrong[:5]:
        parts = [name for name in old.get(key, ["", {}])[1] if old[key][1][name] != new.get(key, ["", {}])[1].get(name)]
        print(f"{key} differs in {', '.join(parts) or 'being there'}")
    if wrong:
        print(f"{len(wrong)} of {len(old)} runs are not the same: nothing is renamed")
        return 1
    for name in TABLES:
        path = DATA / f"{name}.csv"
        with open(path, newline="") as file:
            rows = list(csv.reader(file))
        columns = [rows[0].index(column) for column in ("method", "prompt", "seed", "tag")]
        for row in rows[1:]:
            method, prompt, seed, tag = (row[i] for i in columns)
            before, after = old[key := f"{name}/{(method, prompt, int(seed))}"][0], new[key][0]
            if tag not in (before, after):
                raise SystemExit(f"{path}: the row {key} has the tag {tag}, and its run was {before}: nothing more is renamed")
            row[columns[-1]] = after
        with writing(path) as part, open(part, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    print(f"{len(old)} runs are the same in everything they consist of and after a step, bit for bit; their rows are renamed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
