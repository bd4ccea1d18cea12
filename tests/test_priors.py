"""The bundled priors, and what a diffusion prior does with any pipeline folder."""
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline

from dreamlab.noise import randn, seeded
from dreamlab.priors.diffusion import BUNDLED, DiffusionPrior
from dreamlab.prompts import Prompt
from dreamlab.toybox.captions import caption
from dreamlab.toybox.objects import COLOURS, HELD_OUT, Toy


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


def test_plain_diffusers_loads_the_folder_and_samples_the_same(prior):
    """Same latents, prompt, guidance and steps: our DDIM and diffusers' pipeline end at the same picture."""
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["toybox"], safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    x = randn((2, *prior.shape), seeded(0))
    texts = ["a red mug", "a blue bear, back view"]
    theirs = pipe(texts, latents=x, guidance_scale=4.0, num_inference_steps=10, output_type="pt").images
    prompt = Prompt(prior.embed(texts), prior.embed([""]))
    ours = prior.decode(prior.sample(prompt, 2, seeded(0), guidance=4.0, steps=10, offset=1))
    # diffusers ends at abar_0 instead of 1 (set_alpha_to_one=False): a difference of noise level 0.03 in the latent.
    assert (ours.movedim(-1, 1) - theirs).abs().mean() < 0.02


def test_folder_is_small_and_safe():
    files = [f for f in BUNDLED["toybox"].rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 20e6
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}
    assert sum(f.stat().st_size for f in BUNDLED["toybox"].parent.rglob("*") if f.is_file()) < 60e6


def test_encode_is_differentiable_and_decode_brings_it_back(prior):
    from dreamlab.cameras import ring
    from dreamlab.toybox.render import render

    images = render(Toy("duck"), "yellow", ring(4), 64, (0.6, 0.6, 0.6)).rgb.requires_grad_()
    x = prior.encode(images)
    assert x.shape == (4, *prior.shape) and 0.5 < x.std() < 2
    (gradient,) = torch.autograd.grad(x.square().sum(), images)
    assert gradient.abs().sum() > 0
    assert (prior.decode(x) - images).square().mean() < 10 ** -2.8
    assert prior.encode(torch.rand(1, 96, 96, 3)).shape == x[:1].shape


def test_it_predicts_noise_far_better_with_the_right_words(prior):
    """eps error on renders of a held-out pair: right kind and colour < wrong colour, < wrong kind."""
    from dreamlab.cameras import ring
    from dreamlab.toybox.render import render

    kind, colour = "bear", dict(HELD_OUT)["bear"]
    other = next(c for c in COLOURS if c != colour)
    x = prior.encode(render(Toy(kind), colour, ring(8), 64, (0.7, 0.7, 0.7)).rgb)
    t, eps = torch.full((8,), 600), randn(tuple(x.shape), seeded(1))
    texts = [caption(kind, colour), caption(kind, other), caption("house", colour)]
    predicted = prior.eps(prior.add_noise(x, eps, t), t, *(prior.embed([text]) for text in texts))
    right, wrong_colour, wrong_kind = ((p - eps).square().mean().item() for p in predicted)
    assert right < 0.9 * wrong_colour and right < 0.9 * wrong_kind


def test_view_words_change_the_picture(prior):
    """Prompts differ in the view alone: the eps error on a front render is smaller with the right word, and the reverse."""
    from dreamlab.cameras import orbit
    from dreamlab.toybox.render import render

    front, back = prior.embed(["a blue bear, front view"]), prior.embed(["a blue bear, back view"])
    t, generator = torch.full((8,), 500), seeded(2)
    for azimuth, right, wrong in ((0.0, front, back), (180.0, back, front)):
        x = prior.encode(render(Toy("bear"), "blue", orbit([azimuth] * 8), 64, (0.7, 0.7, 0.7)).rgb)
        eps = randn(tuple(x.shape), generator)
        a, b = prior.eps(prior.add_noise(x, eps, t), t, right, wrong)
        assert (a - eps).square().mean() < (b - eps).square().mean()


def test_v_prediction_is_read(prior, monkeypatch):
    """A UNet that returns v = alpha eps - sigma x gives eps."""
    x, eps, t = randn((2, *prior.shape), seeded(0)), randn((2, *prior.shape), seeded(1)), torch.tensor([100, 700])
    other = DiffusionPrior(prior.pipe)
    other.prediction = "v_prediction"

    class V(torch.nn.Module):
        dtype = torch.float32

        def forward(self, x_t, t, encoder_hidden_states):
            return type("Out", (), {"sample": prior.schedule.v(x, eps, t)})

    other.unet = V()
    (found,) = other.eps(prior.add_noise(x, eps, t), t, prior.embed(["a red mug"]))
    assert torch.allclose(found, eps, atol=1e-4)


def test_bad_input_says_what_to_do(prior, tmp_path):
    with pytest.raises(ValueError, match="tokens and the text encoder reads 16"):
        prior.embed(["a red mug " * 20])
    with pytest.raises(FileNotFoundError, match='pass its folder.*hf download sd2-community/.* --include "[*].json"'):
        DiffusionPrior.load(tmp_path / "nothing")


def test_a_folder_of_half_precision_files_is_read(prior, tmp_path):
    """What the error above says to fetch."""
    shutil.copytree(BUNDLED["toybox"], tmp_path / "half")
    for file in list((tmp_path / "half").glob("*/*.safetensors")):
        file.rename(file.with_suffix(".fp16.safetensors"))
    found = DiffusionPrior.load(tmp_path / "half")
    assert all(torch.equal(a, b) for a, b in zip(found.unet.parameters(), prior.unet.parameters(), strict=True))
