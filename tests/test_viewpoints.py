"""Which views a cost volume is made of, and a user's own picture."""
import math

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlab.cameras import orbit
from dreamlab.cli import main
from dreamlab.methods import METHODS
from dreamlab.noise import seeded
from dreamlab.pictures import load_picture
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import render
from dreamlab.viewpoints import Around, Circle, Near, Official, cameras_of, source_views, standing


def test_the_official_list():
    listed = Official()(seeded(0))
    assert [(v.azimuth_deg, v.elevation_deg) for v in listed] == [
        (0, 0), (90, 0), (180, 0), (270, 0), (120, 30), (240, 30), (300, -20), (0, 30), (60, -20), (150, -20), (300, 30),
        (0, -20), (60, 30), (240, -20)]
    made = [(v.of, (v.azimuth_deg - 90 * v.of) % 360, v.elevation_deg) for v in listed[4:]]
    assert {of for of, *_ in made} == {1, 2, 3}  # none of the front
    again = [v.elevation_deg for v in Official(20.0, -10.0)(seeded(0))]
    assert again == [{30: 20, -20: -10, 0: 0}[v.elevation_deg] for v in listed]
    assert all(turn in (30, 90, 150, 210, 270, 330) and up == (30 if turn % 120 == 30 else -20) for _, turn, up in made)


def test_the_lists_of_the_appendix():
    near = Near(each=40)(seeded(0))
    away = [((v.azimuth_deg - 90 * v.of + 180) % 360 - 180, v.elevation_deg - 15) for v in near[4:]]
    assert all(abs(a) < 45 and abs(b) < 30 for a, b in away) and max(abs(a) for a, _ in away) > 35
    assert {v.of for v in near[4:]} == {0, 1, 3} and near[2] == (180, 15, 2) and len(near) == 124
    assert {v.of for v in Near(2, back=True)(seeded(0))[4:]} == {0, 1, 2, 3}
    around = Around(count=60)(seeded(1))
    assert around[0] == (0, 15, 0) and around[-1] == (180, 15, 0) and all(v.of == 0 for v in around)
    assert all(abs(v.elevation_deg - 15) < 30 for v in around) and max(v.azimuth_deg for v in around) > 300


def test_a_field_of_view_has_its_distance():
    """A point to the right of the middle is as far out in the picture, whatever the field of view; 40 degrees stand at 2.4."""
    listed = Circle(4)(seeded(0))
    for fov in (40.0, 49.13, 20.0):
        cameras = cameras_of(listed, fov)
        right, eye = cameras.viewmats[:, 0, :3], cameras.radius
        out = cameras.Ks(100)[:, 0, 0] / eye
        assert torch.allclose(out, torch.full((4,), 50 / (2.4 * math.tan(math.radians(20)))), rtol=1e-6)
        assert torch.allclose((right * cameras.positions).sum(-1), torch.zeros(4), atol=1e-6)
    assert cameras_of(listed).radius.tolist() == [torch.tensor(2.4).item()] * 4


def test_circles():
    assert [v[:2] for v in Circle(4)(seeded(0))] == [(0, 5), (90, 5), (180, 5), (270, 5)]
    assert [v[:2] for v in Circle()(seeded(0))[4:]] == [(45, 25), (135, 25), (225, 25), (315, 25)]
    with pytest.raises(ValueError, match="count is 4 or 8 views, got 5: change it"):
        Circle(5)


def test_references_are_made_together(monkeypatch):
    """All of a circle by the multi-view prior, in one call."""
    rows = []
    eps = DiffusionPrior._eps
    monkeypatch.setattr(DiffusionPrior, "_eps", lambda self, x, t, c: rows.append(self.joined) or eps(self, x, t, c))
    pictures, cameras = source_views("a red mug", Circle(4), seeded(0))
    assert pictures.shape == (4, 64, 64, 3) and set(rows) == {4} and cameras.azimuth_deg.tolist() == [0, 90, 180, 270]


@pytest.fixture
def photo(tmp_path):
    """A red mug, small and off the middle of a wide blue-grey picture."""
    wide = torch.tensor([0.3, 0.4, 0.5]).expand(100, 160, 3).clone()
    shown = render(Toy("mug"), "red", orbit(0.0, 5.0), 64, (0.0, 0.0, 0.0))
    wide[30:94, 10:74] = shown.rgb + (1 - shown.alpha) * wide[30:94, 10:74]
    return lambda image, name="photo.png", **how: image.save(tmp_path / name, **how) or tmp_path / name, wide


def test_an_object_is_cut_out_and_centred(photo):
    save, wide = photo
    whole = Image.fromarray((wide * 255).byte().numpy())
    found = load_picture(save(whole), 64)
    object_ = ((found - 0.5).abs().amax(-1) > 0.1).nonzero()
    (top, left), (bottom, right) = object_.amin(0).tolist(), object_.amax(0).tolist()
    assert found.shape == (64, 64, 3) and abs(max(bottom - top, right - left) + 1 - 48) <= 2
    assert abs(top + bottom - 63) <= 3 and abs(left + right - 63) <= 3
    assert (found[0] == 0.5).all() and (found[:, 0] == 0.5).all()
    larger = load_picture(save(whole.resize((3200, 2000)), "large.png"), 64)
    assert (larger - found).abs().mean() < 0.02
    turned = whole.transpose(Image.Transpose.ROTATE_180)
    turned.getexif()[0x0112] = 3  # how the camera was held
    assert (load_picture(save(turned, "held.jpg", quality=95, exif=turned.getexif()), 64) - found).abs().mean() < 0.03
    grey = load_picture(save(whole.convert("L"), "grey.png"), 64)
    assert torch.allclose(grey[..., 0], grey[..., 1]) and grey.std() > 0.03


def test_transparency_is_the_background(photo):
    save, wide = photo
    alpha = np.zeros((100, 160), np.uint8)
    alpha[40:60, 20:60] = 255
    image = Image.fromarray(np.dstack([(wide * 255).byte().numpy(), alpha]))
    found = load_picture(save(image), 64)
    assert ((found - 0.5).abs().amax(-1) > 0.02).sum(1).max() >= 46  # 40 x 20 pixels become 48 x 24
    assert (found[:18] == 0.5).all() and (found[46:] == 0.5).all()


def test_where_an_object_stands_is_read_off_its_other_views():
    """The box of the mug in its front view, off the middle for its handle, from the outlines of seven others; laid there, a
    picture of it alone has that box again."""
    cameras = cameras_of(Circle()(seeded(0)))
    alpha = render(Toy("mug"), "red", cameras, 64, (0.5,) * 3).alpha
    fills, middle = standing(alpha[1:], cameras[1:], cameras[:1])
    rows, columns = (alpha[0, ..., 0] > 0.5).nonzero().T
    assert abs(fills - (max(rows.max() - rows.min(), columns.max() - columns.min()) + 1) / 64) < 0.06
    assert abs(middle[0] - (columns.max() + columns.min() + 1) / 128) < 0.03 and middle[0] < 0.45
    assert abs(middle[1] - (rows.max() + rows.min() + 1) / 128) < 0.03
    assert standing(torch.zeros_like(alpha[1:]), cameras[1:], cameras[:1]) is None


def test_a_picture_is_laid_where_it_is_asked_for(photo):
    save, wide = photo
    found = load_picture(save(Image.fromarray((wide * 255).byte().numpy())), 64, 0.5, 0.5, (0.4, 0.6))
    rows, columns = ((found - 0.5).abs().amax(-1) > 0.1).nonzero().T
    assert abs(max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 - 32) <= 2
    assert abs((columns.max() + columns.min() + 1) / 128 - 0.4) < 0.03 and abs((rows.max() + rows.min() + 1) / 128 - 0.6) < 0.03


def test_pictures_that_cannot_be_used(photo, tmp_path):
    save, _ = photo
    with pytest.raises(ValueError, match="shows nothing beside its background: give a photo of one object before a plain"):
        load_picture(save(Image.new("RGB", (50, 40), "white")))
    with pytest.raises(ValueError, match="shows nothing beside its background"):
        load_picture(save(Image.new("RGBA", (50, 40))))
    with pytest.raises(FileNotFoundError, match="no picture .*gone.png: name a PNG, JPEG or WebP that is there"):
        load_picture(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        load_picture(tmp_path / "text.png")
    with pytest.raises(ValueError, match="100 megapixels are read: make it smaller"):
        load_picture(save(Image.new("1", (10_001, 10_000))))


def test_image_on_the_command_line(photo, capsys, tmp_path):
    """A picture that cannot be used is one line before any work; a run's tag is the picture's."""
    save, wide = photo
    assert main(["dream", "a red mug", "--image", str(tmp_path / "gone.png"), "--out", str(tmp_path)]) == 2
    assert (said := capsys.readouterr().err).count("\n") == 1 and "gone.png: name a PNG, JPEG or WebP that is there" in said
    image = Image.fromarray((wide * 255).byte().numpy())
    tags = [METHODS["geodream"].ask("a red mug", changes={"neus.start.image": str(save(picture, "a.png"))}).tag("texture")
            for picture in (image, image, image.rotate(180))]
    assert tags[0] == tags[1] != tags[2]
    assert main(["dream", "a red mug", "--image", str(tmp_path / "a.png"), "--mesh", "duck.glb"]) == 2
    assert "leave one out" in capsys.readouterr().err
