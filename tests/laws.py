"""What holds for every rule. ``make(**settings)`` builds a fresh one; test_rules.py runs these, test_mutants.py breaks them."""
from contextlib import contextmanager

import torch
from safetensors.torch import load_file, save_file
from zoo import inputs

from dreamlab.noise import randn, seeded
from dreamlab.priors.base import Prior
from dreamlab.priors.mixture import GaussianMixturePrior
from dreamlab.prompts import Prompt
from dreamlab.rules import distill
from dreamlab.schedules import one, sigma2


def size(prior: Prior) -> dict:
    """Two low timesteps where the UNet is dear."""
    return {"n": 2, "t_max": 400} if prior.shape == (8, 16, 16) else {}


def law_value(rule, prior, seed: int = 0, distill=distill):
    """x's shape, finite, not 0; no graph; and the gradient of ``distill`` is the residual to the last bit."""
    x, *rest = inputs(prior, seed, **size(prior))
    residual = rule(prior, x.requires_grad_(), *rest)
    assert residual.value.shape == x.shape and residual.weight.shape == (len(x),)
    assert residual.value.isfinite().all() and residual.value.norm() > 0
    assert residual.loss is None or residual.loss.isfinite()
    gradient, = torch.autograd.grad(distill(x, residual), x)
    assert torch.equal(gradient, residual.value)
    assert not any(tensor.requires_grad for tensor in (residual.value, residual.weight, *residual.parts.values()))
    return residual


@contextmanager
def law_weights_untouched(unet):
    """They stay bit for bit, and no gradient reaches them, though critics learn on them."""
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    yield
    for name, parameter in unet.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad, name
    after = unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], v) for k, v in before.items())


@contextmanager
def law_prior_untouched(prior):
    """No gradient reaches the prior or goes through it to x, and its weights stay."""
    seen, _eps = [], prior._eps
    prior._eps = lambda x_t, t, cond: seen.append(x_t.requires_grad) or _eps(x_t, t, cond)
    with law_weights_untouched(getattr(prior, "unet", torch.nn.Identity())):
        try:
            yield
        finally:
            del prior._eps
        assert seen and not any(seen)


def law_restored(rule, other, prior, folder):
    """From the same seed the same residual; and ``other``, which has been elsewhere, continues from ``rule``'s saved state."""
    assert torch.equal(law_value(rule, prior, 0).value, law_value(other, prior, 0).value)
    state = rule.state_dict()
    save_file(state, folder / "rule.safetensors")
    law_value(other, prior, 9)
    expected, after = law_value(rule, prior, 1).value, rule.state_dict()
    loaded = load_file(folder / "rule.safetensors")
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[k], state[k]) for k in state)  # a snapshot
    other.load_state_dict(loaded)
    assert torch.equal(law_value(other, prior, 1).value, expected)
    continued = other.state_dict()
    assert continued.keys() == after.keys() and all(torch.equal(continued[k], after[k]) for k in after)


def law_weight(make, prior):
    """The residual is w(t) times what it is at w = 1, and says so in ``weight``."""
    x, t, eps, prompt = inputs(prior)
    plain, weighed = (make(weight=w)(prior, x, t, eps, prompt) for w in (one, sigma2))
    w = sigma2(prior.schedule, t)
    torch.testing.assert_close(plain.weight, torch.ones(len(x)))
    torch.testing.assert_close(weighed.weight, w)
    torch.testing.assert_close(weighed.value, w.reshape(-1, *[1] * (x.ndim - 1)) * plain.value)


def law_elements(make, prior):
    """x, t and eps of one element of the batch move the residual of no other."""
    def call(x, t, eps):
        return make()(prior, x, t, eps, inputs(prior)[-1]).value

    (x, t, eps, _), (x_2, _, eps_2, _) = inputs(prior), inputs(prior, 1)
    t_2 = torch.cat([t[:1] // 2 + 400, t[1:]])
    x_2, eps_2 = torch.cat([x_2[:1], x[1:]]), torch.cat([eps_2[:1], eps[1:]])
    first, second = call(x, t, eps), call(x_2, t_2, eps_2)
    torch.testing.assert_close(first[1:], second[1:], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(first[0], second[0], atol=1e-3)


def law_guidance_one_is_none(make, prior):
    """At diffusers' s = 1 the null prompt counts for nothing."""
    x, t, eps, prompt = inputs(prior)
    settings = {"guidance": 1.0}
    if "inversion_guidance" in type(make()).__dataclass_fields__:
        settings["inversion_guidance"] = 1.0
    first, second = (make(**settings)(prior, x, t, eps, Prompt(prompt.positive, null, prompt.negative)).value
                     for null in (prompt.null, prompt.negative))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def law_guidance_is_the_response(make, prior, response=lambda s: s):
    """Where eps_y = y everywhere, the residual at w = 1 rises by s per unit of y."""
    x, t, eps, _ = inputs(prior)
    for s in (1.0, 3.0):
        low, high = (make(guidance=s, weight=one)(prior, x, t, eps, Prompt(torch.full((1, 1), y), prior.null)).value
                     for y in (0.0, 0.5))
        torch.testing.assert_close((high - low) / 0.5, torch.full_like(x, response(s)), atol=1e-4, rtol=1e-4)


def law_direction(make, prior, t_max: int = 700):
    """On the exact prior, near what is not asked for: descending goes towards what is. <residual, x - wanted> > 0."""
    wanted, other = (torch.tensor([1]), prior.means[2]) if isinstance(prior, GaussianMixturePrior) else (
        prior.cond(mood="warm") * (torch.arange(10) == 0), prior.images[7])
    target = prior.means[1] if isinstance(prior, GaussianMixturePrior) else prior.images[0]
    generator, n = seeded(3), 16
    x = other + 0.05 * randn((n, *prior.shape), generator)
    t = torch.randint(20, t_max, (n,), generator=generator)
    residual = make()(prior, x, t, randn(tuple(x.shape), generator), Prompt(wanted, prior.null))
    along = (residual.value * (x - target)).flatten(1).sum(1)
    assert along.sum() > 0 and (along > 0).float().mean() > 0.7, along
