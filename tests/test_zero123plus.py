"""Zero123++: attention in two passes against its definition, the condition, scales, canvas and sampling, and bad folders."""
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from zoo import reads

from dreamlab.cameras import orbit
from dreamlab.files import Refused
from dreamlab.noise import randn, seeded
from dreamlab.priors.diffusion import BUNDLED, quiet
from dreamlab.priors.zero123plus import V11, V12, Pixels, Reference, Zero123Plus, layout
from dreamlab.viewpoints import Official, Turned, cameras_of

N = 16  # tokens, where the published text encoder reads 77


def extractor(side: int, resample: int, mean, std) -> str:
    return json.dumps({"crop_size": {"height": side, "width": side}, "do_center_crop": True, "do_convert_rgb": True,
                       "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": mean, "image_std": std,
                       "image_processor_type": "CLIPImageProcessor", "resample": resample, "rescale_factor": 1 / 255,
                       "size": {"shortest_edge": side}})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder in the layout of the published Zero123++ with random weights: views of 8 pixels, the picture read at 16."""
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("zero123plus"), CLIPTokenizer.from_pretrained(BUNDLED["toybox"] / "tokenizer")
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=96, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(1, 2),
            cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), use_linear_projection=True,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
        "vae": AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
                             down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        "text_encoder": CLIPTextModel(CLIPTextConfig(num_hidden_layers=1, **reads(tokenizer))),
        "vision_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16, patch_size=8,
            projection_dim=8)),
        "tokenizer": tokenizer,
        "scheduler": EulerAncestralDiscreteScheduler(1000, 0.00085, 0.012, "linear", prediction_type="v_prediction",
                                                     steps_offset=1)}
    with quiet():
        for name, part in parts.items():
            part.save_pretrained(folder / name)
    for name, said in (("clip", extractor(16, 3, [0.48, 0.46, 0.41], [0.27, 0.26, 0.28])), ("vae", extractor(16, 2, 0.5, 0.8))):
        (folder / f"feature_extractor_{name}").mkdir()
        (folder / f"feature_extractor_{name}/preprocessor_config.json").write_text(said)
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "Zero123PlusPipeline", "unet": ["pipeline", "RefOnlyNoisedUNet"], "safety_checker": [None, None],
        "vae": ["diffusers", "AutoencoderKL"], "ramping_coefficients": [0.05 * i for i in range(N)]}))
    (folder / "dreamlab.json").write_text('{"pixels": 8}')
    return folder


@pytest.fixture(scope="module")
def model(published):
    return Zero123Plus.load(published)


def picture(seed: int = 0, h: int = 20, w: int = 28):
    return torch.rand(h, w, 3, generator=seeded(seed))


def attend(attn: nn.Module, own, seen):
    """softmax(q k' / sqrt(d)) v, one head after the other."""
    q, k, v = attn.to_q(own), attn.to_k(seen), attn.to_v(seen)
    heads = [torch.softmax(a @ b.mT / a.shape[-1] ** 0.5, -1) @ c
             for a, b, c in zip(*(x.chunk(attn.heads, -1) for x in (q, k, v)), strict=True)]
    return attn.to_out[0](torch.cat(heads, -1))


def test_two_passes_are_the_definition(model, published):
    """The UNet with plain attention, of which hooks take and replace every self-attention, gives the same noise to 1e-5."""
    from diffusers import UNet2DConditionModel

    plain, kept = UNet2DConditionModel.from_pretrained(published / "unet").eval(), {}
    blocks = [m.attn1 for m in plain.modules() if hasattr(m, "attn1")]
    x, t = randn((2, 4, 12, 8), seeded(0)), torch.tensor([300, 700])
    context, reference = model.condition(picture(), seeded(1))
    noise = randn(reference.shape, seeded(2))
    alpha, sigma = (f(model.schedule.alphas_cumprod[t]).view(2, 1, 1, 1) for f in (torch.sqrt, lambda a: (1 - a).sqrt()))
    with torch.no_grad():
        hooks = [m.register_forward_hook(lambda m, given, out: kept.update({m: given[0]})) for m in blocks]
        plain(alpha * reference + sigma * noise, t, context)
        for hook in hooks:
            hook.remove()
        assert len(kept) == len(blocks) == 4
        for m in blocks:
            m.register_forward_hook(lambda m, given, out: attend(m, given[0], torch.cat([given[0], kept[m]], 1)))
        v = plain(x, t, context).sample
    found = model.eps(x, t, context, reference, seeded(2))
    assert torch.allclose(found, alpha * v + sigma * x, atol=1e-5)
    assert (found - model.eps(x, t, context, torch.zeros_like(reference), seeded(2))).abs().amax() > 1e-4


def test_without_a_store_attention_is_diffusers_own(model):
    from diffusers.models.attention_processor import AttnProcessor2_0

    x, context = randn((2, 4, 12, 8), seeded(0)), randn((2, N, 8), seeded(1))
    with torch.no_grad():
        ours = model.unet(x, 400, context).sample
        model.unet.set_attn_processor(AttnProcessor2_0())
        theirs = model.unet(x, 400, context).sample
    model.unet.set_attn_processor(Reference())
    assert torch.equal(ours, theirs)


def test_the_uncond_half_does_not_depend_on_the_picture(model):
    (one, z_one), (two, z_two) = (model.condition(picture(seed), seeded(9)) for seed in (0, 1))
    assert torch.equal(one[1], two[1]) and torch.equal(z_one[1], z_two[1])
    x, t = randn((1, 4, 12, 8), seeded(0)).repeat(2, 1, 1, 1), torch.tensor([600, 600])
    found, other = model.eps(x, t, one, z_one, seeded(3)), model.eps(x, t, two, z_two, seeded(3))
    assert torch.allclose(found[1], other[1], atol=1e-6) and (found[0] - other[0]).abs().amax() > 1e-4
    mixed = model.eps(x, t, one, z_two, seeded(3))
    assert (mixed[0] - found[0]).abs().amax() > 1e-4 and (mixed[0] - other[0]).abs().amax() > 1e-4


def test_the_condition_is_what_it_says(model, published):
    """Text("") plus the ramp times CLIP's embedding; the latents of (x - 0.5) / 0.8 and of zeros, without the usual scale."""
    context, reference = model.condition(picture(h=16, w=16), seeded(4))
    ids = model.tokenizer([""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        text = model.text_encoder(ids).last_hidden_state
        embeds = model.vision_encoder(model.clip_pixels(picture(h=16, w=16))).image_embeds
        means = [model.vae.encode(x).latent_dist for x in ((picture(h=16, w=16).movedim(-1, 0)[None] - 0.5) / 0.8,
                                                           torch.zeros(1, 3, 16, 16))]
    assert torch.allclose(context[1:], text) and ids.shape[1] == N
    assert torch.allclose(context[0] - text[0], 0.05 * torch.arange(N)[:, None] * embeds, atol=1e-6)
    wanted = torch.cat([d.mean for d in means]) + torch.cat([d.std for d in means]) * randn((2, 4, 8, 8), seeded(4))
    assert torch.allclose(reference, wanted, atol=1e-5)


def test_the_ramp_is_the_folder_s(model, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "copy")
    change(folder, ramping_coefficients=[1.0] * N)
    context, _ = Zero123Plus.load(folder).condition(picture(), seeded(0))
    ramped, _ = model.condition(picture(), seeded(0))
    assert torch.allclose((context - context[1])[0] * model.ramp[:, None], (ramped - ramped[1])[0], atol=1e-6)


def test_the_schedule_is_linear(model):
    """abar at some t, and not Stable Diffusion's."""
    wanted = {20: 0.980, 200: 0.673, 500: 0.161, 800: 0.0140, 999: 0.0016}
    assert all(model.schedule.alphas_cumprod[t].item() == pytest.approx(a, rel=0.03) for t, a in wanted.items())
    assert model.schedule.set_alpha_to_one


def test_scales_and_canvas_invert_each_other(published):
    """With an autoencoder that changes nothing: six pictures come back, row by row; a white pixel is (0.625 s - 0.22) 0.75."""
    model, s = Zero123Plus.load(published), 0.18215
    model.vae = SimpleNamespace(
        config=SimpleNamespace(scaling_factor=s),
        encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mean=x, std=torch.zeros_like(x))),
        decode=lambda z: SimpleNamespace(sample=z))
    views = torch.rand(6, 8, 8, 3, generator=seeded(0))
    x = model.encode(views, seeded(1))
    assert x.shape == (1, 3, 24, 16) and torch.allclose(model.decode(x), views, atol=1e-5)
    assert torch.allclose(model.encode(model.decode(x), seeded(1)), x, atol=1e-5)
    level = model.encode(torch.arange(6.0).view(6, 1, 1, 1).expand(6, 8, 8, 3) / 5, seeded(1))[0, 0, ::8, ::8]
    assert torch.allclose(level, ((torch.arange(6.0).view(3, 2) / 5 * 2 - 1) * 0.625 * s - 0.22) * 0.75, atol=1e-6)


def test_pictures_are_read_as_pillow_reads_them(model):
    """Resized by the short side, cut in the middle, to a few levels of 255; a square of the right size is only normalised."""
    from PIL import Image

    for read, filter, size in ((model.clip_pixels, Image.BICUBIC, (40, 53)), (model.vae_pixels, Image.BILINEAR, (53, 40))):
        levels = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6, generator=seeded(0)), size, mode="bicubic").clamp(0, 1)
        levels = (levels[0].movedim(0, -1) * 255).round().to(torch.uint8)
        h, w = (16 * n // 40 for n in size)
        image = torch.from_numpy(np.array(Image.fromarray(levels.numpy()).resize((w, h), filter)))
        image = image[(h - 16) // 2 :, (w - 16) // 2 :][:16, :16].movedim(-1, 0)[None] / 255
        assert ((image - read.mean) / read.std - read(levels / 255)).abs().amax() < 3 / 255 / read.std.min()
    square = picture(h=16, w=16)
    assert torch.allclose(model.vae_pixels(square), (square.movedim(-1, 0)[None] - 0.5) / 0.8, atol=1e-6)


@pytest.mark.parametrize("steps", [4, 10])
def test_sampling_is_ddim_with_trailing_steps(model, steps):
    """As diffusers' DDIM with that spacing, guidance 4, the same noise; pictures in [0, 1], fixed by the generator."""
    from diffusers import DDIMScheduler

    ddim = DDIMScheduler(1000, 0.00085, 0.012, "linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    ddim.set_timesteps(steps)
    generator = seeded(5)
    context, reference = model.condition(picture(), generator)
    x = randn((1, 4, 12, 8), generator)
    for t in ddim.timesteps:
        y, null = model.eps(x.repeat(2, 1, 1, 1), t.repeat(2), context, reference, generator).split(1)
        x = ddim.step(null + 4 * (y - null), t, x).prev_sample
    views = model.views(picture(), seeded(5), steps=steps)
    assert views.shape == (6, 8, 8, 3) and views.min() >= 0 and views.max() <= 1 and views.std() > 0
    assert torch.allclose(views, model.decode(x), atol=1e-4)
    assert (views - model.views(picture(), seeded(6), steps=steps)).abs().amax() > 1e-3


def test_half_precision_is_the_models_alone(published, model):
    """In bfloat16 the samples stay float32 and the views near."""
    half = Zero123Plus.load(published, dtype=torch.bfloat16)
    assert {x.dtype for part in (half.unet, half.vae, half.text_encoder, half.vision_encoder) for x in part.parameters()} == {
        torch.bfloat16}
    views = half.views(picture(), seeded(0), steps=4)
    assert views.dtype == torch.float32 and (views - model.views(picture(), seeded(0), steps=4)).abs().mean() < 0.03


def test_timesteps_of_75(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "eps", lambda x_t, t, *_: seen.append(int(t[0])) or x_t)
    model.views(picture(), seeded(0))
    assert len(seen) == 75 and seen[:3] == [999, 986, 972] and seen[-1] == 12


def test_cameras_of_the_six_views():
    for elevations in (V11, V12):
        wanted = orbit([30.0, 90, 150, 210, 270, 330], [*elevations] * 3, 4.0, 30.0)
        assert torch.equal(layout(elevations).viewmats, wanted.viewmats) and torch.equal(layout(elevations).Ks(320),
                                                                                        wanted.Ks(320))
    assert layout().elevation_deg.tolist() == [20, -10] * 3
    assert layout(azimuth_deg=15.0).azimuth_deg.tolist() == [45, 105, 165, 225, 285, 345]
    with pytest.raises(ValueError, match=r"elevation"):
        layout((95.0, 0.0))


def test_as_the_turning_prior_of_a_list(published, monkeypatch):
    """The official list's views are those of its canvas that stand there, of a picture over grey; others are not made."""
    seen, six = [], torch.arange(6.0)[:, None, None, None].expand(6, 8, 8, 3) / 6
    monkeypatch.setattr(Zero123Plus, "views", lambda self, picture, generator: seen.append(picture) or six)
    turned, side = Turned(str(published), "cpu"), orbit(90.0)
    listed = [v for v in Official()(seeded(0)) if v.of == 1 and v.azimuth_deg != 90]
    square = torch.full((16, 16, 3), 0.2)
    square[5:11, 5:11] = torch.tensor([0.9, 0.1, 0.2])
    made = turned(square, cameras_of(listed), side, seeded(0))
    assert (made[:, 0, 0, 0] * 6).round().tolist() == [0, 2, 3, 4, 5] and turned.side == 8
    assert torch.equal(layout(V11, 90.0).elevation_deg[[0, 2, 3, 4, 5]], cameras_of(listed).elevation_deg)
    assert torch.allclose(seen[0][:4], torch.tensor(0.5)) and torch.equal(seen[0][6:10, 6:10], square[6:10, 6:10])
    with pytest.raises(ValueError, match=r'330 degrees past its picture, got 45: take viewpoints "Official", or a Zero123'):
        turned(square, orbit([120.0, 135.0]), side, seeded(0))


def change(folder, file: str = "model_index.json", **values):
    """Other values in a JSON file; None removes a key."""
    said = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps({k: v for k, v in said.items() if v is not None}))


def cut(folder, name):
    shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


VAE = "feature_extractor_vae/preprocessor_config.json"
BAD = {
    "a part": (lambda f: cut(f, "vision_encoder"), FileNotFoundError, "no vision_encoder in .*: put it back"),
    "no index": (lambda f: cut(f, "model_index.json"), FileNotFoundError, "no model_index.json in .*: put it back"),
    "no ramp": (lambda f: change(f, ramping_coefficients=None), Refused, r"must be 16 numbers.* got 0 \(None\): put it back"),
    "a short ramp": (lambda f: change(f, ramping_coefficients=[0.5] * 15), Refused, r"16 numbers, one a token, got 15 \(\[0.5"),
    "a text as ramp": (lambda f: change(f, ramping_coefficients="many"), Refused, r"got 0 \('many'\): put it back"),
    "python": (lambda f: (f / "pipeline.py").write_text("raise SystemExit"), Refused, "pipeline.py is code"),
    "python inside": (lambda f: (f / "unet/unet.py").write_text("raise SystemExit"), Refused, "unet.py is code"),
    "a named module": (lambda f: change(f, "unet/config.json", auto_map={"a": "b.C"}), Refused, "names code to run"),
    "no weights": (lambda f: cut(f, "unet/diffusion_pytorch_model.safetensors"), FileNotFoundError,
                   "no unet/diffusion_pytorch_model.safetensors .*: put it back"),
    "no tokenizer": (lambda f: cut(f, "tokenizer/tokenizer.json"), FileNotFoundError, "no tokenizer.json nor vocab.json"),
    "noise": (lambda f: change(f, "scheduler/scheduler_config.json", prediction_type="epsilon"), Refused,
              "prediction_type in .* must be v_prediction, got 'epsilon': put it back"),
    "reader": (lambda f: change(f, VAE, resample=1), FileNotFoundError, "does not say how a picture is read .KeyError"),
    "crop": (lambda f: change(f, VAE, crop_size=16), FileNotFoundError, "crop_size 16.*put it back"),
    "damaged": (lambda f: (f / "scheduler/scheduler_config.json").write_text("{"), FileNotFoundError, "not whole: put it back"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders_are_one_line_before_any_model_is_loaded(name, published, tmp_path, monkeypatch):
    harm, kind, said = BAD[name]
    folder = shutil.copytree(published, tmp_path / "copy")
    harm(folder)
    monkeypatch.setattr(nn.Module, "to", lambda *_, **__: pytest.fail("something was loaded"))
    with pytest.raises(kind, match=said) as error:
        Zero123Plus.load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("image", [
    torch.zeros(3, 8, 8), torch.zeros(8, 8, 4), torch.zeros(1, 8, 8, 3), torch.zeros(0, 8, 3), torch.full((8, 8, 3), 255.0),
    torch.full((8, 8, 3), -0.1), torch.full((8, 8, 3), torch.nan), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_what_is_no_picture_is_told_before_work(image, model, monkeypatch):
    monkeypatch.setattr(model, "condition", lambda *_: pytest.fail("it went to work"))
    with pytest.raises(ValueError, match=r"^image must be .*got a tensor \(.*: (take|change)") as error:
        model.views(image, seeded(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_out_of_range(model, steps):
    with pytest.raises(ValueError, match=r"steps must be a whole number in \[1, .*change steps"):
        model.views(picture(), seeded(0), steps=steps)


def test_the_published_size():
    """What the published configuration of the UNet makes: 16 self-attentions, 865,910,724 numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
                                    use_linear_projection=True)
    assert sum(x.numel() for x in unet.parameters()) == 865_910_724
    assert sum(name.endswith("attn1") for name, _ in unet.named_modules()) == 16


def test_a_reader_says_which_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json does not say.*put it back"):
        Pixels(tmp_path)
