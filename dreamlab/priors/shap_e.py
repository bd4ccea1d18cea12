"""Shap-E (arXiv 2305.02463) behind the call of the points prior: prompt -> textured mesh -> coloured points on its surface.

DreamMapping says of this step only "upsampling to nearly 50,000" points. Others copy vertices into small balls (LucidDreamer's
recipe) or keep random points near vertices (GaussianDreamer). Here exactly n points are drawn evenly over the triangles.
"""
import pickle
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dreamlab.files import Refused, check_weights, load_weights
from dreamlab.mesh import Mesh, sample
from dreamlab.priors.diffusion import check_code, check_length, load_model, quiet, read_index, weight_files

REPO = "openai/shap-e"
# A commit that another public project pins. No hash of the single files is known to us, so there is none to check them by.
REVISION = "7bd337afdea1c17842e1c3cc45c4e268356dba40"
FILES = ["model_index.json", "*/*.json", "*/*.txt", "prior/*.fp16.safetensors", "text_encoder/*.fp16.safetensors",
         "shap_e_renderer/*.safetensors", "shap_e_renderer/*.bin"]
MEND = (f"fetch it elsewhere, `hf download {REPO} --revision {REVISION} --local-dir FOLDER` (1.1 GB of it are read), and "
        "pass the folder's path as the points prior, or 'toybox' for the bundled one")
RADIUS = 0.8  # of the ball that an object fits, see dreamlab.types


def fetch() -> Path:
    """Folder of Shap-E's weights at the pinned commit, downloaded once. FileNotFoundError without them and a network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(REPO, revision=REVISION, allow_patterns=FILES))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no weights for 'shap-e': {MEND}. The loader said: {error}") from error


def to_world(vertices: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
    """Shap-E's frame -> ours: a quarter turn about z, (x, y, z) -> (-y, x, z), then centred and scaled to the ball of 0.8.

    In both frames z is up. Shap-E's front is -y: there its first camera stands (diffusers' ``create_pan_cameras``), and
    LucidDreamer mirrors y to bring the front before its own camera of azimuth 0, on +y. A turn does not swap left and
    right, as a mirror does. The front is a habit of the training data and not a promise: single objects may face elsewhere.
    The centre is that of the bounding box; the farthest vertex then lies 0.8 from it.
    """
    x, y, z = vertices.unbind(-1)
    turned = torch.stack([-y, x, z], -1)
    turned = turned - (turned.amin(0) + turned.amax(0)) / 2
    return turned * (RADIUS / turned.norm(dim=-1).max())


def linear_to_srgb(colours: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
    """Linear light -> sRGB (IEC 61966-2-1), in [0, 1]. Shap-E's meshes carry linear colours; pictures here are sRGB."""
    return torch.where(colours <= 0.0031308, 12.92 * colours, 1.055 * colours.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def load_renderer(folder: Path):
    """diffusers' ``ShapERenderer`` from a pipeline folder: safetensors, or the pickle that the hub has in their place.

    A pickle is read with ``weights_only=True``, and a warning names it; one that holds more than tensors is a ValueError.
    """
    from diffusers.pipelines.shap_e.renderer import ShapERenderer

    part, stem = "shap_e_renderer", "diffusion_pytorch_model"
    file = next(iter(weight_files(folder / part, stem)), folder / part / f"{stem}.bin")
    if not file.exists():
        raise FileNotFoundError(f"no {part}/{stem}.safetensors (nor .bin) in {folder}: {MEND}")
    if file.suffix == ".bin":
        warnings.warn(f"{file} is a pickle: this part of Shap-E has no safetensors there. It is read with weights_only=True, "
                      "which takes tensors and runs no code.", stacklevel=2)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{file} holds more than tensors and was not read: get it anew from {REPO}") from error
    else:
        state = load_weights(file, MEND)
    renderer = ShapERenderer.from_config(ShapERenderer.load_config(folder / part))
    check_weights(file, state, renderer.state_dict(), MEND)
    renderer.load_state_dict(state)
    if not renderer.mesh_decoder.masks.any():  # without its table of cases the decoder finds no triangle
        raise Refused(f"{file} lacks the table of marching cubes: {MEND}")
    return renderer


class ShapE:
    """``load_points("shap-e")("a red mug", n, generator) -> points (n, 3), colours (n, 3)`` in [0, 1], on the CPU.

    Points lie on the mesh that diffusers' ``ShapEPipeline`` makes, in our frame (:func:`to_world`). ``guidance`` 15 and
    ``steps`` 64 (of Karras, each Heun's) are OpenAI's example and that of ASD and GaussianDreamer; ``grid``: cells per axis
    of marching cubes, 128 in diffusers.
    """

    def __init__(self, pipe, guidance: float = 15.0, steps: int = 64, grid: int = 128):
        self.pipe, self.guidance, self.steps, self.grid = pipe, guidance, steps, grid
        pipe.shap_e_renderer.mesh_decoder.register_forward_hook(self._not_empty)

    @staticmethod
    def _not_empty(decoder, inputs, mesh) -> None:
        if not len(mesh.faces):
            raise ValueError("Shap-E made a mesh without triangles: try another seed, or a prompt of one plain object")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "ShapE":
        """From a local folder of a ``ShapEPipeline``. On CUDA the diffusion runs in fp16; the mesh is always made in fp32.

        Reads safetensors only, but for the renderer (see :func:`load_renderer`), and runs no code of the folder.
        FileNotFoundError names what is missing, ``files.Refused`` (a ValueError) a file with other weights, or with code.
        """
        folder = Path(folder)
        check_code(folder)
        kind = read_index(folder, MEND).get("_class_name") if (folder / "model_index.json").exists() else None
        if kind != "ShapEPipeline":
            found = f"but a {kind}" if kind else "no model_index.json"
            raise FileNotFoundError(f"no ShapEPipeline in {folder}, {found}: {MEND}")
        with quiet():
            from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
            from transformers import CLIPTextModelWithProjection, CLIPTokenizer

            dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
            load = lambda kind, part: kind.from_pretrained(str(folder), subfolder=part, local_files_only=True)  # noqa: E731
            pipe = ShapEPipeline(
                prior=load_model(PriorTransformer, folder, "prior", "diffusion_pytorch_model", MEND).to(dtype),
                text_encoder=load_model(CLIPTextModelWithProjection, folder, "text_encoder", "model", MEND).to(dtype),
                shap_e_renderer=load_renderer(folder),
                tokenizer=load(CLIPTokenizer, "tokenizer"), scheduler=load(HeunDiscreteScheduler, "scheduler"))
        pipe.set_progress_bar_config(desc="Shap-E", leave=False)
        return cls(pipe.to(device))

    @torch.no_grad()
    def __call__(self, prompt: str, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n coloured points on the surface of one mesh; the generator draws the latent first and then the points."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        check_length(self.pipe.tokenizer, prompt)
        latent = self.pipe(prompt, num_inference_steps=self.steps, guidance_scale=self.guidance, generator=generator,
                           output_type="latent").images.float()
        made = self.pipe.shap_e_renderer.decode_to_mesh(latent, latent.device, grid_size=self.grid)
        colours = torch.stack([made.vertex_channels[k] for k in "RGB"], -1).float().cpu()
        mesh = Mesh(to_world(made.verts.float().cpu()), made.faces.cpu(), linear_to_srgb(colours))
        return sample(mesh, n, generator)

    def shell(self, prompt: str, points: Float[Tensor, "n 3"], places: Float[Tensor, "x y z 3"]) -> Float[Tensor, "x y z"]:
        """How much nearer than one cell of the grid of ``places`` the nearest of some points of the surface is."""
        far = torch.cat([torch.cdist(some, points).amin(1) for some in places.reshape(-1, 3).split(4096)])
        return (places[1, 1, 1] - places[0, 0, 0]).norm() - far.view(places.shape[:3])
