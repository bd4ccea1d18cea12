"""Weights: every loader refuses files with other tensors than its own, NaN, and code; and who is to blame is named."""
import json
import logging
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dreamlab import scenes
from dreamlab.cameras import Orbit, ring
from dreamlab.cli import main
from dreamlab.export import to_uint8
from dreamlab.files import Refused, check_weights, load_weights
from dreamlab.methods import METHODS
from dreamlab.noise import seeded
from dreamlab.priors import diffusion
from dreamlab.priors.diffusion import ADAPTER, BUNDLED, MODELS, DiffusionPrior
from dreamlab.priors.points import BUNDLED as POINTS
from dreamlab.priors.points import load_points
from dreamlab.scenes.gaussians import Gaussians, load_ply, save_ply
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.scenes.picture import Picture
from dreamlab.stage import run
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.judge import WEIGHTS, Judge
from dreamlab.toybox.training.fit import fit
from dreamlab.toybox.training.judge import Exhibits
from dreamlab.toybox.training.prior import train_prior

ROOT = Path(__file__).parent.parent
NAN = float("nan")


@pytest.fixture(scope="module")
def shap_e(tmp_path_factory):
    from test_points import folder

    return folder.__wrapped__(tmp_path_factory)


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    from zoo import tiny_refiner

    tiny_refiner().save_pretrained(folder := tmp_path_factory.mktemp("refiner"))
    return folder


@pytest.fixture
def prior(tmp_path):
    return shutil.copytree(BUNDLED["toybox"], tmp_path / "prior")


@pytest.fixture
def plan():
    def make(name="dreammapping", steps=2, points=60, **changes):
        small = {"start.points": points, "resolution": 32, "steps": steps}
        return METHODS[name].toy["shape"].set(small).set(**changes).build("a red mug", DiffusionPrior.load())
    return make


# Each loader: a good file that is made for it, and what reads it.

def part_of_prior(part, half=False, kind="toybox"):
    def make(tmp_path, request):
        folder = shutil.copytree(BUNDLED.get(kind) or request.getfixturevalue(kind), tmp_path / "prior")
        if half:
            for file in list(folder.glob("*/*.safetensors")):
                file.rename(file.with_suffix(".fp16.safetensors"))
        return folder / part / f"{MODELS[part]}{'.fp16' * half}.safetensors", lambda: DiffusionPrior.load(folder)
    return make


def adapter(kind):
    def make(tmp_path, request):
        folder = shutil.copytree(BUNDLED[kind], tmp_path / "adapter")
        return folder / ADAPTER, lambda: DiffusionPrior.load(folder)
    return make


def part_of_shap_e(part, stem):
    def make(tmp_path, request):
        folder = shutil.copytree(request.getfixturevalue("shap_e"), tmp_path / "shap-e")
        return folder / part / f"{stem}.safetensors", lambda: load_points(folder)
    return make


def points(tmp_path, request):
    folder = shutil.copytree(POINTS["toybox"], tmp_path / "points")
    return folder / "model.safetensors", lambda: load_points(folder)


def judge(tmp_path, request):
    folder = shutil.copytree(WEIGHTS, tmp_path / "judge")
    return folder / "judge.safetensors", lambda: Judge.load.__wrapped__(folder)


def views(tmp_path, request):
    file, make = tmp_path / "views", lambda: Views.make(1, resolution=8, cache=file)
    make()
    return file, make


def few():
    return Views(torch.zeros(1, 5, 8, 8, dtype=torch.uint8), torch.zeros(1).long(), torch.zeros(1))


def exhibits(tmp_path, request):
    layers = torch.zeros(4, 6, 8, 8, dtype=torch.uint8)
    save_file({"layers": layers, "kind": torch.zeros(4).long(), "away": torch.zeros(4), "group": torch.arange(4)},
              file := tmp_path / "exhibits")
    return file, lambda: Exhibits.make(few(), cache=file)


def trained_vae(tmp_path, request):
    shutil.copytree(BUNDLED["toybox"] / "vae", tmp_path / "vae")
    file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    return file, lambda: train_prior(tmp_path, few(), steps=1, batch=1)


def scene(make, load=scenes.load):
    def made(tmp_path, request):
        make().save(tmp_path / "scene.safetensors")
        return tmp_path / "scene.safetensors", lambda: load(tmp_path / "scene.safetensors")
    return made


def ball():
    return Gaussians.ball(60, generator=seeded(0))


def checkpoint(tmp_path, request):
    plan, file = request.getfixturevalue("plan"), tmp_path / "checkpoint.safetensors"
    list(run(plan(), file, progress=False))
    return file, lambda: list(run(plan(), file, progress=False))


LOADERS = {
    **{f"prior {part}": part_of_prior(part) for part in ("unet", "vae", "text_encoder")},
    **{f"refiner {part}": part_of_prior(part, kind="refiner") for part in ("unet", "vae", "text_encoder_2")},
    "prior half": part_of_prior("text_encoder", half=True), "refiner half": part_of_prior("text_encoder_2", True, "refiner"),
    "normals": adapter("toybox-normals"), "toybox refiner": adapter("toybox-refiner"),
    "shap-e prior": part_of_shap_e("prior", "diffusion_pytorch_model"), "shap-e text": part_of_shap_e("text_encoder", "model"),
    "shap-e renderer": part_of_shap_e("shap_e_renderer", "diffusion_pytorch_model"), "points": points, "judge": judge,
    "views": views, "exhibits": exhibits, "trained vae": trained_vae, "gaussians": scene(ball, Gaussians.load),
    "scene of gaussians": scene(ball), "scene of nerf": scene(lambda: NeRF(HashGrid(levels=1, entries=64))),
    "scene of picture": scene(lambda: Picture.grey(16)), "checkpoint": checkpoint}


def meta(file):
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata()


def drop(state, key):
    del state[key]


def more(state, key):
    state["nobody.knows"] = torch.zeros(2)


def shape(state, key):
    state[key] = torch.zeros(*state[key].shape, 2, dtype=state[key].dtype)


def not_finite(value):
    def spoil(state, key):
        state[key].view(-1)[0] = value
    return spoil


FAULTS = {"lacks": drop, "unexpected": more, "misshapen": shape, "nan": not_finite(NAN), "inf": not_finite(float("inf"))}


def floating(state):
    """A tensor in the midst of the file, of real numbers."""
    keys = sorted(k for k, v in state.items() if v.is_floating_point() and v.numel())
    return keys[len(keys) // 2]


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_takes_its_own_file_and_refuses_every_other(name, tmp_path, request):
    file, load = LOADERS[name](tmp_path, request)
    good, notes = load_file(file), meta(file)
    key = floating(good)
    if name != "trained vae":  # which goes on to train
        load()
    for fault, spoil in FAULTS.items():
        state = {k: v.clone() for k, v in good.items()}
        spoil(state, key)
        save_file(state, file, notes)
        with pytest.raises((ValueError, OSError)) as error:
            load()
        said, named = str(error.value), "nobody.knows" if fault == "unexpected" else key.removeprefix("text_model.")
        assert str(file) in said and "\n" not in said and len(said) < 700, (fault, said)
        if not (name == "checkpoint" or name.startswith("scene of")):  # which say what they have instead
            assert named in said, (fault, said)


@pytest.mark.parametrize("fault", ["lacks", "unexpected", "misshapen", "nan", "moment", "average"])
def test_the_checkpoint_of_a_training_is_of_the_same_modules(fault, tmp_path):
    file = tmp_path / "checkpoint.pt"

    def train(steps):
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        fit({"net": net}, lambda g: net(torch.ones(1, 3)).square().mean(), steps, 1e-3, file, ema=0.9)

    train(1)
    train(2)
    state = torch.load(file, weights_only=True)
    if fault in FAULTS:
        FAULTS[fault](state["nets"], "net.weight")
    elif fault == "moment":
        state["optimiser"]["state"][0]["exp_avg"] = torch.zeros(5)
    else:
        state["average"].pop()
    torch.save(state, file)
    with pytest.raises(Refused, match=r"point\.pt does not hold .*(net\.weight|nobody\.knows|0\.exp_avg|lacks 1).*remove"):
        train(3)


@pytest.mark.parametrize("version", ["with", "without"])
def test_a_text_encoders_tensors_are_named_as_the_oldest_versions_want_them(version, prior):
    """With the prefix ``text_model.``: as bundled. Without, as later versions save: what they take, the oldest refuse here."""
    file = prior / "text_encoder/model.safetensors"
    state = load_file(file)
    assert all(key.startswith("text_model.") for key in state) and {v.dtype for v in state.values()} == {torch.float16}
    if version == "without":
        save_file({k.removeprefix("text_model."): v for k, v in state.items()}, file, {"format": "pt"})
    try:
        found = DiffusionPrior.load(prior).embed(["a red mug"])
    except Refused as error:
        assert version == "without" and "lacks text_model." in str(error)
    else:
        assert torch.equal(found, DiffusionPrior.load().embed(["a red mug"]))


def test_old_clip_files_that_count_positions_are_read(prior):
    file = prior / "text_encoder/model.safetensors"
    save_file(load_file(file) | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, file, {"format": "pt"})
    assert torch.equal(DiffusionPrior.load(prior).null, DiffusionPrior.load().null)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_read_and_their_faults_named(variant, prior):
    pipe = DiffusionPrior.load(prior).pipe
    (prior / "unet/diffusion_pytorch_model.safetensors").unlink()
    pipe.unet.half().save_pretrained(prior / "unet", max_shard_size="4MB", variant=variant)
    files = sorted((prior / "unet").glob("*.safetensors"))
    assert len(files) > 1
    found = DiffusionPrior.load(prior)
    assert all(torch.equal(a, b) for a, b in zip(found.unet.parameters(), DiffusionPrior.load().unet.parameters(), strict=True))
    state = load_file(files[-1])
    key = floating(state)
    state[key].view(-1)[0] = NAN
    save_file(state, files[-1], {"format": "pt"})
    with pytest.raises(Refused, match=f"{files[-1].name} does not hold .*{key}"):
        DiffusionPrior.load(prior)


def test_a_bundled_prior_that_was_spoilt_says_so_on_the_command_line(prior, tmp_path, capsys):
    file = prior / "text_encoder/model.safetensors"
    state = load_file(file)
    for key in sorted(state)[:4]:
        del state[key]
    save_file(state, file, {"format": "pt"})
    command = ["dream", "a red mug", "--scene", "picture", "--prior", str(prior), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(file) in error and "and 1 more" in error and "put back" in error and not (tmp_path / "out").exists()


def test_check_weights_says_all_that_is_wrong(tmp_path):
    like = {"a": (2, None), "b": torch.zeros(3), "c": (1,)}
    fine = {"a": torch.zeros(2, 7), "b": torch.ones(3), "c": torch.ones(1, dtype=torch.uint8)}
    check_weights("f", fine, like, "mend it")
    with pytest.raises(Refused, match=r"^f does not hold the weights that belong there \(lacks c; unexpected d; misshapen a "
                                      r"\(3, 7\) for \(2, None\); not finite b\): mend it$"):
        check_weights("f", {"a": torch.zeros(3, 7), "b": torch.full((3,), NAN), "d": torch.ones(1)}, like, "mend it")
    save_file(fine, tmp_path / "w")
    assert load_weights(tmp_path / "w", "", like).keys() == fine.keys()


# code


MARK = "import pathlib\npathlib.Path({!r}).touch()\nclass Evil: pass\n"


def index(**values):
    def change(folder):
        file = folder / "model_index.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return file
    return change


def config(name, **values):
    def change(folder):
        file = next(f for part in ("text_encoder*", "tokenizer*") for f in folder.glob(f"{part}/{name}"))
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return file
    return change


def code(name):
    def change(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(MARK.format(str(folder.parent / "it ran")))
        return folder / name
    return change


BAD = {
    "a pipeline's code": lambda folder: (code("evil.py")(folder), index(_class_name=["evil", "Evil"])(folder))[0],
    "the name of a pipeline's code": index(_class_name=["evil", "Evil"]), "a table": index(_class_name={"evil": "Evil"}),
    "a path": index(_class_name="../evil"), "code at hand": code("setup.py"), "code in a part": code("unet/model.py"),
    "code in no part": code("more/deep.py"), "compiled code": code("unet/model.pyc"),
    "a foreign library": index(safety_checker=["evil", "Evil"]), "a foreign tokenizer": index(tokenizer=["evil", "Evil"]),
    "a foreign scheduler": index(scheduler=["os", "system"]),
    "a part of three": index(text_encoder=["transformers", "A", "B"]),
    "a module of a library": index(text_encoder=["transformers.models.auto", "AutoModel"]),
    "a part as a table": index(scheduler={"evil": "Evil"}),
    "auto_map": config("config.json", auto_map={"AutoModel": "evil.Evil"}),
    "auto_map of a tokenizer": config("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
    "custom_pipeline": index(custom_pipeline="evil"), "kernels": config("config.json", _attn_implementation="evil/kernel"),
    "newer kernels": config("config.json", attn_implementation={"": "evil/kernel"})}


@pytest.mark.parametrize("kind", ["prior", "refiner", "shap_e"])
@pytest.mark.parametrize("name", BAD)
def test_a_folder_with_code_is_refused_before_anything_is_loaded(name, kind, tmp_path, request, monkeypatch):
    source = request.getfixturevalue(kind)
    folder = shutil.copytree(source, tmp_path / "copy")
    load = load_points if kind == "shap_e" else DiffusionPrior.load
    load(folder)
    file = BAD[name](folder)
    for module in (nn.Module, torch.Tensor):
        monkeypatch.setattr(module, "to", lambda *_, **__: pytest.fail("something was loaded"))
    with pytest.raises(ValueError) as error:
        load(folder)
    said = str(error.value)
    assert str(file) in said and "\n" not in said and not (tmp_path / "it ran").exists(), said


@pytest.mark.parametrize("change", [index(unet=["diffusers", "Nothing"]), index(vae=["diffusers", "DDIMScheduler"]),
                                    index(unet=[None, None]), index(text_encoder="CLIPTextModel"),
                                    lambda folder: (folder / "model_index.json").write_text("[1") and folder])
def test_a_part_is_a_model_of_the_two_libraries(change, prior):
    change(prior)
    with pytest.raises(Refused, match=r"model_index\.json (takes .* which is no model|is damaged).*put back"):
        DiffusionPrior.load(prior)


@pytest.mark.parametrize("values", [{"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]},
                                    {"feature_extractor": ["transformers", "CLIPImageProcessor"],
                                     "image_encoder": [None, None]}])
def test_the_entries_of_published_folders_are_fine(values, prior):
    index(**values)(prior)
    config("config.json", _attn_implementation="sdpa")(prior)
    assert DiffusionPrior.load(prior).embed([""]).isfinite().all()


@pytest.mark.parametrize("half", ["all", "none", "unet"])
def test_a_repository_is_checked_like_a_folder(half, prior, monkeypatch, tmp_path):
    """Half precision is fetched where there is one, whole files else, of the three models; then all is as for a folder."""
    from huggingface_hub.utils import filter_repo_objects

    (prior / "safety_checker").mkdir()
    (prior / "safety_checker/model.safetensors").write_bytes(b"large")
    for file in list(prior.glob("*/*.safetensors")):
        if half == "all" or half == file.parent.name:
            file.rename(file.with_suffix(".fp16.safetensors"))
    (prior / "pipeline.py").write_text("raise SystemExit")
    (prior / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    here, fetched = tmp_path / "cache", []

    def download(repo, revision=None, allow_patterns=None):
        names = [str(f.relative_to(prior)) for f in prior.rglob("*") if f.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(prior / name, here / name)
            fetched.append((repo, revision, name))
        return str(here)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = DiffusionPrior.load("someone/something", revision="abc")
    assert torch.equal(found.null, DiffusionPrior.load().null)
    names = [name for _, _, name in fetched if name.endswith((".safetensors", ".py", ".bin"))]
    assert sorted(Path(name).parts[0] for name in names) == ["text_encoder", "unet", "vae"] or half == "all"
    assert {(repo, revision) for repo, revision, _ in fetched} == {("someone/something", "abc")}
    assert not any(name.endswith((".py", ".bin")) for name in names)
    index(_class_name=["evil", "Evil"])(prior)
    with pytest.raises(Refused, match="names code to run"):
        DiffusionPrior.load("someone/something")
    index(_class_name="StableDiffusionPipeline")(prior)
    code("evil.py")(here)  # left by somebody else
    with pytest.raises(Refused, match="is code, and a prior is weights alone"):
        DiffusionPrior.load("someone/something")


# plain


def test_a_plain_load_warns_of_nothing_but_the_tiny_autoencoder(caplog, monkeypatch):
    """Which diffusers says of every pipeline whose autoencoder is not the usual one; no folder can keep it from that."""
    from diffusers import StableDiffusionPipeline

    for library in ("diffusers", "transformers"):
        monkeypatch.setattr(logging.getLogger(library), "propagate", True)
    StableDiffusionPipeline.from_pretrained(BUNDLED["toybox"])
    # the image processors that it imports ask for torchvision, whatever is loaded
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "torchvision" not in r.getMessage()]
    assert all(line.startswith("Expected types for vae") for line in said), said


# not finite: who is to blame


def holed(module, name="bias"):
    """A NaN put into a loaded model: no file is at fault then."""
    parameter = next(p for n, p in reversed(list(module.named_parameters())) if n.endswith(name))
    parameter.data.view(-1)[0] = NAN


def test_autoencoder_text_encoder_and_unet_are_told_apart(prior):
    here = DiffusionPrior.load(prior)
    x, t, null, images = torch.zeros(1, *here.shape), torch.tensor([500]), here.null, torch.rand(1, 64, 64, 3)
    assert here.decode(x).isfinite().all() and here.encode(images).isfinite().all()
    with pytest.raises(ValueError, match="the latents to decode have 1 of"):
        here.decode(x.index_fill(3, torch.tensor([0]), NAN)[..., :1].expand(1, 8, 16, 1)[:, :1, :1])
    with pytest.raises(ValueError, match="the pictures to encode have 12288 of 12288 values that are not finite"):
        here.encode(images / 0)
    with pytest.raises(ValueError, match="x_t has .* not finite"):
        here.eps(x / 0, t, null)
    holed(here.unet)
    with pytest.raises(ValueError, match=r"from finite x_t the prior \(DiffusionPrior\) predicts .* not finite"):
        here.eps(x, t, null)
    holed(here.vae.decoder)
    with pytest.raises(ValueError, match=r"from finite latents the autoencoder \(AutoencoderTiny\) decodes .* not finite"):
        here.decode(x)
    holed(here.vae.encoder)
    with pytest.raises(ValueError, match=r"from finite pictures the autoencoder \(AutoencoderTiny\) encodes"):
        here.encode(images)
    holed(here.pipe.text_encoder)
    with pytest.raises(ValueError, match=r"the text encoder \(CLIPTextModel\) makes of \['a red mug'\]"):
        here.embed(["a red mug"])


def test_an_autoencoder_of_nan_is_no_black_picture(tmp_path, monkeypatch, capsys):
    spoilt = DiffusionPrior(DiffusionPrior.load().pipe, card=DiffusionPrior.load().card)
    holed(spoilt.vae.decoder)
    monkeypatch.setattr(DiffusionPrior, "load", classmethod(lambda *_, **__: spoilt))
    command = ["dream", "a red mug", "--scene", "picture", "--steps", "1", "--out", str(tmp_path)]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "autoencoder (AutoencoderTiny) decodes" in error and "lower" not in error
    assert not list(tmp_path.rglob("*.png"))
    with pytest.raises(ValueError, match="the pictures to write have"):
        to_uint8(torch.full((1, 2, 2, 3), NAN))


def moved(cameras, name):
    getattr(cameras, name).fill_(NAN)  # behind the back of its own checks
    return cameras


class Astray(Orbit):
    def sample(self, n, generator):
        return moved(ring(n), "radius")


def test_scene_cameras_background_and_rates_are_told_apart(plan):
    made = plan()
    made.cameras = Astray()
    with pytest.raises(ValueError, match=r"Cameras.radius must be .*values not finite: change Cameras.radius"):
        list(run(made, progress=False))
    made = plan()
    made.background = lambda n, generator: torch.full((n, 3), NAN)
    with pytest.raises(ValueError, match="the background has 12 of 12 values that are not finite: change background"):
        list(run(made, progress=False))
    made = plan()
    made.decay = lambda step, steps: NAN
    with pytest.raises(ValueError, match="the rate of .* at step 0 must be .* got nan: change rates or decay"):
        list(run(made, progress=False))
    made = plan()
    with pytest.raises(ValueError, match="rates"):
        type(made)(**{**vars(made), "rates": dict.fromkeys(made.rates, NAN)})
    made.scene.raw["means"].data[0] = NAN
    for begin in (lambda: list(run(made, progress=False)), lambda: type(made)(**vars(made))):
        with pytest.raises(ValueError, match="the scene's means has 3 of 180 .*begin with another"):
            begin()
    for bad in (NAN, float("inf")):
        with pytest.raises(ValueError, match="radius"):
            ring(3, radius=bad)


def test_leaves_that_a_step_would_spoil_stay_as_they_were(plan):
    made = plan()
    before = {k: v.detach().clone() for k, v in made.scene.parameters().items()}

    class Reckless(torch.optim.SGD):
        def step(self):
            self.param_groups[0]["params"][0].data.fill_(NAN)

    made.optimiser = lambda groups: Reckless(groups, lr=0.0)
    with pytest.raises(FloatingPointError, match="step 0 makes .* not finite; the scene is as it was.*: lower the rates"):
        list(run(made, progress=False))
    assert all(torch.equal(before[k], v) for k, v in made.scene.parameters().items())


def test_rule_and_regulariser_are_told_apart(plan):
    made = plan()
    made.rule = plan(rule="SDS").rule
    made.rule.weight = lambda schedule, t: t * NAN
    with pytest.raises(FloatingPointError, match="the residual of SDS is not finite: lower the guidance, or change the rule's"):
        list(run(made, progress=False))
    made = plan()
    made.regularise = lambda scene, render: render.rgb.sum() * NAN
    with pytest.raises(FloatingPointError, match="the regulariser's loss is not finite: change regularise"):
        list(run(made, progress=False))


def test_a_ply_with_nan_is_named(tmp_path):
    save_ply(ball(), tmp_path / "a.ply")
    assert len(load_ply(tmp_path / "a.ply")) == 60
    data = bytearray((tmp_path / "a.ply").read_bytes())
    data[-4:] = torch.tensor([NAN]).numpy().tobytes()
    (tmp_path / "a.ply").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.ply has 1 of .* not finite: name another"):
        load_ply(tmp_path / "a.ply")


# versions


def test_the_oldest_versions_that_are_run_are_the_lower_bounds():
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert sorted(pinned) == sorted(bound.replace(">=", "==") for bound in bounds)
    assert all(">=" in bound and "," not in bound for bound in bounds)


def test_hub_names_are_not_taken_for_folders():
    assert set(diffusion.HUB).isdisjoint(BUNDLED)
