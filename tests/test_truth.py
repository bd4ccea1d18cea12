"""The truth metrics read what is known: closed forms, and a small part of the calibration as a law."""
import math

import pytest
import torch

from dreamlab.cameras import ring
from dreamlab.metrics.calibrate import CASES, Still, calibrate, share_right, table, views
from dreamlab.metrics.truth import chamfer, count_fronts, iou, psnr, seen_points, truth, turn, variation
from dreamlab.toybox.dataset import Views
from dreamlab.toybox.judge import WEIGHTS, Judge
from dreamlab.toybox.objects import COLOURS, KINDS, Toy, colour_rgb, fronts
from dreamlab.toybox.render import blur, render, trace
from dreamlab.toybox.training.judge import Exhibits, degrees_away, fronts_at, random_fronts, train_judge


def test_iou_of_known_masks():
    a, b = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    a[:, :4], b[:, 2:6] = True, True  # 4 rows each, 2 in common
    assert torch.allclose(iou(a, b), torch.tensor([2 / 6] * 3))
    assert iou(a, a).eq(1).all() and iou(a, ~a).eq(0).all()
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert iou(empty, empty).item() == 1


def test_psnr_of_a_known_error(generator):
    a = torch.rand(2, 8, 8, 3, generator=generator)
    assert psnr(a, a + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(a, a) == pytest.approx(99)


def test_chamfer_of_shifted_and_of_more_points():
    grid = torch.cartesian_prod(*(torch.arange(5.0),) * 3)
    assert chamfer(grid, grid + torch.tensor([0.1, 0, 0])) == pytest.approx(0.1, abs=1e-4)
    a, b = torch.zeros(1, 3), torch.tensor([[0.0, 0, 0], [0, 0, 3]])
    assert chamfer(a, b) == chamfer(b, a) == pytest.approx((0 + 1.5) / 2)
    with pytest.raises(ValueError, match="got 0 and 2"):
        chamfer(a[:0], b)


def test_variation_of_known_pictures():
    flat = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 4, 4, 3)
    assert variation(flat) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert variation(flat[:1].expand(3, -1, -1, -1)) == 0


def test_turn_is_counter_clockwise():
    assert torch.allclose(turn(torch.tensor([[1.0, 0, 2]]), 90.0), torch.tensor([[0.0, 1, 2]]), atol=1e-6)


def scores(*centres, width=70):
    """1 within ``width / 2`` degrees of each centre, at 24 azimuths."""
    azimuth = torch.arange(24) * 15.0
    return (degrees_away(azimuth, list(map(float, centres))) <= width / 2).float()


@pytest.mark.parametrize("centres, count", [((), 0), ((0,), 1), ((181,), 1), ((352,), 1), ((0, 180), 2), ((40, 130), 2),
                                            ((10, 130, 250), 3)])
def test_fronts_are_counted_around_the_circle(centres, count):
    for by in range(24):
        assert count_fronts(scores(*centres, width=60).roll(by)) == count


def test_front_count_ignores_flicker_and_knows_faces_all_around():
    assert count_fronts(scores(0, width=10)) == 0  # one view of 24, smoothed below 0.6
    wobble = 0.5 + 0.09 * (-1.0) ** torch.arange(24)
    assert count_fronts(wobble) == 0
    assert count_fronts(torch.maximum(scores(90), wobble * (scores(90, width=130) > 0))) == 1
    assert count_fronts(torch.ones(24)) == math.ceil(360 / 150)
    assert count_fronts(scores(0, width=180)) == 2
    assert count_fronts(scores(0, 90, 180, 270)) >= 2  # they run into each other


def test_warped_fronts_agree_with_the_plain_object(generator):
    at = random_fronts(3, generator)
    gaps = torch.tensor(sorted(at)).diff()
    assert gaps.min() >= 75 - 1e-3 and 360 - gaps.sum() >= 75 - 1e-3
    p = Toy("duck").surface_points(200, generator)
    front = p[torch.atan2(p[:, 1], p[:, 0]).abs() < 0.6]
    janus = Toy("duck", fronts_at([math.radians(a) for a in at]))
    for a in at:
        assert janus.sdf(turn(front, a)).abs().max() < 5e-3
    q = torch.rand(500, 3, generator=generator) - 0.5
    assert torch.allclose(Toy("bear", fronts_at([0.0, math.pi])).sdf(q), Toy("bear", fronts(2)).sdf(q), atol=1e-5)
    back = Toy("duck", fronts_at([0.0, math.pi], turn=math.pi))
    behind = turn(p[torch.atan2(p[:, 1], -p[:, 0]).abs() < 0.6], 180.0)
    assert back.sdf(behind).abs().max() < 5e-3


def test_blur_keeps_a_plain_picture_and_has_its_sigma():
    assert torch.allclose(blur(torch.full((1, 3, 64, 64), 0.3), 1.5), torch.tensor(0.3))
    dot = torch.zeros(1, 1, 64, 64)
    dot[..., 32, 32] = 1
    out = blur(dot, 1.5)[0, 0]
    at = torch.arange(64) - 32.0
    assert (out.sum(0) * at**2).sum().sqrt().item() == pytest.approx(1.5, abs=0.01)


def test_judge_is_small_and_says_what_it_cannot_read():
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 1.5e6
    kind, colour, front = Judge.load()(torch.zeros(2, 3, 64, 64))
    assert kind.shape == (2, len(KINDS)) and colour.shape == (2, len(COLOURS)) and front.shape == (2,)
    with pytest.raises(ValueError, match="32"):
        Judge.load()(torch.zeros(1, 3, 32, 32))
    with pytest.raises(FileNotFoundError, match="toybox train judge"):
        Judge.load(WEIGHTS / "none")


def test_judge_reads_other_cameras_and_backgrounds():
    """Elevations and backgrounds the protocol does not use: the prior's samples are read with the same network."""
    generator = torch.Generator().manual_seed(7)
    right = []
    for i, kind in enumerate(KINDS):
        layers = trace(Toy(kind), ring(8, elevation_deg=float(25 - 4 * i)), 64)
        rgb = layers.rgb(torch.tensor(list(COLOURS.values()))[[i] * 8], torch.rand(8, 3, generator=generator))
        kinds, colours, front = Judge.load()(rgb.permute(0, 3, 1, 2).contiguous())
        right += [kinds.argmax(1) == i, colours.argmax(1) == i, (front > 0)[[0, 2, 3, 4, 5, 6]] == torch.eye(6)[0].bool()]
    assert torch.cat(right).float().mean() >= 0.95


def test_seen_points_lie_on_the_surface():
    toy = Toy("robot")
    points = seen_points(lambda cameras, resolution, background: render(toy, "red", cameras, resolution, background))
    assert len(points) == 4000
    assert toy.sdf(points).abs().median() < 0.01  # pixels at an edge average two depths


def test_truth_reads_a_perfect_object_in_a_turned_frame(generator):
    points = turn(Toy("owl").surface_points(1000, generator), -100.0)
    found = truth(Still(views(Toy("owl"), 100.0), torch.tensor(colour_rgb("green"))).render, "owl", "green", points)
    assert found.turn_deg == 100 and found.iou == 1 and found.psnr > 60 and found.view_ratio == pytest.approx(1, abs=1e-4)
    assert found.kind_right and found.colour_right and found.fronts == 1 and found.chamfer < 0.04
    assert found.asdict()["kind"] == "owl" and len(found.front_scores) == 24
    wrong = truth(Still(views(Toy("owl"), 100.0), torch.tensor(colour_rgb("green"))).render, "owl", "red")
    assert wrong.colour == "green" and not wrong.colour_right and wrong.chamfer is None and wrong.psnr < found.psnr - 10
    with pytest.raises(ValueError, match="no kind 'cat'"):
        truth(Still(views(Toy("owl"), 0.0), torch.zeros(3)).render, "cat", "red")


@pytest.mark.slow
def test_calibration_holds():
    """Every case of one kind, on a seed of its own."""
    names = tuple(case.name for case in CASES)
    readings = calibrate(kinds=("duck",), frames=1, colours=2, seed=31, names=names)
    for metric in ("iou", "psnr", "chamfer", "kind_right", "colour_right", "view_ratio", "fronts", "turn_error"):
        good, known = share_right(readings, metric)
        assert known and good >= 0.95 * known, f"{metric}: {good} of {known} right"
    assert all(f"| {name}" in table(readings) for name in names)


@pytest.mark.slow
def test_judge_trains_from_nothing(tmp_path):
    views = Views.make(1, cache=tmp_path / "views.safetensors")
    exhibits = Exhibits.make(views, cache=tmp_path / "exhibits.safetensors", share=0.01, kinds=("duck",))
    pictures, kind, colour, front, counts = exhibits.batch(64, torch.Generator().manual_seed(0))
    again = Exhibits.make(views, cache=tmp_path / "exhibits.safetensors").batch(64, torch.Generator().manual_seed(0))
    assert torch.equal(pictures, again[0]) and 0 <= pictures.min() and pictures.max() <= 1
    assert front.min() == 0 and front.max() == 1 and not counts.all()
    folder = train_judge(tmp_path, views, steps=2, batch=8)
    assert Judge.load(folder)(pictures)[2].isfinite().all()
