"""The bundled priors, and what a diffusion prior does with any pipeline folder."""
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from dreamlab.cameras import Orbit
from dreamlab.export import to_uint8
from dreamlab.noise import Schedule, randn, seeded
from dreamlab.priors.base import Card
from dreamlab.priors.diffusion import BUNDLED, HUB, DiffusionPrior, card_of, usual_device
from dreamlab.prompts import Prompt
from dreamlab.toybox.captions import caption
from dreamlab.toybox.objects import COLOURS, HELD_OUT, Toy
from dreamlab.toybox.training.prior import CARD, save_pipeline


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.load()


def test_plain_diffusers_loads_the_folder_and_samples_the_same(prior):
    """Same latents, prompt, guidance and steps: our DDIM and diffusers' pipeline end at the same picture."""
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["toybox"])
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32
    x = randn((2, *prior.shape), seeded(0))
    texts = ["a red mug", "a blue bear, back view"]
    theirs = pipe(texts, latents=x, guidance_scale=4.0, num_inference_steps=10, output_type="pt").images
    prompt = Prompt(prior.embed(texts), prior.embed([""]))
    ours = prior.decode(prior.sample(prompt, 2, seeded(0), guidance=4.0, steps=10, offset=1))
    assert (ours.movedim(-1, 1) - theirs).abs().max() < 1e-3


def test_plain_means_no_arguments(prior):
    """The call of the card, its defaults and torch's own generator: a picture that differs by a grey level at most, where it is
    the same. The other sign: with another seed, guidance or end of the schedule it is another."""
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["toybox"])
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(3)
    theirs = torch.from_numpy(np.array(pipe("a red mug").images[0])).int()

    def ours(seed=3, guidance=7.5):
        torch.manual_seed(seed)
        prompt = Prompt(prior.embed(["a red mug"]), prior.null)
        x = prior.sample(prompt, 1, torch.default_generator, guidance, steps=50, offset=1)
        return torch.from_numpy(to_uint8(prior.decode(x))[0]).int()

    assert (ours() - theirs).abs().max() <= 1
    assert (ours(seed=4) - theirs).abs().max() > 20 and (ours(guidance=3.0) - theirs).abs().max() > 20


def test_samples_end_where_the_schedule_says(prior, monkeypatch):
    """The bundled scheduler at abar_0, as Stable Diffusion's; to end clean is another picture, a little."""
    assert not prior.schedule.set_alpha_to_one and not prior.pipe.scheduler.config.set_alpha_to_one
    prompt = Prompt(prior.embed(["a red mug"]), prior.null)
    held = prior.sample(prompt, 1, seeded(0), 4.5, 10, offset=1)
    monkeypatch.setattr(prior, "schedule", Schedule(prior.schedule.alphas_cumprod))
    clean = prior.sample(prompt, 1, seeded(0), 4.5, 10, offset=1)
    assert 0.005 < (held - clean).square().mean().sqrt() < 0.1


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


# Cards: what a folder says of its prior.


def test_the_bundled_prior_says_what_it_is_and_so_does_a_copy(prior, tmp_path):
    assert prior.card == card_of("toybox") == CARD == Card("toybox", 64, 4.5, 0.01, Orbit()) and prior.resolution == 64
    shutil.copytree(BUNDLED["toybox"], tmp_path / "copy")
    assert DiffusionPrior.load(tmp_path / "copy").card == card_of(tmp_path / "copy") == prior.card
    (tmp_path / "copy/dreamlab.json").unlink()
    assert DiffusionPrior.load(tmp_path / "copy").card == Card()


def test_a_trained_prior_gets_its_card(tmp_path):
    pipe = DiffusionPrior.load().pipe
    folder = save_pipeline(tmp_path, pipe.unet, pipe.text_encoder, pipe.tokenizer, pipe.vae, pipe.scheduler)
    assert card_of(folder) == CARD


def test_names_on_the_hub_have_an_empty_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(card_of(name) == Card() for name in (*HUB, "someone/something", tmp_path / "nothing"))
    CARD.write(tmp_path / next(iter(HUB)))  # a folder of that name is not what is loaded
    assert card_of(next(iter(HUB))) == Card()


@pytest.mark.parametrize("card", [Card(), Card(world="toybox"),
                                  Card("elsewhere", 512, 7.5, 1e-4, Orbit((0.0, 10.0), (1.5, 2.0), (40.0, 70.0)))])
def test_a_card_is_written_and_read(card, tmp_path):
    card.write(tmp_path)
    assert Card.read(tmp_path) == card and {f.name for f in tmp_path.iterdir()} == {"dreamlab.json"}


@pytest.mark.parametrize("text, message", [
    ('{"world": "toybox"', "Expecting ',' delimiter"), ("[1, 2]", r"it must be a table of world, pixels, .*, got \[1, 2\]"),
    ('{"wolrd": "toybox"}', "there is no 'wolrd' .here 'toybox'.; there is: world, pixels, guidance, critic_rate, views"),
    ('{"pixels": "64"}', "pixels must be a whole number in .* or none, got '64': change pixels"),
    ('{"pixels": 0}', "pixels must be .*, got 0"), ('{"critic_rate": NaN}', "critic_rate must be a number above 0 .*got nan"),
    ('{"guidance": 0.5}', "guidance must be a number at least 1 or none, got 0.5"), ('{"world": 3}', "world .*, got 3"),
    ('{"views": 40}', "views must be an Orbit or none, got 40"), ('{"views": {"radius": [0, 2]}}', "radius must be .*above 0"),
    ('{"views": {"fov_deg": "wide"}}', "fov_deg must be .*, got 'wide'"), ('{"views": {"radius": [3.0, 2.0]}}', "swap them"),
    ('{"views": {"azimuth_deg": [0, 90]}}', r"there is no 'azimuth_deg' .here \[0, 90\]."),
    ("\x00\xff", "Expecting value|decode")])
def test_a_damaged_card_is_one_line(text, message, tmp_path, prior):
    shutil.copytree(BUNDLED["toybox"], tmp_path / "copy")
    (tmp_path / "copy/dreamlab.json").write_text(text, encoding="latin-1")
    for read in (card_of, DiffusionPrior.load, usual_device):
        with pytest.raises(ValueError, match=message) as error:
            read(tmp_path / "copy")
        said = str(error.value)
        assert said.startswith(f"{tmp_path / 'copy/dreamlab.json'} cannot be used, mend or remove it: ") and "\n" not in said


def test_the_card_says_the_resolution_and_a_caller_may_say_another(prior):
    assert DiffusionPrior(prior.pipe).resolution == 16 * prior.pipe.vae_scale_factor
    assert DiffusionPrior(prior.pipe, card=Card(pixels=96)).resolution == 96
    assert DiffusionPrior(prior.pipe, 32, Card(pixels=96)).resolution == 32


def test_priors_of_the_toybox_stay_on_the_cpu_whatever_they_are_called(tmp_path, monkeypatch):
    CARD.write(tmp_path / "mine")
    Card(pixels=512).write(tmp_path / "theirs")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [usual_device(name) for name in ("toybox", tmp_path / "mine", tmp_path / "theirs", "sd-2.1-base")] == [
        "cpu", "cpu", "cuda", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usual_device("sd-2.1-base") == "cpu"


def test_a_priors_device_is_that_of_its_null_condition(prior):
    from zoo import pixels, points

    assert all(p.device == p.null.device for p in (prior, points(), pixels()))
