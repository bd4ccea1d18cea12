"""Multi-view priors: cameras as numbers, joined attention, MVDream's published layout, and sets of views against the truth."""
import json
import math
from dataclasses import fields

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo import tiny

from dreamlab.cameras import Cameras, Orbit, Rings, orbit, ring
from dreamlab.files import Refused
from dreamlab.memory import estimate
from dreamlab.methods import METHODS
from dreamlab.metrics.views import read_views
from dreamlab.noise import randn, seeded
from dreamlab.priors.base import Card
from dreamlab.priors.critic import LoRACritic
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.multiview import NUMBERS, Joined, camera_numbers, read_mvdream, sample_views
from dreamlab.prompts import Condition, ViewPrompts
from dreamlab.rules import SDS
from dreamlab.schedules import noise_to_signal
from dreamlab.stage import run
from dreamlab.threads import pieces, sharing
from dreamlab.toybox.captions import parse
from dreamlab.toybox.objects import Toy, lathe
from dreamlab.toybox.render import render
from dreamlab.toybox.training import multiview as training


def multiview(seed: int = 0, joined: int = 4) -> DiffusionPrior:
    """The tiny pipeline with a UNet that reads cameras."""
    from diffusers import UNet2DConditionModel

    pipe = tiny("epsilon", seed).pipe
    torch.manual_seed(seed)
    pipe.unet = UNet2DConditionModel.from_config(dict(pipe.unet.config) | {
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": NUMBERS, "_use_default_values": []})
    prior = DiffusionPrior(pipe)
    prior.joined = joined
    return prior


@pytest.fixture(scope="module")
def prior():
    return multiview()


def predicted(prior, x, cameras, text="a red mug"):
    asked = ViewPrompts(prior, text, views=False)(cameras)
    return prior.eps(x, torch.full((len(x),), 400), asked.positive)[0]


def at(cameras: Cameras, order: list[int]) -> Cameras:
    return Cameras(*(getattr(cameras, f.name)[order] for f in fields(cameras)))


def test_sixteen_numbers_of_a_camera():
    """At elevation 15 before the front: right +y, up and back as MVDream's code has them, a position of length 1; and for any
    camera the rotation is the view matrix's inverse with OpenGL's axes, and neither radius nor field of view counts."""
    m = camera_numbers(orbit(0.0, 15.0, 2.4)).view(4, 4)
    s, c = math.sin(math.radians(15)), math.cos(math.radians(15))
    assert torch.allclose(m, torch.tensor([[0, -s, c, c], [1, 0, 0, 0], [0, c, s, s], [0, 0, 0, 1]]), atol=1e-6)
    cameras = Orbit(roll_deg=20.0).sample(9, seeded(0))
    world = torch.linalg.inv(cameras.viewmats)
    m = camera_numbers(cameras).view(9, 4, 4)
    assert torch.allclose(m[:, :3, :3], world[:, :3, :3] * torch.tensor([1.0, -1, -1]), atol=1e-5)
    assert torch.allclose(m[:, :3, 3] * cameras.radius[:, None], world[:, :3, 3], atol=1e-5)
    turned = camera_numbers(orbit(cameras.azimuth_deg + 70, cameras.elevation_deg), cameras.azimuth_deg + 50)
    assert torch.allclose(turned, camera_numbers(orbit([20.0] * 9, cameras.elevation_deg)), atol=1e-5)
    near, far = (camera_numbers(orbit(33.0, 10.0, r, fov)) for r, fov in ((1.0, 20.0), (5.0, 60.0)))
    assert torch.allclose(near, far, atol=1e-6)


def test_views_of_a_set_see_each_other_and_no_other_set(prior):
    """Changing a view changes all four of its set and nothing else; sets, and views with their cameras, may change places."""
    x, cameras = randn((8, *prior.shape), seeded(0)), Rings().sample(8, seeded(1))
    out = predicted(prior, x, cameras)
    other = x.clone()
    other[2] += 1
    moved = (predicted(prior, other, cameras) - out).abs().amax((1, 2, 3))
    assert (moved[:4] > 1e-4).all() and (moved[4:] < 1e-6).all()
    for order in ([4, 5, 6, 7, 0, 1, 2, 3], [1, 0, 3, 2, 4, 7, 6, 5]):
        assert torch.allclose(predicted(prior, x[order], at(cameras, order)), out[order], atol=1e-5)
    mixed = [0, 1, 2, 4, 3, 5, 6, 7]  # a view in the other set is another set
    assert (predicted(prior, x[mixed], at(cameras, mixed)) - out[mixed]).abs().amax() > 1e-4


def test_without_joining_a_view_is_alone_and_as_diffusers_has_it():
    """One view a set is plain attention, with diffusers' own processor or with ours; a camera that moves changes its view."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    prior = multiview(joined=1)
    x, cameras = randn((4, *prior.shape), seeded(0)), ring(4)
    out = predicted(prior, x, cameras)
    turned = (predicted(prior, x, orbit(cameras.azimuth_deg + torch.tensor([0.0, 0, 50, 0]))) - out).abs().amax((1, 2, 3))
    assert turned[2] > 1e-4 and (turned[[0, 1, 3]] < 1e-6).all()
    prior.unet.set_attn_processor(AttnProcessor2_0())
    asked = ViewPrompts(prior, "a red mug", views=False)(cameras).positive
    plain = prior.unet(x, 400, asked["text"], class_labels=asked["camera"]).sample
    assert torch.allclose(plain, out, atol=1e-6)


def test_pieces_never_cut_a_set(prior):
    """Any number of sets and conditions, in a step with pieces and out of it; rows that are no sets are an error."""
    with sharing(torch.device("cpu")):
        for n in range(4, 40, 4):
            found = pieces(n, 4)
            assert [i for piece in found for i in range(n)[piece]] == list(range(n))
            assert all(piece.start % 4 == 0 and piece.stop % 4 == 0 for piece in found)
        assert len(pieces(4, 4)) == 1 and len(pieces(8, 4)) == 2
    x, cameras, t = randn((4, *prior.shape), seeded(0)), ring(4), torch.full((4,), 400)
    asked = ViewPrompts(prior, "a red mug", views=False, negative="a duck")(cameras)
    conds = (asked.positive, asked.null, asked.negative)
    out = prior.eps(x, t, *conds)
    with sharing(torch.device("cpu")):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(prior.eps(x, t, *conds), out, strict=True))
    with pytest.raises(ValueError, match="sees 4 views of one object together, got 6 rows: give a multiple of 4"):
        prior.eps(randn((6, *prior.shape), seeded(0)), torch.full((6,), 400), asked.null)
    with pytest.raises(ValueError, match="6 rows are no sets of 4 views"):
        Joined()(None, torch.zeros(6, 3, 8), views=4)


def test_a_text_without_cameras_is_refused(prior):
    """And the other way round: cameras that a plain prior cannot read are left out by it."""
    x = randn((4, *prior.shape), seeded(0))
    with pytest.raises(ValueError, match="widths.*camera.*let ViewPrompts say which camera"):
        prior.eps(x, torch.full((4,), 400), prior.embed(["a red mug"]))
    assert not isinstance(ViewPrompts(tiny("epsilon"), "a red mug")(ring(4)).positive, Condition)


def test_cameras_in_a_frame_of_their_own():
    """Told so, a prior cannot know how far a set is turned as a whole, and still knows how far apart its views are."""
    own, absolute = multiview(), multiview()
    own.card = Card(relative=True)
    x, cameras = randn((8, *own.shape), seeded(0)), Rings().sample(8, seeded(1))
    turned = orbit(cameras.azimuth_deg + 40, cameras.elevation_deg)
    other = orbit(cameras.azimuth_deg + torch.tensor([0.0, 0, 40, 0, 0, 0, 0, 0]), cameras.elevation_deg)
    out = predicted(own, x, cameras)
    assert torch.allclose(predicted(own, x, turned), out, atol=1e-5)
    assert (predicted(absolute, x, turned) - predicted(absolute, x, cameras)).abs().max() > 1e-3
    moved = (predicted(own, x, other) - out).abs().amax((1, 2, 3))
    assert (moved[:4] > 1e-4).all() and (moved[4:] < 1e-5).all()


def test_a_critic_beside_a_multi_view_prior(prior):
    """LoRA on its own UNet begins as the prior, joined and posed; its own cameras would take the place of the UNet's."""
    x, cameras, t = randn((4, *prior.shape), seeded(0)), ring(4), torch.full((4,), 400)
    asked = ViewPrompts(prior, "a red mug", views=False)(cameras).positive
    assert torch.allclose(LoRACritic(prior).eps(x, t, asked, cameras), prior.eps(x, t, asked)[0], atol=1e-5)
    with pytest.raises(ValueError, match="reads cameras itself: leave out camera"):
        LoRACritic(prior, camera=True)


def test_rings_stand_evenly_at_one_height():
    cameras = Rings((0.0, 30.0), (2.0, 3.0), (30.0, 60.0)).sample(12, seeded(3))
    for i in range(0, 12, 4):
        one = cameras[i : i + 4]
        around = (one.azimuth_deg - one.azimuth_deg[0] + 1).remainder(360) - 1
        assert torch.allclose(around, torch.tensor([0.0, 90, 180, 270]), atol=1e-3)
        assert all(len(getattr(one, name).unique()) == 1 for name in ("elevation_deg", "radius", "fov_deg"))
    assert len(cameras.elevation_deg.unique()) == 3 and 0 <= cameras.elevation_deg.min() and cameras.elevation_deg.max() <= 30
    with pytest.raises(ValueError, match="4 cameras at a time, got 6: let views be a multiple of 4"):
        Rings().sample(6, seeded(0))


def test_rescaled_guidance(prior):
    """With rescale 1 what is denoised to has eps_y's spread over the four views, half is halfway; the gradient is x less it."""
    x, cameras, t = randn((8, *prior.shape), seeded(0)), Rings().sample(8, seeded(1)), torch.full((8,), 600)
    eps, asked = randn((8, *prior.shape), seeded(2)), ViewPrompts(prior, "a red mug", views=False)(cameras)
    x_t = prior.add_noise(x, eps, t)
    eps_y, eps_null = prior.predict(x_t, t, asked)
    own, guided = prior.schedule.x0(x_t, eps_y, t), prior.schedule.x0(x_t, eps_null + 30 * (eps_y - eps_null), t)
    spread = lambda z: z.view(2, -1).std(1)  # noqa: E731
    for rescale in (0.0, 0.5, 1.0):
        rule = SDS(guidance=30.0, weight=noise_to_signal, rescale=rescale)
        denoised = x - rule(prior, x, t, eps, asked, cameras).value
        wanted = guided * (1 + rescale * (spread(own) / spread(guided) - 1)).repeat_interleave(4).view(8, 1, 1, 1)
        assert torch.allclose(denoised, wanted, atol=2e-4 * guided.abs().max().item())
    with pytest.raises(ValueError, match="rescale"):
        SDS(rescale=1.5)


# MVDream's UNet as it is published (latent-diffusion's names), tiny: three levels, attention on the outer two
PUBLISHED = {"image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
             "num_res_blocks": 2, "channel_mult": [1, 2, 2], "num_head_channels": 16, "use_spatial_transformer": True,
             "use_linear_in_transformer": True, "transformer_depth": 1, "context_dim": 8, "camera_dim": 16}


def published_name(name: str) -> str:
    """diffusers' name -> latent-diffusion's, for two residual blocks a level."""
    kind, *rest = name.split(".")
    whole = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    if kind in whole:
        return ".".join([whole[kind], *rest])
    if kind in ("time_embedding", "class_embedding"):
        part = "time_embed" if kind == "time_embedding" else "camera_embed"
        return ".".join([part, {"linear_1": "0", "linear_2": "2"}[rest[0]], *rest[1:]])
    inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
             "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    if kind == "mid_block":
        place = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}[".".join(rest[:2])]
        return ".".join(["middle_block", place, inner.get(rest[2], rest[2]) if rest[0] == "resnets" else rest[2], *rest[3:]])
    level, part, at, *rest = rest
    level, at = int(level), int(at)
    if part == "downsamplers":
        return ".".join([f"input_blocks.{3 * level + 3}.0.op", *rest[1:]])
    if part == "upsamplers":
        return ".".join([f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.conv", *rest[1:]])
    block = f"input_blocks.{3 * level + at + 1}" if kind == "down_blocks" else f"output_blocks.{3 * level + at}"
    if part == "resnets":
        return ".".join([block, "0", inner[rest[0]], *rest[1:]])
    return ".".join([block, "1", *rest])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder in the layout of the published MVDream, with random weights, and the UNet that they came from."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64, 64), layers_per_block=2, attention_head_dim=(2, 4, 4), cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",), use_linear_projection=True,
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2, class_embed_type="projection",
        projection_class_embeddings_input_dim=16)
    tiny("epsilon").pipe.save_pretrained(folder := tmp_path_factory.mktemp("mvdream"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "MVDreamPipeline", "unet": ["mv_unet", "MultiViewUNetModel"], "feature_extractor": [None, None],
              "image_encoder": [None, None]}
    index = {name: home for name, home in index.items() if name != "safety_checker"}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet/config.json").write_text(json.dumps(PUBLISHED | {"_class_name": "MultiViewUNetModel"}))
    save_file({published_name(name): x for name, x in unet.state_dict().items()},
              folder / "unet/diffusion_pytorch_model.safetensors")
    return folder, unet.eval()


def test_the_published_layout_is_read_exactly(published):
    """The same numbers as the UNet the weights came from, views joined, cameras read, no code run; it is a prior as any."""
    folder, unet = published
    prior = DiffusionPrior.load(folder)
    assert prior.joined == 4 and prior.reads == {"text": 8, "camera": 16}
    assert all(torch.equal(x, unet.state_dict()[name]) for name, x in prior.unet.state_dict().items())
    x, cameras = randn((4, *prior.shape), seeded(0)), ring(4)
    asked = ViewPrompts(prior, "a red mug", views=False)(cameras)
    unet.set_attn_processor(Joined())
    with torch.no_grad():
        theirs = unet(x, 400, asked.positive["text"], class_labels=asked.positive["camera"],
                      cross_attention_kwargs={"views": 4}).sample
    assert torch.allclose(prior.eps(x, torch.full((4,), 400), asked.positive)[0], theirs, atol=1e-5)


def test_other_weights_and_code_are_refused(published, tmp_path):
    folder, _ = published
    file, mend = "diffusion_pytorch_model.safetensors", "get it again"
    weights, config = load_file(folder / "unet" / file), (folder / "unet/config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    cases = {"lacks": {k: x for k, x in weights.items() if k != "middle_block.0.in_layers.2.bias"},
             "unexpected image_embed": weights | {"image_embed.weight": torch.zeros(3)},
             "lacks .*label_emb": {k: x for k, x in weights.items() if not k.startswith("camera_embed")},
             "misshapen": weights | {"out.2.weight": torch.zeros(4, 31, 3, 3)},
             "not finite": weights | {"out.2.bias": torch.full((4,), math.nan)}}
    for said, tensors in cases.items():
        save_file(tensors, tmp_path / file)
        with pytest.raises(Refused, match=f"{said}.*get it again"):
            read_mvdream(tmp_path, mend)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="is no config of MVDream's UNet.*KeyError.*get it again"):
        read_mvdream(tmp_path, mend)
    (folder / "unet/mv_unet.py").write_text("raise SystemExit")
    try:
        with pytest.raises(Refused, match="mv_unet.py is code"):
            DiffusionPrior.load(folder)
    finally:
        (folder / "unet/mv_unet.py").unlink()


def test_the_published_size():
    """690 tensors, 867,572,164 numbers, four of them more than Stable Diffusion 2.1's."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=32, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True,
            class_embed_type="projection", projection_class_embeddings_input_dim=NUMBERS)
    assert len(unet.state_dict()) == 690 and sum(x.numel() for x in unet.parameters()) == 867_572_164


def test_sets_are_read_against_the_truth():
    """The true views read as right, in another order and turned as wrong by just as much, and a lathe as faceless."""
    def read(cameras, kind="mug", colour="red", **warp):
        return read_views(render(Toy(kind, **warp), colour, cameras, 64, (0.5,) * 3).rgb, ring(4), "mug", "red", 0.5)

    right = read(ring(4))
    assert right.psnr > 60 and right.off_deg == right.apart_deg == 0 and right.fronts == 1
    assert right.kind_right and right.colour_right
    turned = read(orbit(ring(4).azimuth_deg + 30))
    assert turned.turn_deg.tolist() == [30] * 4 and turned.apart_deg == 0 and turned.psnr < 25
    assert read(orbit(ring(4).azimuth_deg.flip(0))).off_deg > 80
    assert read(ring(4), warp=lathe).fronts == 0
    other = read(ring(4), "duck", "blue")
    assert not other.kind_right and not other.colour_right
    with pytest.raises(ValueError, match="each picture has a camera, got 1 and 4"):
        read_views(torch.zeros(1, 64, 64, 3), ring(4), "mug", "red", 0.5)


def test_training_writes_a_prior(tmp_path, monkeypatch):
    """Two steps on few views: a folder that loads as a multi-view prior, and began as the bundled one."""
    monkeypatch.setattr(training, "RIGS", 1)
    monkeypatch.setattr(training, "AROUND", 4)
    monkeypatch.setattr(training, "KINDS", {"mug": None})
    folder = training.train_multiview(tmp_path, steps=2, batch=8)
    prior, plain = DiffusionPrior.load(folder), DiffusionPrior.load("toybox")
    assert prior.joined == 4 and prior.card.base == "toybox" and prior.reads == {"text": 128, "camera": 16}
    theirs = plain.unet.state_dict()
    far = [(x - theirs[name]).abs().max() for name, x in prior.unet.state_dict().items() if name in theirs]
    assert max(far) < 1e-3 and {k for k in prior.unet.state_dict() if k not in theirs} == {
        f"class_embedding.linear_{i}.{x}" for i in (1, 2) for x in ("weight", "bias")}
    own = DiffusionPrior.load(training.train_multiview(tmp_path, steps=1, batch=8, relative=True))
    bundled = DiffusionPrior.load("toybox-multiview").unet.state_dict()
    assert own.card.relative and own.joined == 4
    assert max((x - bundled[name]).abs().max() for name, x in own.unet.state_dict().items()) < 1e-3
    pictures = sample_views(prior, "a red mug", ring(8), seeded(0), steps=2)
    assert pictures.shape == (8, 64, 64, 3) and prior.joined == 4
    with pytest.raises(ValueError, match="is told no cameras and makes every view alone: load a multi-view prior"):
        sample_views(plain, "a red mug", ring(4), seeded(0))


def test_sets_are_drawn_as_they_are_told(tmp_path, monkeypatch):
    """The latents of a batch are those of the pictures from the cameras it names, in its captions' colours; rings of four."""
    monkeypatch.setattr(training, "RIGS", 2)
    monkeypatch.setattr(training, "AROUND", 8)
    monkeypatch.setattr(training, "KINDS", {"mug": None})
    plain = DiffusionPrior.load("toybox")
    turns = training.Turns.make(plain, 3, tmp_path / "turns.safetensors")
    z, cameras, captions = turns.batch(8, 8, seeded(1))
    kind, colour = parse(captions[0])
    true = plain.encode(render(Toy(kind), colour, cameras, 64, (0.5,) * 3).rgb)
    assert len(captions) == 1 and torch.allclose(z, true, atol=2e-2)
    for i in (0, 4):
        assert len(cameras.elevation_deg[i : i + 4].unique()) == 1
        assert torch.allclose(cameras.azimuth_deg[i : i + 4].diff().remainder(360), torch.full((3,), 90.0), atol=1e-3)
    assert torch.equal(turns.latents, training.Turns.make(plain, 3, tmp_path / "turns.safetensors").latents)


def test_a_run_under_the_bundled_prior():
    """Rings of its own cameras where none are named, a memory estimate, and a step; views that are no sets are refused."""
    part = METHODS["ball"].toy["shape"].set({"prior": "toybox-multiview", "start.points": 60, "steps": 1, "rule": "SDS"})
    part = part.set({"prompts.views": False, "background": "grey"})
    stage = part.build("a red mug")
    assert stage.cameras == Rings((-20.0, 40.0), (2.4, 2.4)) and estimate(stage) > 0
    before = stage.scene.colors.detach().clone()
    step, = run(stage, progress=False)
    assert len(step.cameras.elevation_deg.unique()) == 1 and not torch.equal(before, stage.scene.colors)
    alone = METHODS["ball"].toy["shape"].set({"cameras": "Rings", "views": 4, "start.points": 60, "steps": 1, "rule": "SDS"})
    assert estimate(alone.build("a red mug")) > 0  # rings for a prior that sees each view alone
    with pytest.raises(ValueError, match="the prior sees 4 views of one object together, got views 3: take a multiple of 4"):
        part.set(views=3).build("a red mug")
    with pytest.raises(ValueError, match="the cameras give 4 views of one object together, got views 2"):
        METHODS["ball"].toy["shape"].set({"cameras": "Rings", "views": 2, "start.points": 60}).build("a red mug")


def test_the_bundled_prior_puts_the_front_where_it_was_told():
    """A pair that no training saw: kind and colour right, one front, all four views in place."""
    prior = DiffusionPrior.load("toybox-multiview")
    reading = read_views(sample_views(prior, "a red bear", ring(4), seeded(0)), ring(4), "bear", "red", 0.5)
    assert reading.kind_right and reading.colour_right and reading.fronts == 1 and reading.off_deg <= 20 and reading.psnr > 22


def test_two_priors_are_averaged():
    """Magic123's mixing: the mean of both predictions, the 2D prior's without cameras; others are refused."""
    both, views, flat = (DiffusionPrior.load(name) for name in ("toybox-multiview + toybox", "toybox-multiview", "toybox"))
    asked = ViewPrompts(both, "a red mug", views=False)(ring(4))
    x, t = torch.randn(4, *both.shape, generator=seeded(0)), torch.full((4,), 400)
    mean = (views.eps(x, t, asked.positive)[0] + flat.eps(x, t, asked.positive["text"])[0]) / 2
    assert torch.allclose(both.eps(x, t, asked.positive)[0], mean, atol=1e-5) and both.joined == 4 and both.card == views.card
    with pytest.raises(ValueError, match="averaged over the same latents.*the second reads text, camera: give a multi-view"):
        DiffusionPrior.load("toybox + toybox-multiview")
    assert METHODS["magic123"].toy["shape"].set(steps=1).build("a red mug").prior.joined == 4
