"""What runs have kept is measured again: the measures are today's, all else stays."""
import json

import numpy as np
import torch
from PIL import Image

from benchmarks import remeasure
from dreamlab.scenes.gaussians import Gaussians
from dreamlab.sweep import kept, read, write
from dreamlab.toybox.objects import Toy
from dreamlab.toybox.render import surface


def test_measures_take_the_place_of_the_old_ones():
    row = {"method": "SDS", "seconds": 3.0, "iou": 0.1, "psnr": 9.0, "date": "then", "note": "x"}
    assert list(remeasure.again(row, {"score": 20.0, "iou": 0.9}).items()) == [
        ("method", "SDS"), ("seconds", 3.0), ("score", 20.0), ("iou", 0.9), ("psnr", 9.0), ("date", "then"), ("note", "x")]
    assert remeasure.again({"method": "SDS"}, {"iou": 1.0}) == {"method": "SDS", "iou": 1.0}


def test_a_sweeps_rows_are_measured_again(tmp_path, monkeypatch, capsys):
    base = {"prompt": "a green owl", "tag": "t", "seconds": 4.5, "iou": 0.0, "fronts": 9, "device": "cpu"}
    rows = [{"method": "A", "seed": 0} | base, {"method": "A", "seed": 1} | base,
            {"method": "A", "seed": 2, "prompt": "a green owl", "tag": "t", "error": "no memory"}]
    p, colours = surface(Toy("owl"), "green", 3000, torch.Generator().manual_seed(0))
    scene = Gaussians.from_points(p, colours, 0.9, 0.6)
    file = kept(tmp_path / "keep", "A", "a green owl", 0, "t") / "scene.safetensors"
    file.parent.mkdir(parents=True)
    scene.save(file)
    write(tmp_path / "a.csv", rows)
    monkeypatch.setattr("sys.argv", ["remeasure", str(tmp_path / "a.csv"), "--keep", str(tmp_path / "keep")])
    assert remeasure.main() == 1 and "A, 'a green owl', seed 1: no " in capsys.readouterr().err
    found, other, failed = read(tmp_path / "a.csv")
    assert found["iou"] > 0.8 and found["fronts"] == 1 and found["score"] > 10 and found["kind_read"] == "owl"
    assert found["seconds"] == 4.5 and found["device"] == "cpu" and 0 <= found["colour"] <= 1 and "front_scores" not in found
    assert (other["iou"], other["fronts"], failed["error"]) == (0, 9, "no memory")


def test_findings_are_measured_again_from_their_pictures(tmp_path):
    pictures = np.full((64, 4 * 64, 3), 128, np.uint8)
    (tmp_path / "runs").mkdir()
    Image.fromarray(pictures).save(tmp_path / "runs" / "vdm-SDS-0.png")
    row = {"variant": "SDS", "seed": 0, "prompt": "a red car", "seconds": 2.0, "saturation": 0.9, "trace": [1]}
    (tmp_path / "findings_vdm.json").write_text(json.dumps({"settings": {}, "rows": [row, row | {"seed": 1}]}))
    known, missing = remeasure.findings(tmp_path / "findings_vdm.json")
    assert len(missing) == 1 and known["rows"][1] == row | {"seed": 1}
    assert known["rows"][0]["saturation"] == 0 and known["rows"][0]["trace"] == [1] and known["rows"][0]["realism"] > 1
