"""The trainings run from nothing, resume to the same weights, and write what the priors load."""
import torch

from dreamlab.cli import main as shell
from dreamlab.noise import randn, seeded
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.points import PointsPrior
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.training import fit, main, train_prior, train_vae


def test_fit_resumes_to_the_same_weights(tmp_path):
    def net():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 1)

    def train(net, steps, file):
        fit.fit({"net": net}, lambda g: (net(torch.randn(8, 3, generator=g)) - 1).square().mean(), steps, 1e-2, file, ema=0.9)
        return net.weight.detach()

    whole = train(net(), 300, tmp_path / "a.pt")
    stopped = fit.tqdm

    def short(steps, **settings):  # as if killed after the checkpoint at 250
        return stopped(range(steps.start, min(steps.stop, 260)), disable=True)

    fit.tqdm = short
    try:
        train(net(), 300, tmp_path / "b.pt")
    finally:
        fit.tqdm = stopped
    assert torch.equal(train(net(), 300, tmp_path / "b.pt"), whole)


def test_prior_trains_from_nothing_into_a_loadable_folder(tmp_path):
    views = Views.make(1)
    train_vae(tmp_path, views, steps=2, batch=2)
    folder = train_prior(tmp_path, views, steps=2, batch=2)
    prior = DiffusionPrior.load(folder)
    (eps,) = prior.eps(randn((1, *prior.shape), seeded(0)), torch.tensor([500]), prior.embed(["a red mug, back view"]))
    assert eps.isfinite().all() and prior.encode(torch.rand(1, 64, 64, 3)).shape == (1, 8, 16, 16)
    assert prior.card == DiffusionPrior.load().card  # so it does all that the bundled one does
    command = ["dream", "a red mug", "--prior", str(folder), "--steps", "1", "--out", str(tmp_path / "runs")]
    assert shell([*command, "--scene", "picture", "--rule", "SDS", "--set", "start.pictures=1"]) == 0
    assert list((tmp_path / "runs").glob("*/metrics.json"))
    assert shell(["dream", "a red zebra", *command[2:]]) == 2


def test_points_train_from_nothing_into_a_loadable_folder(tmp_path):
    folder = main("points", tmp_path, per_kind=1, steps=2)
    points, colours = PointsPrior.load(folder)("a red mug", 10, seeded(0))
    assert points.shape == colours.shape == (10, 3)
