"""Conditions of several named tensors: their algebra, and priors, rules and view prompts that read them."""
from functools import partial

import pytest
import torch
from laws import law_elements, law_guidance_one_is_none, law_weight
from zoo import again, build, build_apart, inputs, pixels, prior

from dreamlab.cameras import orbit
from dreamlab.noise import randn, seeded
from dreamlab.priors.base import Prior
from dreamlab.priors.critic import EmbeddingCritic, LoRACritic
from dreamlab.prompts import Condition, Prompt, ViewPrompts, cat, expand, mix, rows

REFINED = ["SDS", "VSD", "VDM", "APFO", "LODS", "CSD"]


def condition(n: int = 3, seed: int = 0, **more) -> Condition:
    generator = seeded(seed)
    return Condition({"text": randn((n, 4, 8), generator), "pooled": randn((n, 8), generator),
                      "size": torch.tensor([[64, 64, 0]]), **more})


def same(a, b) -> bool:
    """The same conditions, a row that serves the whole batch being as good as its copies."""
    if not isinstance(a, Condition):
        return torch.equal(a, b)
    a, b = a.expand(len(a)).tensors, b.expand(len(b)).tensors
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The algebra, which a plain tensor shares.


@pytest.mark.parametrize("cond", [condition(), condition(1), randn((3, 4, 8), seeded(0)), torch.tensor([2, 0, 1])],
                         ids=["condition", "one row", "tensor", "labels"])
def test_rows_and_cat_undo_each_other(cond):
    parts = rows(cond)
    assert len(parts) == len(cond) and all(len(part) == 1 for part in parts)
    assert same(cat(parts), cond) and same(cat([cond, cond]), cat([*parts, *parts]))
    assert len(cat([cond, parts[0]])) == len(cond) + 1


def test_expand_keeps_n_rows_and_copies_one():
    assert same(condition().expand(3), condition()) and len(condition(1).expand(5)) == 5
    assert same(rows(condition(1).expand(5))[4], condition(1))
    one = torch.tensor([7])
    assert torch.equal(expand(one, 3), torch.tensor([7, 7, 7]))
    assert torch.equal(expand(condition()["text"], 3), condition()["text"])
    for cond in (condition(), condition()["text"]):
        with pytest.raises(ValueError, match="cond has 3 rows and x_t 2: give one row, or one per sample"):
            expand(cond, 2)


def test_to_moves_all_and_casts_what_is_real():
    half = condition().to(dtype=torch.float16)
    assert [v.dtype for v in half.tensors.values()] == [torch.float16, torch.float16, torch.int64]
    assert same(condition().to("cpu"), condition())
    assert same(condition().to("cpu", torch.float64).to(dtype=torch.float32), condition())
    meta = condition().to("meta")
    assert meta.device.type == "meta" and all(v.is_meta for v in meta.tensors.values())


def test_mixing_is_linear_and_a_row_at_the_corners():
    cond = Condition({"text": condition()["text"], "size": torch.tensor([[64.0, 32.0]])})
    assert same(mix(cond, torch.eye(3)), cond) and same(cond.mix(torch.eye(3)), cond)
    mixed = mix(cond, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]))
    torch.testing.assert_close(mixed["text"][1], 0.25 * cond["text"][1] + 0.75 * cond["text"][2])
    torch.testing.assert_close(mixed["size"], torch.tensor([[64.0, 32.0], [64.0, 32.0]]))
    assert torch.equal(mix(cond["text"], torch.eye(3)), cond["text"])
    for integers in (condition(), torch.tensor([2, 0, 1])):
        with pytest.raises(ValueError, match="int64 cannot be mixed linearly: leave out interpolate and perp_neg"):
            mix(integers, torch.eye(3))


def test_bad_conditions_are_named():
    with pytest.raises(ValueError, match=r"one batch axis, of one length or 1, got \{'text': \(3, 4, 8\), .*'more': \(2,\)\}"):
        condition(more=torch.zeros(2))
    with pytest.raises(ValueError, match="one batch axis"):
        Condition({})
    with pytest.raises(ValueError, match="the condition's 'more' needs a batch axis, got a scalar"):
        condition(more=torch.tensor(1.0))
    with pytest.raises(ValueError, match="Condition.tensors.text must be a Tensor, got"):
        again(condition(), tensors={"text": "a red mug"})
    with pytest.raises(ValueError, match=r"no tensor 'camera', it has \['pooled', 'size', 'text'\]"):
        condition()["camera"]
    for other in (condition(more=torch.zeros(1, 2)), condition()["text"]):
        with pytest.raises(ValueError, match="conditions of different tensors cannot be joined, got .*: build them alike"):
            cat([condition(), other])


# Priors and rules.


def test_a_unet_gets_its_text_and_the_rest_beside_it():
    here = prior("refiner")
    x, t, eps, prompt = inputs(here)
    x_t, y = here.add_noise(x, eps, t), prompt.positive.expand(3)
    with torch.no_grad():
        expected = here.unet(x_t, t, encoder_hidden_states=y["text"],
                             added_cond_kwargs={"text_embeds": y["text_embeds"], "time_ids": y["time_ids"]}).sample
    torch.testing.assert_close(here.eps(x_t, t, prompt.positive)[0], expected)
    for name in y.tensors:  # each of them counts
        moved = Condition({**prompt.positive.tensors, name: prompt.positive[name] + 1})
        assert not torch.allclose(here.eps(x_t, t, moved)[0], expected, atol=1e-4)
    with pytest.raises(ValueError, match="cond has 2 rows and x_t 3"):
        here.eps(x_t, t, here.embed(["a red mug", "a blue bear"]))


def test_one_call_serves_several_conditions():
    here = prior("refiner")
    x, t, _, prompt = inputs(here)
    each = here.embed(["a red mug", "a blue bear", "a red bear"])
    together = here.eps(x, t, prompt.positive, prompt.null, each)
    for found, cond in zip(together, (prompt.positive, prompt.null, each), strict=True):
        torch.testing.assert_close(found, here.eps(x, t, cond)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[2][1:2], here.eps(x[1:2], t[1:2], each.split()[1])[0], atol=1e-5, rtol=1e-4)
    assert here.sample(prompt, 2, seeded(0), guidance=3.0, steps=2).isfinite().all() and here.device == x.device


@pytest.mark.parametrize("name", REFINED)
def test_the_laws_of_the_rules(name):
    """That each rule runs there at all, leaves the prior alone and goes on from its state stands in test_rules.py."""
    here = prior("refiner")
    law_weight(partial(build, name, here), here)
    law_elements(partial(build_apart, name, here), here)
    if name not in ("CSD", "LODS"):
        law_guidance_one_is_none(partial(build, name, here), here)


class Named(Prior):
    """The mixture of pictures, its weights by name."""

    def __init__(self, **more):
        self.pixels, self.more = pixels(), more
        self.schedule, self.shape = self.pixels.schedule, self.pixels.shape

    @property
    def null(self):
        return Condition({"weights": self.pixels.null, **self.more})

    def _eps(self, x_t, t, cond):
        return self.pixels._eps(x_t, t, cond["weights"])


class Labelled(Named):
    null = Condition({"label": torch.tensor([3])})


@pytest.mark.parametrize("name", REFINED)
def test_the_name_of_a_tensor_changes_nothing(name):
    """Bit for bit, on the exact prior: so the laws that hold for its plain condition hold for the Condition."""
    here, named = pixels(), Named()
    for seed in range(2):
        x, t, eps, prompt = inputs(here, seed)
        under = Prompt(*(Condition({"weights": cond}) for cond in (prompt.positive, prompt.null, prompt.negative)))
        assert torch.equal(build(name, here)(here, x, t, eps, prompt).value, build(name, named)(named, x, t, eps, under).value)


def test_critics_learn_under_a_condition():
    here = prior("refiner")
    x, t, eps, prompt = inputs(here, n=4)
    x_t = here.add_noise(x, eps, t)
    lora, embedding = LoRACritic(here, lr=1e-2), EmbeddingCritic(here, lr=1e-2)
    torch.testing.assert_close(lora.eps(x_t, t, prompt.positive), here.eps(x_t, t, prompt.positive)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embedding.eps(x_t, t, prompt.positive), here.eps(x_t, t, here.null)[0], atol=1e-5, rtol=1e-4)
    before = [p.detach().clone() for p in embedding.embedding]
    assert [p.shape for p in before] == [v.shape for v in here.null.tensors.values()]
    for critic in (lora, embedding):
        losses = [float(critic.fit(0.3 * x, t, eps, prompt.positive)) for _ in range(10)]
        assert losses[-1] < losses[0]
    assert all(not torch.equal(p.detach(), b) for p, b in zip(embedding.embedding, before, strict=True))


def test_the_embedding_leaves_integers_alone():
    here = Named(label=torch.tensor([3]))
    critic = EmbeddingCritic(here)
    assert [tuple(p.shape) for p in critic.embedding] == [(1, 10)]
    assert torch.equal(critic.eps(*inputs(here.pixels)[:2], here.null), here.eps(*inputs(here.pixels)[:2], here.null)[0])
    with pytest.raises(ValueError, match="integer labels, which have no gradient"):
        EmbeddingCritic(Labelled())


# View prompts.


def test_views_of_a_condition_are_mixed_as_those_of_its_tensors():
    here, cameras = prior("refiner"), orbit([0.0, 45.0, 90.0, 180.0, -120.0])
    for how in ({}, {"interpolate": True}, {"perp_neg": True}):
        found = ViewPrompts(here, "a red mug", null="a mug", negative="a bear", **how)(cameras)
        for name in found.positive.tensors:
            class Part:
                def embed(self, texts, negative, name=name):
                    return here.embed(texts, negative)[name]

            part = ViewPrompts(Part(), "a red mug", null="a mug", negative="a bear", **how)(cameras)
            for mine, theirs in ((found.positive, part.positive), (found.null, part.null), (found.negative, part.negative)):
                assert torch.equal(mine.expand(len(theirs))[name], theirs)
            for (mine, weight), (theirs, other) in zip(found.perp, part.perp, strict=True):
                assert torch.equal(mine[name], theirs) and torch.equal(weight, other)
    x, t, eps, _ = inputs(here, n=5)
    assert build("SDS", here)(here, x, t, eps, found).value.isfinite().all()


@pytest.mark.parametrize("settings, message", [
    ({"interpolate": True}, "ViewPrompts.interpolate moves between the views, and views is False: set views=True or leave "),
    ({"perp_neg": True}, "ViewPrompts.perp_neg moves between the views, and views is False: .* perp_neg out"),
    ({"text": 3}, "ViewPrompts.text must be a text of one line, got 3"),
    ({"views": "no"}, "views must be true or false, got 'no'"),
    ({"negative": 0.5}, "ViewPrompts.negative must be a text of one line or none, got 0.5")])
def test_view_prompts_name_what_does_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        again(ViewPrompts(pixels(), "warm"), **{"views": False} | settings)
