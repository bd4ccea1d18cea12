"""Zero123: poses, its published layout on random weights, and how a picture conditions."""
import json
import math

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dreamlab.cameras import orbit, ring
from dreamlab.files import Refused
from dreamlab.metrics.views import read_views
from dreamlab.noise import seeded
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.multiview import sample_views
from dreamlab.priors.zero123 import CameraProjection, Zero123, clip_pixels, relative_pose
from dreamlab.prompts import ViewPrompts
from dreamlab.toybox.dataset import GREY
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render
from dreamlab.toybox.training import multiview
from dreamlab.toybox.training import zero123 as training
from dreamlab.viewpoints import Around, Turned, source_views


def test_the_pose_of_zero123():
    """Up is negative, in the angle from the vertical; round is anticlockwise seen from above."""
    pose = relative_pose(orbit([90.0, 350.0], [35.0, 5.0], [2.0, 2.4]), orbit(80.0, 5.0, 2.4))
    assert torch.allclose(pose[0], torch.tensor([-math.pi / 6, math.sin(math.pi / 18), math.cos(math.pi / 18), -0.4]),
                          atol=1e-5)
    assert torch.allclose(pose[1], torch.tensor([0.0, -1.0, 0.0, 0.0]), atol=1e-5)


def test_pixels_of_clip():
    """White and black are as far from the middle as CLIP's constants say."""
    x = clip_pixels(torch.stack([torch.ones(8, 8, 3), torch.zeros(8, 8, 3)]), 16)
    assert x.shape == (2, 3, 16, 16) and torch.allclose(x[0, :, 3, 3], torch.tensor([1.9303, 2.0749, 2.1459]), atol=1e-3)
    assert torch.allclose(x[1, :, 3, 3], torch.tensor([-1.7923, -1.7521, -1.4802]), atol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights in the layout of the conversions to diffusers, small."""
    home = tmp_path_factory.mktemp("zero123")
    torch.manual_seed(0)
    UNet2DConditionModel(sample_size=8, in_channels=8, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
                         norm_num_groups=8, cross_attention_dim=24, attention_head_dim=4,
                         down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                         up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")).save_pretrained(home / "unet")
    AutoencoderKL(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
                  down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
                  scaling_factor=0.18215).save_pretrained(home / "vae")
    CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, projection_dim=20, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        patch_size=8)).save_pretrained(home / "image_encoder")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                  set_alpha_to_one=False, steps_offset=1).save_pretrained(home / "scheduler")
    (home / "clip_camera_projection").mkdir()
    save_file({"proj.weight": torch.randn(24, 24), "proj.bias": torch.randn(24)},
              home / "clip_camera_projection/diffusion_pytorch_model.safetensors")
    (home / "clip_camera_projection/config.json").write_text(json.dumps({"_class_name": "CLIPCameraProjection"}))
    (home / "model_index.json").write_text(json.dumps({
        "_class_name": "Zero123Pipeline", "clip_camera_projection": ["zero123", "CLIPCameraProjection"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}))
    return home


@pytest.fixture(scope="module")
def prior(folder):
    return Zero123.load(folder)


PICTURE = torch.rand(16, 16, 3, generator=seeded(7))


def test_the_published_layout(prior, folder):
    assert prior.shape == (4, 8, 8) and prior.resolution == 16 and prior.joined == 1
    shown = prior.of(PICTURE, orbit(0.0, 5.0))
    cameras = ring(3)
    asked = ViewPrompts(shown, "", views=False)(cameras)
    weights = load_file(folder / "clip_camera_projection/diffusion_pytorch_model.safetensors")
    embeds = prior.encoder(clip_pixels(PICTURE[None], 16)).image_embeds
    pose = relative_pose(cameras, orbit(0.0, 5.0))
    token = torch.cat([embeds.expand(3, -1), pose], 1) @ weights["proj.weight"].T + weights["proj.bias"]
    assert torch.allclose(asked.positive["text"][:, 0], token, atol=1e-4)
    latents = prior.vae.encode(PICTURE[None].movedim(-1, 1) * 2 - 1).latent_dist.mean  # not scaled
    assert torch.allclose(asked.positive["seen"], latents.expand(3, -1, -1, -1), atol=1e-4)
    assert (asked.null["text"] == 0).all() and (asked.null["seen"] == 0).all()
    x, t = torch.randn(3, 4, 8, 8, generator=seeded(1)), torch.tensor([300] * 3)
    by_hand = prior.unet(torch.cat([x, latents.expand(3, -1, -1, -1)], 1), t, token[:, None]).sample
    assert torch.allclose(shown.eps(x, t, asked.positive)[0], by_hand, atol=1e-4)


def test_the_picture_is_seen_and_guidance_is_without_it(prior):
    a, b = (prior.of(p, orbit(0.0, 5.0)) for p in (PICTURE, 1 - PICTURE))
    x, t = torch.randn(2, 4, 8, 8, generator=seeded(1)), torch.tensor([300] * 2)
    prompts = [ViewPrompts(p, "", views=False)(ring(2)) for p in (a, b)]
    (ya, na), (yb, nb) = (p.eps(x, t, asked.positive, asked.null) for p, asked in zip((a, b), prompts, strict=True))
    assert (ya - yb).abs().max() > 1e-3 and torch.equal(na, nb)
    assert (ya[0] - a.eps(x[:1], t[:1], ViewPrompts(a, "", views=False)(orbit(180.0)).positive)[0][0]).abs().max() > 1e-3
    views = sample_views(prior, PICTURE, ring(2), seeded(0), 3.0, 2, seen=orbit(0.0, 5.0))
    assert views.shape == (2, 16, 16, 3) and views.min() >= 0 and views.max() <= 1


def test_as_the_turning_prior_of_a_list(folder, prior, monkeypatch):
    """A published one sees its picture at its own size over white, whatever was behind the object; what it makes is as large
    as the references; and one that is missing is said before a view is made."""
    seen = []
    monkeypatch.setattr(Zero123, "of", lambda self, picture, camera, of=Zero123.of: seen.append(picture) or of(self, picture,
                                                                                                              camera))
    turned = Turned(str(folder), "cpu")
    assert turned.side == prior.resolution and turned.grey == 1.0
    square = torch.full((16, 16, 3), 0.3)
    square[5:11, 5:11] = torch.tensor([0.9, 0.1, 0.2])
    assert turned(square, ring(3), orbit(0.0, 5.0), seeded(0)).shape == (3, 16, 16, 3)
    assert (seen[0][:4] == 1).all() and torch.equal(seen[0][6:10, 6:10], square[6:10, 6:10])
    toy, near = Turned("toybox-zero123", "cpu"), square + 0.18
    for picture in (square, near):
        toy(picture, ring(1), orbit(0.0, 5.0), seeded(0))
    assert torch.allclose(seen[1][:4], torch.tensor(0.5)) and torch.equal(seen[1][6:10, 6:10], square[6:10, 6:10])
    assert torch.equal(seen[2], near)  # over nearly what it knows: as it is
    seen.clear()
    views, _ = source_views("a red mug", Around(2), seeded(0), "toybox", str(folder))
    assert views.shape == (4, 64, 64, 3) and seen[0].shape == (64, 64, 3)
    monkeypatch.setattr(DiffusionPrior, "sample", lambda *_, **__: pytest.fail("it went to work"))
    (folder / "gone").mkdir()
    with pytest.raises(FileNotFoundError, match="no unet, image_encoder, .* in .*gone"):
        source_views("a red mug", Around(2), seeded(0), "toybox", str(folder / "gone"))


def test_what_is_wrong_is_said(prior, folder, tmp_path):
    with pytest.raises(ValueError, match="has none yet: give it one, prior.of"):
        prior.posed(torch.ones(1, 1, 1), ring(2))
    with pytest.raises(ValueError, match=r"a picture is square.*got \(16, 8, 3\) and 1"):
        prior.of(PICTURE[:, :8], orbit(0.0))
    with pytest.raises(ValueError, match="a Zero123 makes views of a picture, got a str"):
        sample_views(prior, "a red mug", ring(2), seeded(0))
    with pytest.raises(ValueError, match="a DiffusionPrior makes views of a text, got a Tensor"):
        sample_views(DiffusionPrior.load("toybox-multiview"), PICTURE, ring(2), seeded(0))
    with pytest.raises(FileNotFoundError, match="no unet, image_encoder, clip_camera_projection, vae, scheduler in"):
        Zero123.load(tmp_path)
    with pytest.raises(Refused, match="proj.bias"):
        CameraProjection.load(folder / "clip_camera_projection", 20, 25, "mend")


@pytest.mark.slow
def test_a_folder_of_the_published_shapes():
    """Zero123-XL's own sizes, without numbers: the projection and the first convolution."""
    with torch.device("meta"):
        projection = CameraProjection()
        unet = UNet2DConditionModel(in_channels=8, out_channels=4, cross_attention_dim=768, attention_head_dim=8)
    assert projection.proj.weight.shape == (768, 772) and unet.conv_in.weight.shape == (320, 8, 3, 3)
    assert sum(p.numel() for p in unet.parameters()) == 859_532_484


@pytest.fixture(scope="module")
def bundled():
    return Zero123.load()


def test_a_picture_from_the_front_is_turned(bundled):
    """All six views of a held-out pair stand where they were asked for, and are of that object."""
    seen, cameras = orbit(0.0, 5.0), orbit(30 + 60 * torch.arange(6), 10.0)
    picture = render(Toy("duck"), "cyan", seen, 64, (GREY,) * 3).rgb[0]
    read = read_views(sample_views(bundled, picture, cameras, seeded(0), seen=seen), cameras, "duck", "cyan", GREY)
    assert read.psnr > 18 and (read.turn_deg.abs() <= 20).float().mean() >= 5 / 6 and read.kind_right and read.colour_right


def test_views_of_a_set_see_each_other(bundled):
    """Other orders give the same views; one that changes changes the others; alone they are others."""
    prior, cameras, order = bundled.of(torch.rand(64, 64, 3, generator=seeded(0)), orbit(0.0)), ring(6), [3, 0, 5, 1, 4, 2]
    prior.joined = 6
    x, t = torch.randn(6, *prior.shape, generator=seeded(1)), torch.full((6,), 500)
    prompt = lambda at: ViewPrompts(prior, "", views=False)(at).positive  # noqa: E731
    eps, = prior.eps(x, t, prompt(cameras))
    assert torch.allclose(prior.eps(x[order], t, prompt(cameras[order]))[0], eps[order], atol=1e-4)
    moved = x.clone()
    moved[0] += 1
    assert (prior.eps(moved, t, prompt(cameras))[0][1:] - eps[1:]).abs().amax((1, 2, 3)).min() > 1e-3
    prior.joined = 1
    assert (prior.eps(x, t, prompt(cameras))[0] - eps).abs().max() > 1e-2


def test_it_is_no_prior_of_texts(bundled):
    with pytest.raises(Refused, match="turns a picture and reads no text: use Zero123.load, or name another"):
        DiffusionPrior.load("toybox-zero123")


def test_training_writes_what_it_loads(tmp_path, monkeypatch):
    """Two steps of each kind; sets share an object and a picture, and stand as they are said to."""
    for name, value in (("RIGS", 1), ("AROUND", 12), ("KINDS", {"mug": None})):
        monkeypatch.setattr(multiview, name, value)
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(training, "RECOGNISING", 2)
    folder = training.train_zero123(tmp_path, steps=2, batch=6)
    prior = Zero123.load(folder)
    assert prior.joined == 6 and prior.reads == {"text": 128, "camera": 128, "seen": 16}
    turns = multiview.Turns.make(prior, 7, tmp_path / "turns.safetensors")
    kind, colour, rig, place = training.sets(turns, 5, 6, seeded(0))
    assert kind.shape == colour.shape == (5,) and rig.shape == place.shape == (5, 7)
    assert (rig == 0).all() and ((place[:, 2:] - place[:, 1:-1]) % 12 == 2).all()
