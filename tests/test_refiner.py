"""Stable Diffusion XL's refiner, tiny and with random weights, beside diffusers' own pipeline of the same folder."""
import json
import shutil

import pytest
import torch
from zoo import tiny, tiny_refiner

from benchmarks.paper_parts import XL_TEXT, XL_UNET
from dreamlab.cameras import orbit
from dreamlab.cli import main
from dreamlab.files import Refused
from dreamlab.methods import METHODS
from dreamlab.noise import ddim_follow, randn, seeded
from dreamlab.priors import diffusion
from dreamlab.priors.critic import LoRACritic
from dreamlab.priors.diffusion import HUB, DiffusionPrior
from dreamlab.prompts import Condition, Prompt, ViewPrompts
from dreamlab.rules import SDS
from dreamlab.rules.base import distill
from dreamlab.stage import run

TEXTS, NEGATIVES, GUIDANCE = ["a red mug", "a blue bear, back view"], ["a green house", ""], 5.0
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "scaling_factor": 0.13025, "sample_size": 1024,
       "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tiny_refiner().save_pretrained(folder := tmp_path_factory.mktemp("refiner"))
    edit(folder / "scheduler/scheduler_config.json", set_alpha_to_one=False, skip_prk_steps=True)  # as XL's are published
    return folder


@pytest.fixture(scope="module")
def prior(folder):
    return DiffusionPrior.load(folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def plain(folder):
    """The folder as diffusers alone reads it."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def walk(folder):
    """What happens in the pipeline's own run: at each step the U-Net's arguments, and the guided noise, t and sample that the
    scheduler gets; and the latents that come out."""
    pipe, inputs, steps = plain(folder), [], []
    pipe.unet.register_forward_pre_hook(lambda module, args, named: inputs.append((args, named)), with_kwargs=True)
    step = pipe.scheduler.step

    def watched(eps, t, sample, **more):
        steps.append((eps, t, sample))
        return step(eps, t, sample, **more)

    pipe.scheduler.step = watched
    image = torch.rand(1, 3, 16, 16, generator=seeded(3))
    end = pipe(TEXTS, image=image, negative_prompt=NEGATIVES, strength=0.8, num_inference_steps=10, guidance_scale=GUIDANCE,
               generator=seeded(4), output_type="latent").images
    return inputs, steps, end


def prompt(prior) -> Prompt:
    return Prompt(prior.embed(TEXTS), prior.embed(NEGATIVES, negative=True))


def level(t, sample) -> torch.Tensor:
    """The step's t for each sample of the batch."""
    return torch.full((len(sample),), int(t))


def worst(prior, walk, asked: Prompt, convert=True) -> float:
    """The largest difference of a guided noise from the pipeline's, over all steps of its run."""
    gaps = []
    for eps, t, sample in walk[1]:
        alpha = prior.schedule.alpha(level(t, sample), sample) if convert else 1.0
        with torch.no_grad():
            gaps.append(prior.guided(alpha * sample, level(t, sample), asked, GUIDANCE) - eps)
    return torch.stack(gaps).abs().max().item()


# Beside diffusers.


def test_conditions_are_the_pipelines(prior, walk):
    """Those of negative texts first, as it puts them; "time_ids" end in the score."""
    asked, ((_, given), *others) = prompt(prior), walk[0]
    ours = [torch.cat([asked.null[name], asked.positive[name]]) for name in ("text", "text_embeds", "time_ids")]
    theirs = [given["encoder_hidden_states"], *(given["added_cond_kwargs"][name] for name in ("text_embeds", "time_ids"))]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=0)
    assert ours[2].tolist() == [[16, 16, 0, 0, 2.5]] * 2 + [[16, 16, 0, 0, 6]] * 2
    assert all(torch.equal(named["encoder_hidden_states"], theirs[0]) for _, named in others)


def test_text_is_what_the_last_layer_but_one_puts_out(prior):
    """Whatever a version of transformers counts among the hidden states."""
    seen, modules = [], prior.pipe.text_encoder_2.named_modules()
    hooks = [module.register_forward_hook(lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
             for name, module in modules if name.endswith(("encoder.layers.0", "encoder.layers.1"))]
    found = prior.embed(TEXTS)["text"]
    for hook in hooks:
        hook.remove()
    first, last = seen
    assert torch.equal(found, first) and not torch.allclose(found, last, atol=1e-2)


def test_each_step_of_the_pipelines_run(prior, walk):
    inputs, steps, _ = walk
    assert len(steps) == 8
    for (given, _), (_, t, sample) in zip(inputs, steps, strict=True):
        x_t = prior.schedule.alpha(level(t, sample), sample) * sample
        torch.testing.assert_close(torch.cat([x_t, x_t]), given[0], atol=1e-5, rtol=1e-5)
    gap = worst(prior, walk, prompt(prior))
    print(f"guided eps, 8 steps: at most {gap:.1e} from diffusers'")
    assert gap < 1e-5


def swapped(prior, asked):
    return Prompt(prior.embed(TEXTS, negative=True), prior.embed(NEGATIVES))


def one_score(prior, asked):
    return Prompt(asked.positive, prior.embed(NEGATIVES))


def without(name):
    def change(prior, asked):
        return Prompt(*(Condition({**c.tensors, name: 0 * c[name]}) for c in (asked.positive, asked.null)))
    return change


def normed(prior, asked):
    last = prior.pipe.text_encoder_2.text_model.final_layer_norm
    return Prompt(*(Condition({**c.tensors, "text": last(c["text"])}) for c in (asked.positive, asked.null)))


def zeros_for_nothing(prior, asked):
    """As Stable Diffusion XL's base wants it."""
    keep = torch.tensor([1.0, 0.0])  # the second negative text is ""
    null = {**asked.null.tensors, "text": asked.null["text"] * keep[:, None, None],
            "text_embeds": asked.null["text_embeds"] * keep[:, None]}
    return Prompt(asked.positive, Condition(null))


@pytest.mark.parametrize("mistake", [
    swapped, one_score, pytest.param(without("text_embeds"), id="no pooled text"),
    pytest.param(without("time_ids"), id="no time ids"), normed, zeros_for_nothing])
def test_each_mistake_would_be_seen(mistake, prior, walk):
    gap = worst(prior, walk, mistake(prior, prompt(prior)))
    print(f"{gap:.1e}")
    assert gap > 1e-3


def test_the_schedulers_own_samples_would_be_seen(prior, walk):
    assert worst(prior, walk, prompt(prior), convert=False) > 1e-1


def test_ddim_ends_where_the_pipelines_euler_ends(prior, walk):
    """The same step in other units. Both end clean: EulerDiscrete does not read the set_alpha_to_one of its config."""
    _, steps, end = walk
    sample, asked = steps[0][2], prompt(prior)
    times = [level(t, sample) for _, t, sample in steps] + [level(-1, sample)]
    x_t = prior.schedule.alpha(times[0], sample) * sample
    with torch.no_grad():
        found = ddim_follow(lambda x, t: prior.guided(x, t, asked, GUIDANCE), x_t, prior.schedule, times)
    print(f"the end: at most {(found - end).abs().max():.1e} apart, of {end.std():.1f}")
    torch.testing.assert_close(found, end, atol=1e-4, rtol=1e-4)
    assert prior.schedule.set_alpha_to_one and prior.pipe.scheduler.config.set_alpha_to_one is False


def test_pictures_are_encoded_and_decoded_as_there(folder, prior):
    pipe, images = plain(folder), torch.rand(2, 16, 16, 3, generator=seeded(5)).requires_grad_()
    x = prior.encode(images)
    with torch.no_grad():
        there = pipe.vae.encode(pipe.image_processor.preprocess(images.movedim(-1, 1))).latent_dist.mode() * 0.13025
        back = pipe.image_processor.postprocess(pipe.vae.decode(there / 0.13025).sample, output_type="pt")
    torch.testing.assert_close(x, there, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(prior.decode(x).movedim(-1, 1), back, atol=1e-5, rtol=1e-5)
    gradient, = torch.autograd.grad(x.square().sum(), images)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


# Half precision.


def test_in_half_precision_the_autoencoder_alone_is_whole(copy):
    """With weights that carry activations past 65,504, as the published ones: in half precision they end in NaN."""
    from safetensors.torch import load_file, save_file

    state = load_file(file := copy / "vae/diffusion_pytorch_model.safetensors")
    for part in ("encoder", "decoder"):
        state[f"{part}.conv_in.weight"] *= 2e5  # up to 4e4
    save_file(state, file, {"format": "pt"})
    prior = DiffusionPrior.load(copy, dtype=torch.float16)
    assert prior.unet.dtype == prior.pipe.text_encoder_2.dtype == torch.float16 and prior.vae.dtype == torch.float32
    images = torch.rand(1, 16, 16, 3, generator=seeded(6)).requires_grad_()
    x = prior.encode(images)
    gradient, = torch.autograd.grad(x.sum(), images)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0 and x.dtype == torch.float32
    assert prior.decode(x.detach()).isfinite().all()
    whole, asked, t = DiffusionPrior.load(copy), prior.embed(TEXTS), torch.tensor([100, 150])
    x = randn((2, *prior.shape), seeded(10))
    torch.testing.assert_close(prior.eps(x, t, asked)[0], whole.eps(x, t, whole.embed(TEXTS))[0], atol=1e-2, rtol=1e-2)
    prior.vae.half()
    with pytest.raises(ValueError, match=r"from finite pictures the autoencoder \(AutoencoderKL\) encodes"):
        prior.encode(images)
    edit(copy / "vae/config.json", force_upcast=False)  # an autoencoder that was mended for it
    assert DiffusionPrior.load(copy, dtype=torch.float16).vae.dtype == torch.float16


# Distillation.


def test_view_prompts_ask_for_the_negative_score(prior):
    prompts = ViewPrompts(prior, "a red mug", null="a mug", negative="a red mug", views=False)
    asked = prompts(orbit([0.0, 90.0]))
    assert [c["time_ids"][:, 4].tolist() for c in (asked.positive, asked.null, asked.negative)] == [[6, 6], [2.5], [2.5]]
    assert torch.equal(asked.positive["text"][:1], asked.negative["text"])  # one text, two conditions
    assert prior.null["time_ids"].tolist() == [[16, 16, 0, 0, 2.5]] and torch.equal(
        prior.null["text"], prior.embed([""])["text"])


def test_sds_moves_a_picture(prior):
    images = torch.rand(2, 16, 16, 3, generator=seeded(7)).requires_grad_()
    x = prior.encode(images)
    asked = ViewPrompts(prior, "a red mug")(orbit([0.0, 90.0]))
    distill(x, SDS()(prior, x, torch.tensor([40, 160]), randn(tuple(x.shape), seeded(8)), asked)).backward()
    assert images.grad.isfinite().all() and images.grad.flatten(1).norm(dim=1).min() > 0


def test_a_run_from_end_to_end(folder, prior, tmp_path):
    part = METHODS["text2image-pixels"].toy["pictures"].set({"rule": "SDS", "steps": 2, "start.pictures": 1})
    stage = part.build("a red mug", prior)
    start = stage.scene.x.detach().clone()
    assert all(step.loss is not None for step in run(stage, progress=False))
    assert stage.scene.x.isfinite().all() and not torch.equal(stage.scene.x, start)
    command = ["dream", "a red mug", "--scene", "picture", "--prior", str(folder), "--steps", "1", "--out", str(tmp_path)]
    assert main(command) == 0 and list(tmp_path.rglob("picture.png"))


def test_a_critic_starts_as_the_prior_and_learns(prior):
    critic, g = LoRACritic(prior, lr=1e-2), seeded(9)
    x, eps, t = randn((4, *prior.shape), g), randn((4, *prior.shape), g), torch.tensor([40, 80, 120, 160])
    y, x_t = prior.embed(["a red mug"]), prior.add_noise(x, eps, t)
    torch.testing.assert_close(critic.eps(x_t, t, y), prior.eps(x_t, t, y)[0], atol=1e-6, rtol=1e-5)
    losses = [float(critic.fit(x, t, eps, y)) for _ in range(10)]
    assert losses[-1] < losses[0] and not torch.allclose(critic.eps(x_t, t, y), prior.eps(x_t, t, y)[0], atol=1e-5)


# The wrong kind.


def test_conditions_of_another_prior_are_refused(prior):
    sd = tiny("epsilon")
    x, t = randn((1, *prior.shape), seeded(0)), torch.tensor([100])
    with pytest.raises(ValueError, match=r"has the widths {'text': 8}, and the U-Net of this prior reads {'text': 8, "
                                         r"'text_embeds': 6, 'time_ids': 5}: embed the text with this prior"):
        prior.eps(x, t, sd.embed(["a red mug"]))
    with pytest.raises(ValueError, match=r"widths {'text': 8, 'text_embeds': 6, .* reads {'text': 8}: embed the text with"):
        sd.eps(x, t, prior.embed(["a red mug"]))
    with pytest.raises(ValueError, match=r"widths {'text': 7}, and the U-Net of this prior reads {'text': 8}: embed"):
        sd.eps(x, t, torch.zeros(1, 16, 7))
    with pytest.raises(ValueError, match=r"widths {'text': 8}, .* reads {'text': 8, 'text_embeds': 6"):
        LoRACritic(sd, base=prior).eps(x, t, sd.embed(["a red mug"]))


def test_a_folder_of_parts_that_do_not_fit_is_refused(copy, folder):
    encoder = ["transformers", "CLIPTextModelWithProjection"]
    edit(copy / "model_index.json", text_encoder=encoder)  # Stable Diffusion XL's base has both
    with pytest.raises(Refused, match=r"model_index\.json has two text encoders, .*: use a prior with one, sd-2\.1-base, "):
        DiffusionPrior.load(copy)
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    sd = tiny("epsilon").unet
    sd.save_pretrained(copy / "unet")
    with pytest.raises(ValueError, match=r"widths {'text': 8, 'text_embeds': 6, 'time_ids': 5}, .* reads {'text': 8}: take "):
        DiffusionPrior.load(copy).embed(["a red mug"])


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2", "unet", "text_encoder_2/model.safetensors",
                                  "tokenizer_2/tokenizer.json"])
def test_a_folder_that_lacks_a_part_is_named_with_it(part, copy):
    """Which diffusers would fill: with an empty tokenizer, or random weights."""
    (copy / part).rename(copy.parent / "away")
    with pytest.raises(FileNotFoundError, match=f"is not whole: put back what is missing.*{part.split('/')[-1]}"):
        DiffusionPrior.load(copy)


# The published one, without its weights.


def test_the_name_is_a_pinned_commit_of_the_hub(monkeypatch, copy):
    asked = []

    def download(repo, revision=None, allow_patterns=None):
        asked.append((repo, revision))
        return str(copy)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for file in copy.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert DiffusionPrior.load("sdxl-refiner").refines
    diffusion.fetch("sdxl-refiner", "abc")
    home = HUB["sdxl-refiner"]
    assert asked == [(home.repo, home.revision), (home.repo, "abc")] and len(home.revision) == 40
    said = rf"sdxl-refiner \(6\.1 GB\), `hf download {home.repo} --revision {home.revision} --include"

    def offline(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=said):
        DiffusionPrior.load("sdxl-refiner")


def test_the_published_shape():
    """2 bytes for each parameter: 6,075,680,726. Its latents are 128 x 128 of pictures of 1024 x 1024."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**XL_UNET), AutoencoderKL(**VAE)
        text = CLIPTextModelWithProjection(CLIPTextConfig(**XL_TEXT))
    counts = [sum(p.numel() for p in module.parameters()) for module in (unet, text, vae)]
    print("U-Net {:,}, text encoder {:,}, autoencoder {:,}".format(*counts))
    assert 2 * sum(counts) == 6_075_680_726
    scheduler = EulerDiscreteScheduler(1000, 0.00085, 0.012, "scaled_linear", timestep_spacing="leading", steps_offset=1)
    pipe = StableDiffusionXLImg2ImgPipeline(vae, None, text, None, None, unet, scheduler, add_watermarker=False)
    prior = DiffusionPrior(pipe)
    assert prior.shape == (4, 128, 128) and prior.resolution == 1024 and len(prior.schedule) == 1000
    assert prior.reads == {"text": 1280, "text_embeds": 1280, "time_ids": 5}
