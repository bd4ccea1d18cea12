"""Laws of the distillation rules. The first ones hold for each of ``RULES``, on five priors; then SDS, VDM, U-Lite."""
import ast
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
from laws import (
    law_direction,
    law_elements,
    law_guidance_is_the_response,
    law_guidance_one_is_none,
    law_prior_untouched,
    law_restored,
    law_weight,
)
from torch import nn
from zoo import PRIORS, UNGUIDED, Constant, again, build, build_apart, inputs, pixels, prior

from dreamlab import rules
from dreamlab.noise import per_sample, randn, seeded, stream
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.rules import OPERATORS, RULES, SDS, VDM, VSD, LinearOperator, NoisyOperator, Residual, ULite, distill
from dreamlab.schedules import Annealed, Cosine, Grid, Uniform, dca_lambda, one, sigma2

ANY = torch.tensor([-1])


def of_pixels():
    """Prior, x, t, eps, prompt: four pictures."""
    return prior("pixels"), *inputs(prior("pixels"), n=4)


every_rule = pytest.mark.parametrize("name", RULES)


# For every rule.


@pytest.mark.parametrize("where", PRIORS)
@every_rule
def test_every_rule_on_every_prior(name, where, tmp_path):
    """Shape, finite, the gradient is the residual, the prior untouched, the same seed the same, restored and continued."""
    here = prior(where)
    with law_prior_untouched(here):
        law_restored(build(name, here), build(name, here), here, tmp_path)


@every_rule
def test_the_residual_is_w_times_a_direction(name):
    for here in (prior("points"), prior("eps")):
        law_weight(partial(build, name, here), here)


@every_rule
def test_an_element_of_the_batch_is_alone(name):
    """But for what is learnt from the batch: critics are frozen here, and VDM's operator has no BatchNorm."""
    for here in (prior("points"), prior("eps")):
        law_elements(partial(build_apart, name, here), here)


@pytest.mark.parametrize("name", [name for name in RULES if name not in UNGUIDED | {"ISM", "LODS"}])
def test_guidance_of_one_is_none(name):
    """Left out: ISM, whose path the null prompt carries whatever s is; LODS, whose critic stands in for the null prompt."""
    for here in (prior("points"), prior("eps")):
        law_guidance_one_is_none(partial(build, name, here), here)


@pytest.mark.parametrize("name", ["SDS", "VSD", "NFSD", "ISM", "LMCSDS", "APFO"])
def test_guidance_is_diffusers_s(name):
    """Left out: CSD, SSD have none, LODS divides by s, VDM, ASD hold eps_y in what they learn, the others move x_t by it."""
    here = Constant()
    law_guidance_is_the_response(partial(build_apart, name, here), here)


@pytest.mark.parametrize("where", ["points", "pixels"])
@every_rule
def test_descending_goes_towards_what_is_asked_for(name, where):
    law_direction(partial(build, name, prior(where)), prior(where))


REACH = {"SDS", "VSD", "VDM", "APFO", "ASD", "LMCSDS"}


@every_rule
def test_pictures_end_at_a_prompted_image(name):
    """All end nearest to an image of the prompt. The rules without a term that holds x to the prior (CSD, SSD, LODS, ISM, ...)
    stop where the prompt is as good as certain; the others reach the image."""
    here = prior("pixels")
    rule, generator = build(name, here, **({} if name in UNGUIDED | {"LODS"} else {"guidance": 7.5})), seeded(0)
    x, _, _, wanted = inputs(here, n=4)
    x = (0.3 * x).requires_grad_()
    adam = torch.optim.Adam([x])
    steps, rate = (150, 0.05) if name in REACH else (60, 0.1)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * Cosine(final=0.05)(step, steps)
        t = Annealed(900, 200, until=0.8)(step, steps, 4, generator)
        adam.zero_grad()
        distill(x, rule(here, x, t, randn(tuple(x.shape), generator), wanted)).backward()
        adam.step()
    distance = (x.detach()[:, None] - here.images).square().mean((2, 3, 4)).sqrt()
    warm, cold = distance[:, :5].min(1).values, distance[:, 5:].min(1).values
    assert (warm < 0.9 * cold).all() and warm.max() < (0.15 if name in REACH else 0.9)


@every_rule
def test_parts_are_the_predictions_of_the_prior(name):
    here = prior("pixels")
    x, t, eps, prompt = inputs(here)
    parts = build(name, here)(here, x, t, eps, prompt).parts
    assert parts and all(part.shape in (x.shape, (1, *x.shape[1:])) for part in parts.values())
    x_t = here.add_noise(x, eps, t)
    named = dict(zip(("conditional", "unconditional", "negative"),
                     here.eps(x_t, t, prompt.positive, prompt.null, prompt.negative), strict=True)) | {"noise": eps}
    moved = {"ISM": {"conditional", "unconditional"}, "Consistent3D": {"noise"}}.get(name, set())  # another x_t, another noise
    for part in parts.keys() & named.keys() - moved:
        torch.testing.assert_close(parts[part], named[part], msg=part)


@every_rule
def test_bad_input_is_named(name):
    here = prior("points")
    x, t, eps, wanted = inputs(here)
    rule = build(name, here)
    for late in (1000, -1):
        with pytest.raises(ValueError, match=rf"t must lie in \[0, 999\], got {late}"):
            rule(here, x, torch.tensor([1, 2, late]), eps, wanted)
    with pytest.raises(ValueError, match="not finite"):
        rule(here, x * float("inf"), t, eps, wanted)
    with pytest.raises(ValueError, match="turn text into one with prior.embed"):
        rule(here, x, t, eps, Prompt("a red mug", wanted.null))
    wanted.positive = "a red mug"  # behind the back of Prompt
    with pytest.raises(ValueError, match="embed"):
        rule(here, x, t, eps, wanted)


LEAST = {"SDS": 0.0}  # s = 0 is SDS under the null prompt; all others want 1


@every_rule
def test_guidance_below_its_least_is_named_before_any_step(name):
    least = LEAST.get(name, 1.0)
    if name in UNGUIDED:
        with pytest.raises(TypeError, match="guidance"):
            build(name, prior("points"), guidance=2.0)
        return
    assert build(name, prior("points"), guidance=least).guidance == least
    for bad in (least - 0.1, -7.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"guidance must be >= {least:g} in {name} .* and finite, got {bad}"):
            build(name, prior("points"), guidance=bad)


NAN, INF = float("nan"), float("inf")
CUTOFF = r"must be a whole number in \[-1, 100000\], got"


@pytest.mark.parametrize("name, settings, message", [
    ("ASD", {"gamma": -1.0}, r"ASD.gamma must be a number in \(-1, 0\], got -1"), ("ASD", {"gamma": 0.5}, "got 0.5"),
    ("ASD", {"gamma": NAN}, "got nan"), ("CSD", {"negative": 1.5}, r"CSD.negative must be a number in \[0, 1\], got 1.5"),
    ("CSD", {"negative": -0.1}, "got -0.1"), ("Consistent3D", {"interval": -5}, "whole number in .*, got -5: change"),
    ("ISM", {"interval": -5}, r"ISM.interval must be a whole number in \[0, 100000\], got -5: change ISM.interval"),
    ("ISM", {"stride": 0}, r"ISM.stride must be a whole number in \[1, 1000000\], got 0"),  # a step of 0 would never arrive
    ("LMCSDS", {"pretrain": -1}, r"pretrain must be a whole number in \[0, 1000000\], got -1"),
    ("NFSD", {"cutoff": -2}, f"NFSD.cutoff {CUTOFF} -2"), ("PFD", {"steps": 0}, "PFD.steps .*, got 0"),
    ("PFD", {"stride": 0}, "PFD.stride must be"), ("SDI", {"stride": 0}, "SDI.stride must be"),
    ("SDI", {"inversion_guidance": INF}, "SDI.inversion_guidance must be a number or none, got inf"),
    ("SSD", {"switch": 10**6}, f"SSD.switch {CUTOFF} 1000000"), ("VDM", {"cutoff": -2}, f"VDM.cutoff {CUTOFF} -2"),
    ("VDM", {"lr": 0.0}, "VDM.lr must be a number above 0, got 0.0"), ("VDM", {"lr": NAN}, "VDM.lr .*, got nan")])
def test_settings_out_of_range_are_named_before_any_step(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build(name, prior("points"), **settings)


@every_rule
def test_every_field_says_what_it_cannot_be(name):
    rule = build(name, prior("points"))
    for field in fields(rule):
        value = getattr(rule, field.name)
        for wrong in ["sigma2", NAN, INF, -INF, [1]] if type(value) in (int, float) else ["no", [1]]:
            with pytest.raises(ValueError, match=rf"{field.name} must be .*, got ") as error:
                again(rule, **{field.name: wrong})
            assert repr(wrong) in str(error.value) and "\n" not in str(error.value)
        again(rule, **{field.name: value})


def test_strings_for_numbers_are_named_without_the_type_checker_of_the_tests():
    code = """
from dreamlab.priors.critic import ExactCritic
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.rules import LMCSDS, VDM, VSD
import torch
here = GaussianMixturePrior(torch.zeros(1, 2))
for make in (lambda: VDM.for_prior(here, dca="no"), lambda: VDM.for_prior(here, cutoff=float("nan")),
             lambda: VSD.for_prior(here, critic_rate="fast"), lambda: VSD.for_prior(here, guidance="7.5"),
             lambda: LMCSDS.for_prior(here, pretrain=0.5), lambda: ExactCritic(here, std="wide")):
    try:
        make()
    except ValueError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(said) == 6 and [line.split(", got ")[1].split(":")[0] for line in said] == [
        "'no'", "nan", "'fast'", "'7.5'", "0.5", "'wide'"]


# What a rule says of itself.


@every_rule
def test_reads_negative_is_true_where_the_negative_prompt_counts(name):
    here = prior("points")
    x, t, eps, prompt = inputs(here)
    settings = {"negative": 0.5} if name == "CSD" else {}
    one, other = (build(name, here, **settings)(here, x, t, eps, Prompt(prompt.positive, prompt.null, negative)).value
                  for negative in (torch.tensor([2]), torch.tensor([0])))
    assert torch.equal(one, other) != getattr(rules, name).reads_negative


@every_rule
def test_reads_perp_is_true_where_perp_neg_counts(name):
    here = prior("points")
    x, t, eps, prompt = inputs(here)
    steered = Prompt(prompt.positive, prompt.null, prompt.negative, ((torch.tensor([2]), torch.full((3,), -1.0)),))
    if not getattr(rules, name).reads_perp:
        rule = build(name, here)
        with pytest.raises(ValueError, match=f"{name} .*no guided prediction that Perp-Neg could move: choose another rule"):
            rule(here, x, t, eps, steered)
        assert rule.critic.fits == 0
        return
    one, other = (build(name, here)(here, x, t, eps, prompt).value for prompt in (prompt, steered))
    assert not torch.allclose(one, other, rtol=1e-3)


@every_rule
def test_only_apfo_asks_for_its_timesteps(name):
    rule = build(name, prior("points"), **{"grid": Grid(points=50)} if name == "APFO" else {})
    assert rule.timesteps == (Grid(points=50) if name == "APFO" else None)


# One seed reaches whatever is random; no two things share numbers.


RANDOM = {"VSD", "APFO", "ASD", "LODS", "VDM", "LMCSDS", "Consistent3D"}


@every_rule
def test_the_seed_makes_what_is_random(name):
    """Of two calls; of the first alone where the critic has not yet moved away from where it started."""
    here = prior("eps")

    def second(seed):
        rule = build(name, here, seed=seed)
        rule(here, *inputs(here))
        return rule(here, *inputs(here, 1)).value

    a, b, c = map(second, (3, 3, 4))
    assert torch.equal(a, b) and torch.equal(a, c) != (name in RANDOM)


def parts(rule) -> torch.Tensor:
    module = rule.operator if isinstance(rule, VDM) else rule.b
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_seed_makes_operators_and_lmcs_network_and_its_training():
    here = prior("eps")
    for make in (partial(build, "VDM", here), partial(build, "VDM", here, operator=OPERATORS["NoisyOperator"]),
                 partial(build, "LMCSDS", here, pretrain=0), partial(build, "LMCSDS", prior("points"), pretrain=2)):
        a, b, c = (parts(make(seed=seed)) for seed in (0, 0, 1))
        assert torch.equal(a, b) and not torch.equal(a, c)
    one, other = build("Consistent3D", here, seed=5), build("Consistent3D", here, seed=6)
    assert (one.seed, other.seed) == (5, 6)
    same, other = (rule(here, *inputs(here)).parts["noise"] for rule in (one, other))
    assert not torch.allclose(same, other)


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest correlation of two sequences over all shifts: 1 where one is in the other."""
    a, b = ((v - v.mean()) / v.std() for v in (a.flatten(), b.flatten()))
    n = len(a) + len(b)
    return float((torch.fft.irfft(torch.fft.rfft(a, n) * torch.fft.rfft(b, n).conj(), n) / min(len(a), len(b))).abs().max())


def test_no_two_streams_share_numbers():
    """Start noise, a critic's draws, the fixed noise of Consistent3D, steps of the run, all at one seed."""
    here = GaussianMixturePrior(torch.zeros(1, 2), 0.5)
    x = torch.zeros(8000, 2)
    critic = VSD.for_prior(here, seed=0).critic
    draws = {"start": randn((8000, 2), stream(0, "start")), "step": randn((8000, 2), seeded(0, 0)), "first": critic.draw(x)[1]}
    critic.fits = 1
    draws["second"] = critic.draw(x)[1]
    wide = GaussianMixturePrior(torch.zeros(1, 16000), 0.5)
    args = torch.zeros(1, 16000), torch.tensor([5]), torch.zeros(1, 16000), Prompt(torch.tensor([0]), torch.tensor([0]))
    draws["fixed"] = build("Consistent3D", wide)(wide, *args).parts["noise"]
    assert overlap(draws["start"], draws["start"][500:]) > 0.9
    found = {(a, b): overlap(draws[a], draws[b]) for a, b in combinations(draws, 2)}
    assert max(found.values()) < 0.05, found


@pytest.mark.parametrize("name", ["VSD", "APFO", "ASD", "LODS"])
def test_a_critic_of_another_prior_is_named_before_any_step(name):
    rule, calls = build(name, prior("points")), []
    here = pixels()
    here._eps = lambda *args: calls.append(args)
    with pytest.raises(ValueError, match=r"\(GaussianMixturePrior\) .*ImageMixturePrior.* not \(3, 16, 16\): build it there"):
        rule(here, *inputs(here))
    assert not calls and rule.critic.fits == 0


def test_a_state_of_another_rule_is_an_error():
    state = build("VSD", prior("eps")).state_dict()
    for name in RULES:
        rule = build(name, prior("eps"))
        if name in {"VSD", "APFO", "ASD"}:
            rule.load_state_dict(state)
        else:
            with pytest.raises(ValueError, match="has no state|build the module it was saved from"):
                rule.load_state_dict(state)


def test_distill_wants_the_x_of_the_residual():
    with pytest.raises(ValueError, match=r"\(2, 3\) and its residual \(4, 3\)"):
        distill(torch.zeros(2, 3), Residual(torch.zeros(4, 3), torch.ones(4)))


# A reader finds a rule in one short file (the layout of the package is a promise too).


FILES = {file.stem: file for file in sorted((Path(__file__).parents[1] / "dreamlab/rules").glob("*.py"))}


def code(file: Path) -> list[str]:
    """Its lines of code: no blanks, comments, docstrings, imports or decorators, nor the one signature that all rules share."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not isinstance(n, ast.Import | ast.ImportFrom)
                         and not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))] or [ast.Pass()]
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            node.decorator_list = []
    return [line.strip() for line in ast.unparse(tree).splitlines() if line.strip() and "def __call__(" not in line]


def shared_run(a: list[str], b: list[str]) -> int:
    """The length of the longest run of lines that both have."""
    runs, longest = {}, 0
    for line in a:
        runs = {j: runs.get(j - 1, 0) + 1 for j, other in enumerate(b) if line == other}
        longest = max([longest, *runs.values()])
    return longest


def test_rule_files_are_short():
    lengths = {name: len(file.read_text().splitlines()) for name, file in FILES.items()}
    assert max(lengths.values()) <= 120, lengths
    assert lengths["sds"] + lengths["base"] < 150


def test_no_two_rules_share_six_lines():
    assert shared_run(["a", "b", "c", "d"], ["x", "b", "c", "y", "b", "c", "d"]) == 3
    lines = {name: code(file) for name, file in FILES.items()}
    assert len(lines) > 14 and all("return self.weigh(" in "".join(lines[name]) for name in ("sds", "vsd", "vdm", "csd"))
    shared = {(a, b): shared_run(lines[a], lines[b]) for a, b in combinations(lines, 2)}
    assert max(shared.values()) < 6, {pair: n for pair, n in shared.items() if n > 5}


# Mode seeking on the exact prior.


def descend(rule, sign: float = 1.0, label: int = 1, t_max: int = 700, steps: int = 200):
    """64 points started all over the plane, after gradient descent with a rate that falls to zero; and the prior."""
    generator = torch.Generator().manual_seed(0)
    prior = GaussianMixturePrior(torch.tensor([[-1.5, 0.0], [1.5, 0.5], [0.0, -1.5]]), 0.1)
    prompt = Prompt(torch.tensor([label]), ANY)
    x = (2 * randn((64, 2), generator)).requires_grad_()
    for step in range(steps):
        t = Uniform(20, t_max)(step, steps, 64, generator)
        loss = distill(x, rule(prior, x, t, randn((64, 2), generator), prompt))
        gradient, = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x -= sign * 0.2 * (1 - step / steps) * gradient
    return x.detach(), prior


def test_sds_with_the_flipped_sign_runs_away_from_the_mode():
    x, prior = descend(SDS(guidance=1.0), sign=-1.0)
    assert (x - prior.means[1]).norm(dim=1).min() > 1


def test_unprompted_sds_seeks_the_modes_at_small_t_and_their_middle_at_large_t():
    x, prior = descend(SDS(guidance=1.0), label=-1, t_max=200)
    nearest = torch.cdist(x, prior.means).min(1)
    assert nearest.values.max() < 0.2 and len(nearest.indices.unique()) == 3
    x, prior = descend(SDS(guidance=1.0), label=-1, t_max=980)
    assert torch.cdist(x, prior.means).min() > 0.5 and x.std(0).max() < 0.3


def test_sds_is_its_equation():
    prior, x, t, eps, prompt = of_pixels()
    eps_y, eps_null = prior.eps(prior.add_noise(x.detach(), eps, t), t, prompt.positive, prompt.null)
    expected = per_sample(sigma2(prior.schedule, t), x) * (eps_null + 7.5 * (eps_y - eps_null) - eps)
    torch.testing.assert_close(SDS(guidance=7.5)(prior, x, t, eps, prompt).value, expected)


# VDM: the equation, its two limits, DCA.


class Oracle(nn.Module):
    """Recovers the injected noise."""

    def forward(self, predicted):
        return self.eps


def test_vdm_with_the_identity_keeps_only_guidance():
    prior, x, t, eps, prompt = of_pixels()
    for operator in (nn.Identity(), LinearOperator(prior.shape), NoisyOperator(nn.Identity(), prior.shape)):
        residual = VDM(operator, guidance=7.5, dca=False, weight=one)(prior, x, t, eps, prompt)
        difference = residual.parts["conditional"] - residual.parts["unconditional"]
        torch.testing.assert_close(residual.value, 6.5 * difference, atol=1e-5, rtol=1e-5)
    assert VDM(nn.Identity(), guidance=1.0, dca=False)(prior, x, t, eps, prompt).value.abs().max() < 1e-5


def test_vdm_with_an_oracle_is_sds():
    prior, x, t, eps, prompt = of_pixels()
    oracle = Oracle()
    oracle.eps = eps
    vdm = VDM(oracle, guidance=7.5, dca=False, weight=sigma2)(prior, x, t, eps, prompt)
    assert torch.equal(vdm.value, SDS(guidance=7.5)(prior, x, t, eps, prompt).value) and vdm.loss == 0


def test_vdm_with_an_oracle_finds_the_mode_and_flipped_does_not():
    class Rule:
        vdm = VDM(Oracle(), guidance=1.0, dca=False, weight=sigma2)

        def __call__(self, prior, x, t, eps, prompt):
            self.vdm.operator.eps = eps
            return self.vdm(prior, x, t, eps, prompt)

    for sign, near in ((1.0, True), (-1.0, False)):
        x, prior = descend(Rule(), sign=sign)
        assert bool(((x - prior.means[1]).norm(dim=1) < 0.1).all()) == near


@pytest.mark.parametrize("t, lam", [(20, 0.0187), (299, 0.4078), (300, 0.4095), (301, 1.0), (900, 1.0)])
def test_dca_weighs_the_variational_term(t, lam):
    prior, x, _, eps, prompt = of_pixels()
    residual = VDM(LinearOperator(prior.shape), weight=one)(prior, x, torch.full((4,), t), eps, prompt)
    eps_y, eps_null, M = (residual.parts[k] for k in ("conditional", "unconditional", "variational"))
    torch.testing.assert_close(residual.value, eps_y - lam * M + 6.5 * (eps_y - eps_null), atol=2e-3, rtol=0)
    assert dca_lambda(prior.schedule, torch.tensor([t])).item() == pytest.approx(lam, abs=1e-4)


def test_cutoff_and_dca_are_settings():
    prior, x, _, eps, prompt = of_pixels()
    t, identity = torch.full((4,), 300), nn.Identity()
    full = VDM(identity, dca=False)(prior, x, t, eps, prompt).value
    assert torch.equal(VDM(identity, cutoff=100)(prior, x, t, eps, prompt).value, full)
    assert not torch.allclose(VDM(identity)(prior, x, t, eps, prompt).value, full)


def test_one_forward_pass_serves_the_fit_and_the_residual():
    calls = []

    class Counted(LinearOperator):
        def forward(self, x):
            calls.append(x.shape)
            return super().forward(x)

    prior, *rest = of_pixels()
    rule = VDM(Counted(prior.shape))
    residual = rule(prior, *rest)
    assert len(calls) == 1 and torch.equal(residual.parts["variational"], residual.parts["conditional"])
    assert not torch.equal(rule.operator.scale, torch.ones(prior.shape))  # Adam has stepped, after the pass
    expected = (residual.parts["conditional"] - residual.parts["noise"]).square().mean()
    torch.testing.assert_close(residual.loss, expected)


def test_fitting_the_operator_lowers_its_loss():
    """Smooth content hides half of the noise; U-Lite learns to take it away."""
    rule, generator, losses = VDM(ULite.for_shape((4, 16, 16))), torch.Generator().manual_seed(0), []
    for _ in range(60):
        eps = randn((4, 4, 16, 16), generator)
        content = nn.functional.interpolate(randn((4, 4, 2, 2), generator), size=(16, 16), mode="bilinear")
        losses.append(rule.fit(0.6 * eps + content, eps)[1].item())
    assert losses[0] > 0.8 and max(losses[-5:]) < 0.2


def test_the_noisy_operator_learns_its_offset():
    rule = VDM(NoisyOperator(LinearOperator((1, 4, 4)), (1, 4, 4)), lr=0.1)
    eps = torch.ones(2, 1, 4, 4)
    for _ in range(200):
        _, loss = rule.fit(torch.zeros(2, 1, 4, 4), eps)
    assert loss < 1e-3
    torch.testing.assert_close(rule.operator.noise.detach(), eps[0], atol=0.05, rtol=0)


def test_a_state_of_another_operator_is_an_error():
    vdm = VDM.for_prior(prior("pixels"))
    with pytest.raises(ValueError, match="SDS has no state"):
        SDS().load_state_dict(vdm.state_dict())
    for other in (SDS(), VDM(ULite.for_shape((4, 64, 64))), VDM(LinearOperator((3, 16, 16)))):
        with pytest.raises(ValueError, match="tensors, not the .* build the module it was saved from"):
            vdm.load_state_dict(other.state_dict())


def test_vdm_takes_the_operator_that_suits_the_prior():
    assert isinstance(VDM.for_prior(prior("points")).operator, LinearOperator)
    assert VDM.for_prior(prior("toybox")).operator.levels == 3


@pytest.mark.parametrize("name", OPERATORS)
def test_vdm_takes_a_maker_of_operators_or_one_that_is_made(name):
    """The three of the paper's Fig. 7; what is made already is used as it is."""
    here, made = prior("eps"), OPERATORS[name](prior("eps").shape, seeded(0))
    rule = VDM.for_prior(here, operator=OPERATORS[name])
    assert type(rule.operator).__name__ == name and rule(here, *inputs(here)).value.isfinite().all()
    assert VDM.for_prior(here, operator=made).operator is made
    asked = []
    VDM.for_prior(here, seed=9, operator=lambda shape, generator: asked.append((shape, generator)) or nn.Identity())
    (shape, generator), = asked
    assert shape == here.shape and torch.equal(generator.get_state(), stream(9, "operator").get_state())


def test_settings_are_fields():
    assert replace(SDS(), guidance=3.0).guidance == 3.0 and SDS().state_dict() == {}
    assert replace(VDM(nn.Identity()), cutoff=100).cutoff == 100


# U-Lite.


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_u_lite_has_the_published_size():
    assert count(ULite(3, 1)) == 878_417 and count(ULite(4, 4)) == count(ULite(4)) == 879_252
    assert count(ULite(4, levels=3)) == 61_620


@pytest.mark.parametrize("shape, levels", [((4, 64, 64), 5), ((8, 16, 16), 3), ((4, 128, 128), 5), ((3, 4, 4), 1),
                                           ((4, 32, 64), 4), ((4, 24, 24), 3)])
def test_u_lite_is_as_deep_as_the_latent_allows(shape, levels):
    operator = ULite.for_shape(shape)
    assert operator.levels == levels
    assert operator(torch.zeros(1, *shape)).shape == (1, *shape)


@pytest.mark.parametrize("shape", [(3, 15, 16), (3, 2, 2), (2,)])
def test_u_lite_names_shapes_it_cannot_halve(shape):
    with pytest.raises(ValueError, match="even sides"):
        ULite.for_shape(shape)


def test_u_lite_names_an_input_it_cannot_halve():
    with pytest.raises(ValueError, match=r"multiples of 32, got \(16, 16\)"):
        ULite()(torch.zeros(1, 4, 16, 16))


def test_u_lite_starts_from_its_generator():
    a, b, c = (ULite.for_shape((4, 16, 16), torch.Generator().manual_seed(s)).first.weight for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    torch.manual_seed(5)
    first, state = ULite(levels=1).first.weight, torch.get_rng_state()
    torch.manual_seed(6)
    assert torch.equal(first, ULite(levels=1).first.weight)  # without one, always the same
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # and the global state is left alone
