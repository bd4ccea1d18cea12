"""Each law holds for the rule and fails for a mutant of it: a wrong sign, a missing w(t), a gradient through the UNet, ..."""
from dataclasses import replace
from functools import partial

import pytest
import torch
from laws import (
    law_direction,
    law_elements,
    law_guidance_is_the_response,
    law_guidance_one_is_none,
    law_prior_untouched,
    law_value,
    law_weight,
)
from zoo import UNGUIDED, Constant, build, build_apart, inputs, prior

from dreamlab.noise import per_sample
from dreamlab.rules import RULES, SDS
from dreamlab.schedules import sigma2

every_rule = pytest.mark.parametrize("name", RULES)
fails = partial(pytest.raises, AssertionError)


class Mutant:
    """A rule whose call is ``change``d: (rule, prior, x, t, eps, prompt) -> Residual."""

    def __init__(self, rule, change):
        self.rule, self.change = rule, change

    def __call__(self, *args):
        return self.change(self.rule, *args)


def mutate(make, change):
    """The builder of mutants."""
    return lambda **settings: Mutant(make(**settings), change)


def swapped(rule, *args):
    """The residual's sign."""
    residual = rule(*args)
    return replace(residual, value=-residual.value)


def unweighted(rule, *args):
    """w(t) missing in the value."""
    residual = rule(*args)
    return replace(residual, value=residual.value / per_sample(residual.weight, residual.value))


def wrong_t(rule, prior, x, t, eps, prompt):
    """Each element with another's t."""
    return rule(prior, x, t.flip(0), eps, prompt)


def undetached(rule, prior, x, t, eps, prompt):
    """The call without its ``no_grad``: the residual carries the UNet's Jacobian."""
    return type(rule).__call__.__wrapped__(rule, prior, x, t, eps, prompt)


@pytest.mark.parametrize("where", ["points", "pixels"])
@every_rule
def test_swapped_sign(name, where):
    make, here = partial(build, name, prior(where)), prior(where)
    law_direction(make, here)
    with fails():
        law_direction(mutate(make, swapped), here)


@every_rule
def test_w_missing(name):
    make, here = partial(build, name, prior("points")), prior("points")
    law_weight(make, here)
    with fails():
        law_weight(mutate(make, unweighted), here)
    with fails():  # w twice
        law_weight(mutate(make, lambda rule, *args: replace(
            r := rule(*args), value=r.value * per_sample(r.weight, r.value))), here)


# Left out: rules without s. ISM shows it by its response alone, since its path needs the null prompt; LODS by its limit.
@pytest.mark.parametrize("name", [name for name in RULES if name not in UNGUIDED | {"ISM", "LODS"}])
def test_guidance_one_plus_s(name):
    make, here = partial(build, name, prior("points")), prior("points")
    law_guidance_one_is_none(make, here)
    with fails():
        law_guidance_one_is_none(lambda guidance=7.5, **settings: make(guidance=1 + guidance, **settings), here)


@pytest.mark.parametrize("name", ["SDS", "VSD", "APFO", "NFSD", "ISM", "LMCSDS"])
def test_guidance_one_plus_s_in_the_response(name):
    here = Constant()
    make = partial(build_apart, name, here)
    law_guidance_is_the_response(make, here)
    with fails():
        law_guidance_is_the_response(lambda guidance, **settings: make(guidance=1 + guidance, **settings), here)


def test_guidance_one_plus_s_in_lods():
    here = prior("points")

    def law(make):
        torch.testing.assert_close(make(guidance=1.0)(here, *inputs(here)).value, SDS(guidance=1.0)(here, *inputs(here)).value)

    make = partial(build, "LODS", here)
    law(make)
    with fails():
        law(lambda guidance: make(guidance=1 + guidance))


@every_rule
def test_t_of_the_wrong_element(name):
    make, here = partial(build_apart, name, prior("points")), prior("points")
    law_elements(make, here)
    with fails():
        law_elements(mutate(make, wrong_t), here)


@every_rule
def test_t_of_the_wrong_element_in_the_weight(name):
    here = prior("points")
    law_elements(partial(build_apart, name, here, weight=sigma2), here)
    with fails():
        law_elements(partial(build_apart, name, here, weight=lambda schedule, t: sigma2(schedule, t.flip(0))), here)


# Through the prior's UNet: a call that forgets no_grad, and a loss that is differentiated instead of its residual used.
@every_rule
def test_gradient_through_the_unet(name):
    here = prior("eps")
    with law_prior_untouched(here):
        law_value(build(name, here), here)
    with fails(), law_prior_untouched(here):
        x, *rest = inputs(here)
        Mutant(build(name, here), undetached)(here, x.requires_grad_(), *rest)
    with fails():
        law_value(Mutant(build(name, here), undetached), here)


@every_rule
def test_a_surrogate_that_differentiates_the_unet(name):
    """DreamFusion's first loss, whose gradient is the Jacobian's transpose times the residual, and not the residual."""
    here = prior("eps")

    def naive(x, residual):
        return residual.value.square().sum() / 2

    with fails():
        law_value(Mutant(build(name, here), undetached), here, distill=naive)


def test_weights_that_change_are_seen():
    """The law sees one bit of one weight, and a gradient left behind."""
    here = prior("eps")
    weight = next(here.unet.parameters())
    kept = weight.detach().clone()
    with fails(), law_prior_untouched(here):
        law_value(build("SDS", here), here)
        weight.data.view(-1)[0] = torch.nextafter(weight.data.view(-1)[0], torch.tensor(9.0))
    weight.data.copy_(kept)
    with fails(), law_prior_untouched(here):
        law_value(build("SDS", here), here)
        weight.grad = torch.zeros_like(weight)
    weight.grad = None
    with law_prior_untouched(here):
        law_value(build("SDS", here), here)
