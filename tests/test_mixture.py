"""The exact priors against autograd of the log-density and against brute force; what every prior does; prompts."""
import pytest
import torch

from dreamlab.cameras import orbit
from dreamlab.noise import randn
from dreamlab.priors.base import guide
from dreamlab.priors.mixture import GaussianMixturePrior, ImageMixturePrior
from dreamlab.prompts import Prompt, ViewPrompts

DOUBLE = {"dtype": torch.float64}
KINDS, COLOURS, VIEWS = ["duck", "mug"], ["red", "blue"], ["front", "side", "back"]


def points(dims: int = 2) -> GaussianMixturePrior:
    means = torch.randn(5, dims, generator=torch.Generator().manual_seed(3), **DOUBLE)
    return GaussianMixturePrior(means, torch.tensor([0.1, 0.3, 0.05, 0.2, 0.0], **DOUBLE),
                                torch.tensor([1.0, 2, 3, 1, 1], **DOUBLE), torch.tensor([0, 0, 1, 1, 2]))


def pictures(size: int = 6, dtype=torch.float64, std: float = 0.0) -> ImageMixturePrior:
    """Every kind, colour and view once: 12 images."""
    labels = [(kind, colour, view) for kind in KINDS for colour in COLOURS for view in VIEWS]
    images = torch.randn(12, 3, size, size, generator=torch.Generator().manual_seed(4), dtype=dtype).clamp(-1, 1)
    return ImageMixturePrior(images, dict(zip(("kind", "colour", "view"), zip(*labels, strict=True), strict=True)), std)


@pytest.mark.parametrize("dims", [1, 2, 7])
@pytest.mark.parametrize("label", [-1, 0, 2])
def test_eps_is_the_gradient_of_the_log_density(dims, label, generator):
    prior, t = points(dims), torch.tensor([0, 20, 300, 980])
    cond = torch.tensor([label])
    x_t = randn((4, dims), generator).double().requires_grad_()
    log_p = prior.log_density(x_t, t, cond.expand(4))
    score, = torch.autograd.grad(log_p.sum(), x_t)
    torch.testing.assert_close(prior.score(x_t, t, cond.expand(4)), score, atol=1e-8, rtol=1e-6)
    (eps,) = prior.eps(x_t, t, cond)
    torch.testing.assert_close(eps, -prior.schedule.sigma(t, x_t) * score, atol=1e-8, rtol=1e-6)


def test_the_density_is_normalised():
    prior, grid = points(1), torch.linspace(-6, 6, 4001, **DOUBLE)[:, None]
    for label in (-1, 1):
        p = prior.log_density(grid, torch.full((4001,), 100), torch.full((4001,), label)).exp()
        assert float(p.sum() * 12 / 4000) == pytest.approx(1, abs=1e-6)


def test_denoised_is_the_posterior_mean(generator):
    """E[x | x_t] by weighting a million draws from the prior with their likelihood."""
    means, std = torch.tensor([[0.0, 0.0], [1.0, 0.5]]), torch.tensor([0.3, 0.2])
    prior = GaussianMixturePrior(means, std)
    k = torch.randint(2, (1_000_000,), generator=generator)
    x = means[k] + std[k, None] * randn((1_000_000, 2), generator)
    t, x_t = torch.tensor([400]), torch.tensor([[0.4, 0.2]])
    alpha, sigma = prior.schedule.alpha(t, x_t), prior.schedule.sigma(t, x_t)
    w = (-(x_t - alpha * x).square().sum(1) / (2 * sigma[0] ** 2)).softmax(0)
    torch.testing.assert_close(prior.denoised(x_t, t, torch.tensor([-1])), w[None] @ x, atol=3e-3, rtol=0)


def test_the_class_posterior_is_the_difference_of_the_two_densities(generator):
    """Bayes: p(y | x_t) = p(y) p_t(x_t | y) / p_t(x_t)."""
    prior, t = points(), torch.tensor([50, 500, 900])
    x_t = randn((3, 2), generator).double()
    share = torch.stack([prior.weights[prior.labels == y].sum() for y in range(3)])
    p = torch.stack([prior.log_density(x_t, t, torch.full((3,), y)).exp() for y in range(3)], 1) * share
    torch.testing.assert_close(prior.class_posterior(x_t, t), p / p.sum(1, keepdim=True))
    torch.testing.assert_close(p.sum(1).log(), prior.log_density(x_t, t, torch.full((3,), -1)))


@pytest.mark.parametrize("std", [0.0, 0.2])
def test_image_mixture_is_brute_force(std, generator):
    prior, t = pictures(std=std), torch.tensor([0, 200, 950])
    images = prior.images
    x_t = prior.add_noise(images[[0, 5, 7]], randn((3, 3, 6, 6), generator).double(), t)
    weights = torch.rand(3, 12, generator=generator, dtype=torch.float64) * (torch.arange(12) % 4 > 0)
    twin = GaussianMixturePrior(images.flatten(1), std)
    for row in range(3):
        twin.weights = weights[row] / weights[row].sum()
        expected = twin.eps(x_t[row:row + 1].flatten(1), t[row:row + 1], torch.tensor([-1]))[0].reshape(1, 3, 6, 6)
        got = prior.eps(x_t, t, weights)[0][row:row + 1]
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-7)


def test_image_mixture_keeps_its_digits_in_float32(generator):
    """64 x 64 images that differ little, at low noise: the matrix product must not lose the differences."""
    base = torch.rand(1, 3, 64, 64, generator=generator)
    images = (base + 0.01 * torch.randn(50, 3, 64, 64, generator=generator)).double()
    fine, coarse = (ImageMixturePrior(images.to(d), {"view": list(range(50))}) for d in (torch.float64, torch.float32))
    t = torch.tensor([20, 100, 300, 600])
    x_t = fine.add_noise(images[:4], randn((4, 3, 64, 64), generator).double(), t)
    difference = fine.posterior(x_t, t, fine.cond()) - coarse.posterior(x_t.float(), t, coarse.cond())
    assert difference.abs().max() < 1e-3


def test_image_mixture_condition_selects_images(generator):
    prior, t = pictures(), torch.tensor([600])
    x_t = randn((1, 3, 6, 6), generator).double()
    alone = prior.cond(kind="duck", colour="blue", view="back")
    assert alone.sum() == 1
    torch.testing.assert_close(prior.denoised(x_t, t, alone), prior.images[alone[0] > 0])
    assert prior.cond(view=["front", "back"]).sum(1).tolist() == [4, 4] and prior.cond().sum() == 12
    assert torch.equal(prior.embed(["a Red duck, side view", ""]),
                       torch.cat([prior.cond(kind="duck", colour="red", view="side"), prior.cond()]))
    posterior = prior.class_posterior(x_t, t, "view")
    assert list(posterior) == VIEWS and float(sum(posterior.values())) == pytest.approx(1)


def test_eps_batches_all_conditions_into_one_call(generator):
    prior, calls = points(), []
    prior._eps = lambda x_t, t, cond: calls.append(len(x_t)) or GaussianMixturePrior._eps(prior, x_t, t, cond)
    x_t, t = randn((3, 2), generator).double(), torch.tensor([5, 50, 500])
    conds = torch.tensor([0, 1, 2]), torch.tensor([-1]), torch.tensor([1])
    together = prior.eps(x_t, t, *conds)
    assert calls == [9]
    for cond, eps in zip(conds, together, strict=True):
        torch.testing.assert_close(eps, prior.eps(x_t, t, cond)[0])
    guided = prior.guided(x_t, t, Prompt(conds[0], conds[1]), 3.0)
    torch.testing.assert_close(guided, together[1] + 3 * (together[0] - together[1]))
    assert torch.equal(guide(together[0], together[1], 0.0), together[1])


def test_sampling_follows_the_prompt_and_the_generator():
    prior = GaussianMixturePrior(torch.tensor([[-1.0, 0], [1, 0]]), 0.05)
    prompt = Prompt(torch.tensor([1]), torch.tensor([-1]))
    a, b = (prior.sample(prompt, 200, torch.Generator().manual_seed(1), steps=50) for _ in range(2))
    assert torch.equal(a, b)
    torch.testing.assert_close(a.mean(0), torch.tensor([1.0, 0]), atol=0.02, rtol=0)
    torch.testing.assert_close(a.std(0), torch.full((2,), 0.05), atol=0.02, rtol=0)


def test_encode_is_the_crossing_from_renders(generator):
    prior, images = pictures(dtype=torch.float32), torch.rand(2, 6, 6, 3, generator=generator)
    x = prior.encode(images)
    assert x.shape == (2, 3, 6, 6) and x[1, 2, 3, 4] == images[1, 3, 4, 2] * 2 - 1
    torch.testing.assert_close(prior.decode(x), images)
    with pytest.raises(ValueError, match="not over images"):
        points().encode(images)


def test_bad_input_is_named():
    prior, x_t, t = points(), torch.zeros(3, 2, **DOUBLE), torch.tensor([1, 2, 3])
    any_label = torch.tensor([-1])
    with pytest.raises(ValueError, match=r"turn text into one with prior.embed"):
        prior.eps(x_t, t, "a red mug")
    for name in ("positive", "null", "negative"):
        with pytest.raises(ValueError, match=f"{name} must be a tensor"):
            Prompt(**{**dict.fromkeys(("positive", "null", "negative"), any_label), name: "a red mug"})
    with pytest.raises(ValueError, match="batch axis"):
        Prompt(any_label, torch.tensor(-1))
    with pytest.raises(ValueError, match="cond has 2 rows and x_t 3"):
        prior.eps(x_t, t, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="1 of 6 values that are not finite"):
        prior.eps(torch.tensor([[0.0, 1], [float("nan"), 0], [0, 0]], **DOUBLE), t, any_label)
    with pytest.raises(ValueError, match="1000"):
        prior.eps(x_t, t + 997, any_label)
    with pytest.raises(ValueError, match=r"shape \(B, 2\)"):
        prior.eps(torch.zeros(3, 4, **DOUBLE), t, any_label)
    with pytest.raises(ValueError, match="no component has label 7"):
        prior.eps(x_t, t, torch.tensor([7]))
    with pytest.raises(ValueError, match="does not read text"):
        prior.embed(["a red mug"])


def test_bad_labels_are_named():
    prior = pictures()
    with pytest.raises(ValueError, match="no label is called 'size'"):
        prior.cond(size="big")
    with pytest.raises(ValueError, match="no image carries"):
        prior.cond(kind="teapot")
    with pytest.raises(ValueError, match="names none of"):
        prior.embed(["a green teapot"])
    with pytest.raises(ValueError, match="at least one above 0"):
        prior.eps(torch.zeros(1, 3, 6, 6, **DOUBLE), torch.tensor([5]), torch.zeros(1, 12))
    with pytest.raises(ValueError, match="'kind' has 2 values for 12 images"):
        ImageMixturePrior(prior.images, {"kind": KINDS})


def test_view_prompts_name_the_view_of_each_camera():
    prior, cameras = pictures(), orbit([0.0, 90, 180, 350])
    prompts = ViewPrompts(prior, "a red duck")
    assert prompts.texts(cameras) == [f"a red duck, {v} view" for v in ("front", "side", "back", "front")]
    prompt = prompts(cameras)
    expected = torch.cat([prior.cond(kind="duck", colour="red", view=v) for v in ("front", "side", "back", "front")])
    assert torch.equal(prompt.positive, expected) and torch.equal(prompt.null, prior.cond())
    assert torch.equal(prompt.negative, prompt.null)
    free = ViewPrompts(prior, "a red duck", null="a mug", negative="a blue mug", views=False)(cameras)
    assert torch.equal(free.positive, prior.cond(kind="duck", colour="red").expand(4, -1))
    assert torch.equal(free.null, prior.cond(kind="mug"))
    assert torch.equal(free.negative, prior.cond(kind="mug", colour="blue"))


def test_each_distinct_text_is_embedded_once():
    class Reader:
        seen = []

        def embed(self, texts, negative=False):
            self.seen += texts
            return torch.zeros(len(texts), 77, 8)

    prompts = ViewPrompts(Reader(), "a mug")
    for _ in range(3):
        assert prompts(orbit([0.0, 10, 90])).positive.shape == (3, 77, 8)
    assert sorted(Reader.seen) == ["", "a mug, front view", "a mug, side view"]
