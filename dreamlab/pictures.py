"""A user's own picture, made ready for a prior: what is background, and how large the object is in it."""
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamlab.checks import Range, checked
from dreamlab.costvolume import cut_out

LARGEST, WORK = 100_000_000, 512  # pixels that are read at all; the side at which the background is looked for
FILLS = 0.75  # of the picture's side that the object's longer side gets
Share = Annotated[float, Range(0.05, 1)]


@checked
def load_picture(file: str | Path, size: int = 64, grey: float = 0.5, fills: Share = FILLS,
                 middle: tuple[float, float] = (0.5, 0.5)) -> Float[Tensor, "s s 3"]:
    """The object of a picture over plain ``grey``, ``size`` pixels square: the box around it has its ``middle`` there, from
    left and top, and its longer side is the share ``fills`` of the picture's.

    The rule for the background: where the picture has transparency, what is transparent; else what has the colour of its
    border (the median), as :func:`dreamlab.costvolume.cut_out` finds it. A camera's mark of how it was held is followed.
    FileNotFoundError where there is no picture; ValueError for one that cannot be read, is larger than 100 megapixels, or shows
    nothing beside its background.
    """
    from PIL import Image, ImageOps

    mend = "give a photo of one object before a plain background, or cut it out (PNG with transparency)"
    try:
        with Image.open(file) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"the picture {file} has {image.width} x {image.height} pixels, and 100 megapixels are read: "
                                 "make it smaller")
            image.draft("RGB", (WORK, WORK))
            clear = "A" in image.getbands() or "transparency" in image.info
            image = ImageOps.exif_transpose(image).convert("RGBA" if clear else "RGB")
            image.thumbnail((WORK, WORK), Image.Resampling.LANCZOS)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no picture {file}: name a PNG, JPEG or WebP that is there") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be read as a picture ({said}): name a PNG, JPEG or WebP") from error
    x = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, -1).float() / 255
    if clear:
        rgb, mask = x[..., :3], x[..., 3:]
    else:
        rgb, mask = x, cut_out(x[None])[1][0]
    rows, columns = (mask[..., 0] > 0.5).any(1).nonzero()[:, 0], (mask[..., 0] > 0.5).any(0).nonzero()[:, 0]
    share = mask.mean().item()
    if share < 1e-3 or (share > 0.98 and not clear):
        what = "nothing" if share < 1e-3 else "nothing but one object up to its edges"
        raise ValueError(f"the picture {file} shows {what} beside its background: {mend}")
    (top, bottom), (left, right) = ((v[0].item(), v[-1].item() + 1) for v in (rows, columns))
    side = max(bottom - top, right - left) / fills
    at = (torch.arange(size) + 0.5) / size * side
    y, x = (top + bottom) / 2 + at - middle[1] * side, (left + right) / 2 + at - middle[0] * side
    y, x = torch.meshgrid(2 * y / mask.shape[0] - 1, 2 * x / mask.shape[1] - 1, indexing="ij")
    whole = torch.cat([rgb * mask, mask], -1).movedim(-1, 0)[None]
    steps = max(round(side / size), 1)  # blurred before it is made smaller, so that nothing is skipped
    if steps > 1:
        whole = F.avg_pool2d(F.pad(whole, [steps // 2, (steps - 1) // 2] * 2), steps, 1)
    found = F.grid_sample(whole, torch.stack([x, y], -1)[None], align_corners=False)[0].movedim(0, -1)
    return (found[..., :3] + (1 - found[..., 3:]) * grey).clamp(0, 1)
