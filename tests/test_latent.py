"""A radiance field of latents: what it shows a prior, its two linear maps, and that no encoder is in the loop."""
import pytest
import torch

from dreamlab.cameras import ring
from dreamlab.methods import METHODS
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.scenes.latent import mapped, maps
from dreamlab.stage import run

PART = METHODS["latent-nerf"].toy["shape"].set({"steps": 2, "views": 2, "start.samples": 16})


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


def test_the_maps_are_each_others_inverse_on_colours(prior):
    to_rgb, to_latent = maps(prior)
    rgb = torch.rand(32, 3, generator=torch.Generator().manual_seed(0))
    assert to_rgb.shape == (prior.shape[0] + 1, 3) and to_latent.shape == (4, prior.shape[0])
    assert (mapped(mapped(rgb, to_latent), to_rgb) - rgb).abs().max() < 0.03
    plain = prior.encode(rgb[:1].view(1, 1, 1, 3).expand(1, 64, 64, 3)).mean((2, 3))
    assert (mapped(rgb[:1], to_latent) - plain).norm() < 0.2 * plain.norm()


@torch.no_grad()
def test_it_shows_its_latents_over_those_of_the_background(prior):
    scene = PART.build("a red mug", prior).scene
    z, background = torch.linspace(-2, 2, prior.shape[0]), torch.tensor([0.2, 0.5, 0.9])
    scene.bias, leaves = 1e5, scene.parameters()
    leaves["color.2.weight"].zero_()
    leaves["color.2.bias"].copy_(z)
    seen = scene.latent(ring(3), prior.shape[-1], background)
    assert seen.shape == (3, *prior.shape)
    assert torch.allclose(seen[:, :, 8, 8], z.expand(3, -1), atol=1e-4)
    assert torch.allclose(seen[:, :, 0, 0], mapped(background, scene.kept["to_latent"]).expand(3, -1), atol=1e-4)
    rgb = scene.render(ring(3), 32, background).rgb
    assert torch.allclose(rgb[:, 16, 16], mapped(z, scene.kept["to_rgb"]).clamp(0, 1).expand(3, -1), atol=1e-4)
    assert torch.allclose(rgb[:, 0, 0], background.expand(3, -1), atol=1e-6)


def test_a_step_asks_no_encoder(prior, monkeypatch):
    stage = PART.build("a red mug", prior)
    monkeypatch.setattr(prior, "encode", lambda *_: pytest.fail("encoded"))
    assert [step.grad_norm > 0 and step.render is None for step in run(stage, progress=False)] == [True, True]


def test_maps_of_another_prior_are_refused(prior):
    scene = PART.build("a red mug", prior).scene
    state = scene.state_dict() | {"to_rgb": torch.zeros(9, 3)}
    with pytest.raises(ValueError, match="to_rgb of another LatentNeRF"):
        scene.load_state_dict(state)
