"""Sweeps: the table is checked before any run, rows survive interruption, and Dask's workers give the same rows."""
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamlab import cli, sweep
from dreamlab.course import rows
from dreamlab.pipeline import work
from dreamlab.settings import name_of
from dreamlab.sweep import jobs, read, write

SMALL = "[settings]\nsteps = 1\nstart.points = 60\nresolution = 32\n"
TABLE = 'runs = [{ prompt = "a red mug", seeds = [0, 1] }]\n' + SMALL + '[methods.SDS]\nrule = "SDS"\n[methods.VDM]\n'


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.toml").write_text(TABLE)
    return tmp_path / "table.toml"


def test_a_table_is_prompts_times_methods_times_seeds():
    found = jobs(tomllib.loads(TABLE))
    assert [job.key for job in found] == [(m, "a red mug", s) for s in (0, 1) for m in ("SDS", "VDM")]
    assert {job.asked.parts["shape"].steps for job in found} == {1}
    rule = found[0].asked.parts["shape"].rule
    assert name_of(rule) == "SDS" and rule.keywords["guidance"] == 3.0
    assert len({job.tag for job in found}) == 4


def test_a_method_starts_from_a_baseline_in_either_tier():
    text = 'tier = "{}"\nruns = [{{ prompt = "a red mug", seeds = [0] }}]\n[methods.X]\nbase = "dreamfusion"\nsteps = 7\n'
    toy, = jobs(tomllib.loads(text.format("toy")))
    paper, = jobs(tomllib.loads(text.format("paper")))
    for job in (toy, paper):
        part = job.asked.parts["shape"]
        assert (name_of(part.rule), name_of(part.start), part.steps) == ("SDS", "blob", 7)
    toy, paper = (job.asked.parts["shape"] for job in (toy, paper))
    assert (toy.prior, paper.prior, paper.rule.keywords["guidance"]) == ("toybox", "sd-2.1-base", 101.0)


def test_what_all_methods_share_goes_to_those_that_have_it():
    """[settings] are set first; a rule without guidance that takes the place of one with it has no use for it."""
    text = 'runs = [{ prompt = "a red mug", seeds = [0] }]\n[settings]\nrule.guidance = 7.5\n[methods]\n'
    sds, csd, own = jobs(tomllib.loads(text + 'A = { rule = "SDS" }\nB = { rule = "CSD" }\nC = { rule.guidance = 4 }'))
    rule = lambda job: job.asked.parts["shape"].rule.keywords  # noqa: E731
    assert rule(sds)["guidance"] == 7.5 and "guidance" not in rule(csd) and rule(own)["guidance"] == 4
    both, = jobs(tomllib.loads(text + 'A = { rule = "VSD", "rule.critic_rate" = 0.5 }'))
    assert rule(both) == rule(sds) | {"critic_rate": 0.5}


@pytest.mark.parametrize("change, says", [
    (("[settings]", "[setings]"), "not 'setings'"),
    (('rule = "SDS"', 'rules = "SDS"'), "method 'SDS'.*no 'rules', it has start, rule"),
    (('rule = "SDS"', 'base = "Magic"'), "'Magic'.*luciddreamer"),
    (("runs =", 'tier = "gpu"\nruns ='), '"toy" or "paper", got \'gpu\''),
    (("a red mug", "a red dragon"), "dragon"),
    (("seeds =", "seed ="), "runs are such as"),
    (("seeds = [0, 1]", "seeds = 0"), "runs are such as.*got"),
    (('rule = "SDS"', 'start = "mesh"'), "no start 'mesh'.*blob"),
    (('rule = "SDS"', 'rule.weight = "sigma"'), "no weight 'sigma'.*sigma2"),
    (('rule = "SDS"', 'steps = "many"'), "steps must be a whole number .*got 'many'"),
    (('rule = "SDS"', 'rule.dca = 1'), "rule.dca must be true or false, got 1"),
    (('rule = "SDS"', 'timesteps.end_max = [900]'), r"end_max must be a whole number .*got \(900,\)"),
    (('rule = "SDS"', 'optimiser.betas = [0.9, "b"]'), r"betas must be .*got \(0.9, 'b'\)"),
    (('rule = "SDS"', 'rates = 3'), "rates must be a table.*got 3"),
    (('rule = "SDS"', 'rates.colours = 0.1'), "rates name colours.*quats"),
    (('rule = "SDS"', 'rule = "CSD"\n"rule.guidance" = 4'), "CSD has no 'guidance'.*belongs to SDS"),
    (('rule = "SDS"', 'guidance = 4'), "no 'guidance'.*it is rule.guidance"),
    (('rule = "SDS"', 'growth.every = 3'), "growth is none, so growth.every belongs to nothing"),
    (('methods.SDS', 'methods."S\\nDS"'), "letters that a file can hold"),
    (('"a red mug"', '"a red mug\\u0007"'), "no file of results can hold"),
    (('[{ prompt = "a red mug", seeds = [0, 1] }]', "[3]"), "runs are such as.*got 3"),
    (('[{ prompt = "a red mug", seeds = [0, 1] }]', "3"), "needs runs"),
    (('[methods.SDS]\nrule = "SDS"\n[methods.VDM]', "[methods]\na = 3"), "needs runs"),
    ((SMALL, "settings = 3\n"), "needs runs"),
    (("runs =", "runs"), "table.toml is no TOML"),
    (("[methods.VDM]", ""), None),
    ((TABLE, SMALL), "needs runs"),
])
def test_a_wrong_table_is_refused_before_any_run(table, change, says, monkeypatch):
    monkeypatch.setattr(sweep, "one", lambda *_: pytest.fail("a run began"))
    table.write_text(TABLE.replace(*change))
    if says is None:
        assert len(jobs(tomllib.loads(table.read_text()))) == 2
        return
    with pytest.raises(ValueError, match=says):
        sweep.sweep(table, Path("out.csv"))
    assert not Path("out.csv").exists()


def test_rows_come_back_as_they_were(tmp_path):
    key = {"prompt": "a red mug", "seed": 0, "tag": "t"}
    rows = [key | {"method": "a", "right": True, "iou": 0.5}, key | {"method": "b, c", "error": 'it said "no"'},
            {"method": "100", "prompt": "nan", "seed": 1, "tag": "33992e989380"}]  # words, whatever they look like
    write(tmp_path / "x.csv", rows)
    assert read(tmp_path / "x.csv") == rows


def test_the_sheet_has_every_view_in_its_place(tmp_path):
    rows = [dict(method=m, prompt=p, seed=s, tag="t") for p, s in (("a red mug", 0), ("a red mug", 1)) for m in "AB"]
    for i, row in enumerate(rows[:3]):  # the last run has left nothing
        folder = sweep.kept(tmp_path, row["method"], row["prompt"], row["seed"], "t")
        folder.mkdir()
        views = np.repeat(np.arange(8, dtype=np.uint8) * 10 + 80 * i, 64)
        Image.fromarray(views[None, :, None].repeat(64, 0).repeat(3, 2)).save(folder / "views.webp", lossless=True)
    sweep.sheet(rows, tmp_path / "new" / "sheet.png", tmp_path)
    grey = np.array(Image.open(tmp_path / "new" / "sheet.png"))[..., 0].reshape(2, 64, 2, 3, 64)
    assert (grey == grey[:, :1, ..., :1]).all()  # each view is flat
    assert grey[:, 0, ..., 0].tolist() == [[[0, 20, 40], [160, 180, 200]], [[80, 100, 120], [255] * 3]]


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(table, monkeypatch):
    out, real, begun = Path("results/out.csv"), sweep.one, []

    def one(job, checkpoint=None):
        begun.append(job.key)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(job, checkpoint)

    monkeypatch.setattr(sweep, "one", one)
    assert cli.main(["sweep", str(table), "--out", str(out)]) == 130
    first, = read(out)
    assert first["method"] == "SDS" and first["fronts"] >= 0 and 0 <= first["iou"] <= 1
    assert cli.main(["sweep", str(table), "--out", str(out)]) == 0
    rows = read(out)
    assert len(rows) == 4 and rows[0] == first and len(begun) == 5
    assert cli.main(["sweep", str(table), "--out", str(out)]) == 0 and len(begun) == 5
    kept = list(Path("runs/sweep").glob("*/*"))
    assert sorted({path.name for path in kept}) == ["scene.safetensors", "views.webp"] and len(kept) == 8


def test_a_run_that_was_killed_goes_on_from_its_checkpoint(table):
    """What is left of a killed run is its checkpoint; the run that follows ends where an undisturbed one does."""
    table.write_text(TABLE.replace("steps = 1", "steps = 3").replace("seeds = [0, 1]", "seeds = [0]"))
    job = jobs(tomllib.loads(table.read_text()))[1]
    whole, files = sweep.one(job)
    for item in work(job.asked, Path("half")):
        for step in item.run(every=1, progress=False):
            if step.step == 1:
                break
        break
    again, same = sweep.one(job, Path("half"))
    assert same == files
    assert whole.pop("seconds") > 0 and again == whole  # a resumed run has no time of its own


@pytest.mark.slow
def test_a_method_of_two_parts_has_a_row_of_its_last(table):
    table.write_text('runs = [{ prompt = "a red mug", seeds = [0] }]\n[methods.two]\nbase = "field-to-gaussians"\n'
                     'field = { steps = 1, views = 1, resolution = 16, start.samples = 8 }\n'
                     'gaussians = { steps = 1, start.points = 60, resolution = 32 }\n')
    row, = sweep.sweep(table, Path("out.csv"))
    assert row["gaussians"] == 60 and row["iou"] >= 0 and row["steps"] == 1
    assert {f.name for f in Path("runs/sweep").glob("*/*")} == {"field", "gaussians", "scene.safetensors", "views.webp"}


def test_a_row_of_other_settings_is_not_taken_for_this_one(table):
    write(Path("out.csv"), [{"method": "SDS", "prompt": "a red mug", "seed": 0, "tag": "other"}])
    with pytest.raises(ValueError, match="1 rows of other settings.*another file"):
        sweep.sweep(table, Path("out.csv"))


def test_a_file_of_something_else_is_not_written_over(table):
    Path("out.csv").write_text("name,age\n")
    with pytest.raises(ValueError, match="no table of a sweep, it has no column method, prompt, seed, tag"):
        sweep.sweep(table, Path("out.csv"))
    assert Path("out.csv").read_text() == "name,age\n"


def test_a_failed_run_is_tried_again_with_other_settings(table, monkeypatch):
    monkeypatch.setattr(sweep, "one", lambda job, checkpoint: ({"method": job.method, "prompt": "a red mug",
                                                                "seed": job.asked.seed, "tag": job.tag}, {}))
    key, kept = {"method": "SDS", "prompt": "a red mug", "seed": 0}, {"method": "old", "prompt": "a red mug", "seed": 0}
    write(Path("out.csv"), [key | {"tag": "other", "error": "t_max"}, kept | {"tag": "some", "error": "of another table"}])
    sweep.sweep(table, Path("out.csv"))
    rows = read(Path("out.csv"))
    assert len(rows) == 5 and rows[0]["method"] == "old"
    assert [row["tag"] != "other" for row in rows if row.items() >= key.items()] == [True]


def test_a_run_that_fails_leaves_its_error_and_the_others_go_on(table, tmp_path, capsys):
    """What only the run shows: a t beyond the prior's schedule, a prior that is no such folder. It is said as it fails."""
    table.write_text(TABLE.replace('rule = "SDS"', "timesteps = { start_max = 5000, end_max = 5000 }").replace(
        "[methods.VDM]", f'[methods.XL]\nprior = "{tmp_path}"\n[methods.VDM]').replace("seeds = [0, 1]", "seeds = [0]"))
    assert cli.main(["sweep", str(table), "--out", "out.csv"]) == 1
    failed, absent, fine = read(Path("out.csv"))
    assert "t must lie in [0, 999]" in failed["error"] and "iou" not in failed
    assert "is not whole" in absent["error"] and "error" not in fine and fine["iou"] >= 0
    said = capsys.readouterr().err
    assert "SDS, 'a red mug', seed 0: t must lie in" in said and "XL, 'a red mug', seed 0: the prior in" in said


@pytest.mark.parametrize("damage, says", [
    (lambda text: text.replace(",0,", ",", 1), "line 2 has another number of cells"),
    (lambda text: text + "a,b\n", "line 4 has another number of cells"),
    (lambda text: text.replace(",0,", ",first,", 1), "line 2 lacks .*a seed that is a whole number"),
    (lambda text: text.replace("method,", "method,method,", 1), "a column twice"),
    (lambda text: text.replace("SDS", '"SDS', 1), "cannot be read"),
    (lambda text: "\x00" + text, "cannot be read")])
def test_a_damaged_csv_is_named_with_its_line_and_kept(table, damage, says):
    write(Path("out.csv"), [{"method": m, "prompt": "a red mug", "seed": 0, "tag": "t", "iou": 0.5} for m in ("SDS", "VDM")])
    Path("out.csv").write_text(text := damage(Path("out.csv").read_text()))
    with pytest.raises(ValueError, match=f"out.csv.*{says}.*mend it, or name another file"):
        sweep.sweep(table, Path("out.csv"))
    assert Path("out.csv").read_text() == text


def dies(job):
    """A run of SDS takes its worker with it."""
    if job.method == "SDS":
        raise RuntimeError("the worker died while running it")
    return {"method": job.method, "prompt": "a red mug", "seed": job.asked.seed, "tag": job.tag, "iou": 1.0}, {}


def test_a_worker_that_is_lost_costs_its_run(table, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(sweep, "one", dies)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        rows = sweep.sweep(table, Path("out.csv"), cluster.scheduler_address)
    assert sorted((r["method"], "error" in r) for r in rows) == [("SDS", True)] * 2 + [("VDM", False)] * 2


@pytest.mark.slow
def test_dask_gives_the_same_rows(table):
    from distributed import LocalCluster

    table.write_text(TABLE.replace("seeds = [0, 1]", "seeds = [0]"))
    here = sweep.sweep(table, Path("here.csv"))
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        there = sweep.sweep(table, Path("there.csv"), cluster.scheduler_address)
    by_method = [{row["method"]: {k: v for k, v in row.items() if k != "seconds"} for row in rows} for rows in (here, there)]
    assert by_method[0] == by_method[1]


@pytest.mark.parametrize("name", ["demo", "dreammapping", "janus"])
def test_the_stored_results_are_those_of_the_stored_tables(name):
    """The tag of a row names the settings of its run: these tables ask for no others today."""
    found = jobs(tomllib.loads((Path(__file__).parents[1] / "sweeps" / f"{name}.toml").read_text()))
    assert len(found) == {"demo": 48, "dreammapping": 60, "janus": 30}[name]
    stored = {(r["method"], r["prompt"], r["seed"]): r["tag"] for r in rows(name)}
    assert {job.key: job.tag for job in found} == stored
