"""Laws of the distillation rules: signs, limits, gradients, reproducibility. Each of ``RULES`` meets the first ones."""
from dataclasses import replace

import pytest
import torch
from torch import nn

from dreamlab import rules
from dreamlab.noise import per_sample, randn
from dreamlab.priors.mixture import GaussianMixturePrior, ImageMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.rules import RULES, SDS, VDM, LinearOperator, NoisyOperator, Residual, ULite, distill
from dreamlab.schedules import Annealed, Cosine, Uniform, dca_lambda, one, sigma2

ANY = torch.tensor([-1])


def pictures(size: int = 16) -> ImageMixturePrior:
    """Ten images that are smooth blobs, half of them "warm"."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(10, 3, 4, 4, generator=generator) * 2 - 1
    images = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return ImageMixturePrior(images, {"mood": ["warm"] * 5 + ["cold"] * 5})


def inputs(prior: ImageMixturePrior, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = randn((4, *prior.shape), generator).mul(0.3).requires_grad_()
    t = Uniform()(0, 1, 4, generator)
    return prior, x, t, randn((4, *prior.shape), generator), Prompt(prior.cond(mood="warm"), prior.cond())


@pytest.fixture(params=RULES)
def build(request):
    """The constructor of each rule in turn."""
    return getattr(rules, request.param).for_shape


# For every rule.


def test_the_gradient_of_distill_is_the_residual(build):
    prior, x, *rest = inputs(pictures())
    residual = build(prior.shape)(prior, x, *rest)
    assert not residual.value.requires_grad and residual.value.shape == x.shape and residual.weight.shape == (4,)
    gradient, = torch.autograd.grad(distill(x, residual), x)
    assert torch.equal(gradient, residual.value) and gradient.isfinite().all() and gradient.norm() > 0


def test_parts_are_the_predictions_of_the_prior(build):
    prior, x, t, eps, prompt = inputs(pictures())
    parts = build(prior.shape)(prior, x, t, eps, prompt).parts
    x_t = prior.add_noise(x.detach(), eps, t)
    eps_y, eps_null = prior.eps(x_t, t, prompt.positive, prompt.null)
    for name, expected in {"conditional": eps_y, "unconditional": eps_null, "noise": eps}.items():
        assert torch.equal(parts[name], expected)


def test_the_residual_scales_with_the_weight(build):
    args = inputs(pictures())
    plain = build(args[0].shape, weight=one)(*args)
    halved = build(args[0].shape, weight=lambda schedule, t: 0.5 * one(schedule, t))(*args)
    torch.testing.assert_close(halved.value, 0.5 * plain.value)
    assert halved.weight.tolist() == [0.5] * 4


def test_the_same_seed_gives_the_same_run(build):
    def run(rule):
        return torch.stack([rule(*inputs(pictures(), seed)).value for seed in range(3)])

    assert torch.equal(run(build((3, 16, 16))), run(build((3, 16, 16))))


def test_a_restored_rule_continues_identically(build):
    rule, restored = build((3, 16, 16)), build((3, 16, 16))
    for seed in range(3):
        rule(*inputs(pictures(), seed))
    state = {key: value.clone() for key, value in rule.state_dict().items()}
    restored(*inputs(pictures(), 9))  # it has been somewhere else
    restored.load_state_dict(state)
    for seed in range(3, 6):
        a, b = rule(*inputs(pictures(), seed)), restored(*inputs(pictures(), seed))
        assert torch.equal(a.value, b.value)
    assert all(torch.equal(v, restored.state_dict()[k]) for k, v in rule.state_dict().items())


def test_the_state_is_a_snapshot_that_safetensors_can_hold(build, tmp_path):
    from safetensors.torch import load_file, save_file

    rule = build((3, 16, 16))
    rule(*inputs(pictures(), 0))
    state = rule.state_dict()
    save_file(state, tmp_path / "rule.safetensors")
    rule(*inputs(pictures(), 1))
    loaded = load_file(tmp_path / "rule.safetensors")
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[k], state[k]) for k in state)


@pytest.mark.parametrize("sign", [1, -1])
def test_pictures_end_at_a_prompted_image_and_flipped_they_do_not(build, sign):
    prior, x, _, _, prompt = inputs(pictures())
    rule, generator, adam = build(prior.shape, guidance=7.5), torch.Generator().manual_seed(0), torch.optim.Adam([x])
    for step in range(150):
        adam.param_groups[0]["lr"] = 0.05 * Cosine(final=0.05)(step, 150)
        t = Annealed(900, 200, until=0.8)(step, 150, 4, generator)
        adam.zero_grad()
        (sign * distill(x, rule(prior, x, t, randn(tuple(x.shape), generator), prompt))).backward()
        adam.step()
    distance = (x.detach()[:, None] - prior.images).square().mean((2, 3, 4)).sqrt()
    if sign == 1:
        assert distance[:, :5].min(1).values.max() < 0.15 and distance[:, 5:].min() > 0.3
    else:
        assert distance.min() > 1


def test_bad_input_is_named(build):
    prior, x, t, eps, prompt = inputs(pictures())
    rule = build(prior.shape)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 999\], got 1000"):
        rule(prior, x, torch.tensor([1, 2, 3, 1000]), eps, prompt)
    with pytest.raises(ValueError, match="not finite"):
        rule(prior, x * float("inf"), t, eps, prompt)
    with pytest.raises(ValueError, match="embed"):
        rule(prior, x, t, eps, Prompt("a red mug", prompt.null))


def test_distill_wants_the_x_of_the_residual():
    with pytest.raises(ValueError, match=r"\(2, 3\) and its residual \(4, 3\)"):
        distill(torch.zeros(2, 3), Residual(torch.zeros(4, 3), torch.ones(4)))


# Mode seeking on the exact prior.


def descend(rule, sign: float = 1.0, label: int = 1, t_max: int = 700, steps: int = 300):
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


@pytest.mark.parametrize("label", [0, 1, 2])
def test_sds_without_guidance_ends_at_the_prompted_mode(label):
    x, prior = descend(SDS(guidance=1.0), label=label)
    assert (x - prior.means[label]).norm(dim=1).max() < 0.02


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
    prior, x, t, eps, prompt = inputs(pictures())
    eps_y, eps_null = prior.eps(prior.add_noise(x.detach(), eps, t), t, prompt.positive, prompt.null)
    expected = per_sample(sigma2(prior.schedule, t), x) * (eps_null + 7.5 * (eps_y - eps_null) - eps)
    torch.testing.assert_close(SDS(guidance=7.5)(prior, x, t, eps, prompt).value, expected)


# VDM: the equation, its two limits, DCA.


class Oracle(nn.Module):
    """Recovers the injected noise."""

    def forward(self, predicted):
        return self.eps


def test_vdm_with_the_identity_keeps_only_guidance():
    prior, x, t, eps, prompt = inputs(pictures())
    for operator in (nn.Identity(), LinearOperator(prior.shape), NoisyOperator(nn.Identity(), prior.shape)):
        residual = VDM(operator, guidance=7.5, dca=False, weight=one)(prior, x, t, eps, prompt)
        difference = residual.parts["conditional"] - residual.parts["unconditional"]
        torch.testing.assert_close(residual.value, 6.5 * difference, atol=1e-5, rtol=1e-5)
    assert VDM(nn.Identity(), guidance=1.0, dca=False)(prior, x, t, eps, prompt).value.abs().max() < 1e-5


def test_vdm_with_an_oracle_is_sds():
    prior, x, t, eps, prompt = inputs(pictures())
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
    prior, x, _, eps, prompt = inputs(pictures())
    residual = VDM(LinearOperator(prior.shape), weight=one)(prior, x, torch.full((4,), t), eps, prompt)
    eps_y, eps_null, M = (residual.parts[k] for k in ("conditional", "unconditional", "variational"))
    torch.testing.assert_close(residual.value, eps_y - lam * M + 6.5 * (eps_y - eps_null), atol=2e-3, rtol=0)
    assert dca_lambda(prior.schedule, torch.tensor([t])).item() == pytest.approx(lam, abs=1e-4)


def test_cutoff_and_dca_are_settings():
    prior, x, _, eps, prompt = inputs(pictures())
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

    prior, *rest = inputs(pictures())
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


@pytest.mark.parametrize("guidance", [0.9, 0.0, -7.5, float("nan")])
def test_vdm_wants_guidance_of_at_least_one(guidance):
    with pytest.raises(ValueError, match="guidance must be >= 1"):
        VDM(nn.Identity(), guidance=guidance)


def test_a_state_of_another_rule_or_operator_is_an_error():
    vdm = VDM.for_shape((3, 16, 16))
    with pytest.raises(ValueError, match="SDS has no state"):
        SDS().load_state_dict(vdm.state_dict())
    for other in (SDS(), VDM.for_shape((4, 64, 64)), VDM(LinearOperator((3, 16, 16)))):
        with pytest.raises(ValueError, match="build the operator it was saved from"):
            vdm.load_state_dict(other.state_dict())


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
