"""Bad inputs from the shell, in TOML and in Python: each is one line that names the value, what is allowed and the mend.

They are tried in one process of its own, without the import hook of ``conftest.py``, which would catch wrong types before the
library does. In it no step can be made: whatever comes that far says so. A new option of anything that settings can name is
tried with the misfits of its annotation by itself.
"""
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import warnings
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Annotated, NamedTuple, Union, get_args, get_origin

import pytest

from dreamlab.checks import Range
from dreamlab.methods import METHODS
from dreamlab.settings import CHOICES, options, owner

# How a line says what to do
MEND = re.compile(r"\b(change|choose|give|leave|write|remove|rename|raise|lower|take|name|set|use|mend|put|shorten|swap|say|"
                  r"make|install|build|see|fetch|pass|run|start|turn|expand)\b")
TINY = ["--set", "start.points=60", "--set", "resolution=32"]
LONG, HUGE = 300 * "a", "1" + 30 * "0"  # no file has such a name; no field goes so far


class Case(NamedTuple):
    """``shows`` must stand in the line; ``given`` is a command of the shell, the text of a table, or a line of Python."""

    name: str
    shows: str
    given: tuple[str, ...] | str


# 1. Settings: whatever cannot be a value of an annotation, in TOML

WRONG = {
    float: ["nan", "inf", "-inf", "many", "''", "[]", "[1, 2, 3, 4]", "{ a = 1 }", "1979-05-27", "1e30", "-1e30", 400 * "9",
    "true"],
    bool: ["1", "0.0", "many", "[]", "[true]", "nan"],
    str: ["1", "true", "[]", "['a']", "2.5", "1979-05-27"],
    tuple: ["0.5", "[]", "[0.5]", "[1, 2, 3]", "[nan, 1]", "['a', 'b']", "[[1], [2]]", "many", "true", "[1e30, 1e31]"],
    dict: ["3", "[]", "many", "true"],
    object: ["3", "many", "[]", "true", "nan", "{ a = 1 }", "''"],
}


def misfits(kind) -> list[str]:
    """What cannot be a value of an annotation; one beyond each end of its range among them."""
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        lists = [misfits(k) for k in inner if k is not type(None)]
        return [value for value in lists[0] if all(value in wrong for wrong in lists)]
    if get_origin(kind) is Annotated:
        ends = [m for m in inner[1:] if isinstance(m, Range)]
        below = [f"{r.low - (r.open not in ('low', 'both')):g}" for r in ends if r.low > -float("inf")]
        above = [f"{r.high + (r.open not in ('high', 'both')):.12g}" for r in ends if r.high < float("inf")]
        return misfits(inner[0]) + below + above
    if kind is int:
        return [*misfits(float), "2.5", HUGE, f"-{HUGE}"]
    return WRONG[next((k for k in (float, bool, str, tuple, dict) if k in (kind, get_origin(kind))), object)]


def settable() -> dict[str, tuple]:
    """Every option of every object that settings can name, told apart by the object: the method that has it, the choice that
    leads to it, its path, its annotation."""
    found = {}

    def note(method, choice, thing, path=""):
        for name, (kind, value) in options(thing).items():
            whose = owner(thing).__name__ if isinstance(thing, partial) else type(thing).__name__
            found.setdefault(f"{whose}.{name}", (method, choice, f"{path}{name}", kind))
            if options(value):
                note(method, choice, value, f"{path}{name}.")

    for name, method in METHODS.items():
        if len(method.toy) == 1:
            note(name, (), next(iter(method.toy.values())))
    for method, slots in (("text2image", ["rule"]),
    ("dreammapping", ["timesteps", "cameras", "growth", "decay", "regularise"])):
        for choice in ((slot, name) for slot in slots for name in CHOICES[slot]):
            note(method, choice, next(iter(METHODS[method].toy.values())).set(dict([choice])))
    return found


def in_toml(text: str) -> str:
    """How a line begins to show what TOML has as this text: lists as they are, or as tuples."""
    try:
        return re.split(r"[\[(]", repr(tomllib.loads(f"value = {text}")["value"])[:30])[0]
    except tomllib.TOMLDecodeError:
        return repr(text)[:30]


def dream(*options: str, prompt: str = "a red mug") -> tuple[str, ...]:
    whole = {"--scene", "--method"} & {*options}
    return "dream", prompt, "--out", "out", *([] if whole else TINY), *options


SETTINGS = [Case(f"{whose}-{value[:12]}", in_toml(value), (
    "dream", "a red mug", "--out", "out", "--method", method, *(["--set", "=".join(choice)] if choice else []), "--set",
    f"{path}={value}"))
    for whose, (method, choice, path, kind) in settable().items() for value in dict.fromkeys(misfits(kind))]


# 2. The shell: (what the line shows, what follows `dreamlab dream "a red mug"`)

NAMES = [
    ("magic", "--method", "magic"), ("''", "--method", ""), ("Ball", "--method", "Ball"), ("a\\nb", "--method", "a\nb"),
    ("gpu", "--tier", "gpu"), ("''", "--tier", ""), ("Toy", "--tier", "Toy"), ("mesh", "--until", "mesh"),
    ("''", "--until", ""),
    ("DDPM", "--rule", "DDPM"), ("sds", "--rule", "sds"), ("''", "--rule", ""), ("3", "--rule", "3"),
    ("mesh", "--scene", "mesh"),
    ("''", "--scene", ""), ("--method ball", "--scene", "picture", "--method", "ball"),
    ("'pictures'", "--set", "start.pictures=3"),
    ("start.of", "--scene", "again"), ("start.of", "--scene", "surface"), ("'colour'", "--set", "colour=red"),
    ("'guidance'", "--set", "guidance=3"), ("'guidence'", "--set", "rule.guidence=3"), ("'is'", "--set", "rule.is=SDS"),
    ("'guidance'", "--rule", "CSD", "--guidance", "5"), ("'cutoff'", "--rule", "SDS", "--set", "rule.cutoff=5"),
    ("'levels'", "--set", "start.levels=2"), ("'m1'", "--set", "timesteps.m1=5"), ("growth.every", "--set", "growth.every=5"),
    ("regularise.tv", "--set", "regularise.tv=1"), ("cameras.aim", "--set", "cameras.aim=1"),
    ("'seed'", "--set", "rule.seed=1"),
    ("colours", "--set", "rates.colours=1"), ("'more'", "--set", "steps.more=1"), ("'more'", "--set", "rates.means.more=1"),
    ("'operator'", "--rule", "VSD", "--set", "rule.operator=1"), ("'__class__'", "--set", "__class__=1"),
    ("'a'", "--set", "a.b=1"),
    ("steps", "--method", "field-to-gaussians", "--steps", "3"), ("rule", "--method", "field-to-gaussians", "--rule", "SDS"),
    ("nerf", "--method", "field-to-gaussians", "--set", "nerf.steps=3"), ("''", "--set", "rule.weight="),
    ("'mesh'", "--method", "field-to-gaussians", "--set", "gaussians.start.of=mesh"),
    ("'gaussians'", "--method", "field-to-gaussians", "--set", "gaussians.start.of=gaussians"),
]
TOGETHER = [
    ("VDM", "--set", "prompts.negative=ugly"),
    ("interpolate", "--set", "prompts.views=false", "--set", "prompts.interpolate=true"),
    ("LODS", "--rule", "LODS", "--set", "prompts.perp_neg=true"), ("APFO", "--rule", "APFO", "--steps", "3"),
    ("Annealed", "--rule", "APFO", "--set", "timesteps=Annealed"), ("200", "--set", "timesteps=Grid", "--steps", "3"),
    ("none", "--set", "steps=none"), ("none", "--set", "timesteps=none"), ("None", "--set", "rule=none"),
    ("latents", "--set", "look=latents"), ("rates", "--set", "rates={}"), ("grid", "--set", "rates={ grid = 1 }"),
    ("[20, 2000]", "--set", "timesteps.start_max=2000"), ("30", "--set", "timesteps.t_min=30", "--set", "timesteps.end_max=20"),
    ("(3", "--set", "cameras=Orbit", "--set", "cameras.radius=[3, 2]"),
    ("5000", "--set", "timesteps=Grid", "--set", "timesteps.points=5000"),
    ("m1", "--set", "timesteps=DreamTime", "--set", "timesteps.m1=100"),
    ("0.9", "--set", "growth=Growth", "--set", "growth.opacity=0.9"),
    ("views", "--scene", "picture", "--set", "views=4"), ("resolution", "--scene", "picture", "--set", "resolution=64"),
    ("growth", "--scene", "picture", "--set", "growth=Growth"), ("cameras", "--scene", "picture", "--set", "cameras=Orbit"),
    ("growth", "--method", "field", "--set", "growth=Growth", "--set", "resolution=8"),
    ("pictures", "--scene", "picture", "--set", "regularise=Smooth", "--set", "regularise.scale=0"),
    ("scale", "--method", "field", "--set", "regularise=Smooth"),
    ("GB", "--method", "ball", "--set", "start.points=60", "--set", "views=4096", "--set", "resolution=8192"),
    ("GB", "--method", "field", "--set", "start.samples=512", "--set", "resolution=8192"),
    ("CUDA", "--tier", "paper"),
    *((shows, "--set", f"prompts.null={text}") for shows, text in (
        ("\\n", "a\nb"), ("\\x00", "a\0b"), ("\\ud800", "a\ud800"), ("word", 300 * "word "))),
    ("90", "--set", "cameras=LucidOrbit", "--set", "cameras.narrowest=90"),
    ("(9", "--set", "cameras=LucidOrbit", "--set", "cameras.nearest=[9, 1]"),
    ("steps", "--steps", "3", "--set", "steps=4"),
    ("steps", "--set", "steps=3", "--set", "steps=3"),
    ("steps", "--set", "steps=3", "--set", "shape.steps=4"),
]
WRITTEN = [
    *((repr(what.partition("=")[0]), "--set", what) for what in (
        "", "=", "=1", "..=1", "...=1", "rule.=1", ".rule=1", "rule..guidance=4", "=steps=3")),
    *((repr(what)[:20], "--set", what) for what in ("steps", "rule.guidance", "...", "steps 3", "\ud83d\x00", "steps: 3")),
    ("'3 4'", "--set", "steps=3 4"), ("'[3'", "--set", "steps=[3"), ("'0x'", "--set", "steps=0x"), ("''", "--set", "steps="),
    ("'3\\nviews", "--set", "steps=3\nviews=2"), ("'\"3'", "--set", "steps=\"3"), ("'3'", "--set", "steps='3'"),
    ("2024", "--set", "steps=2024-01-01"), ("time(7, 32)", "--set", "rule.guidance=07:32:00"),
    ("{'a':", "--set", "rule={ a = { b = 1 } }"),
    ("'[[[", "--set", "steps=" + 5000 * "["), ("'999", "--set", "steps=" + 5000 * "9"),
    *((in_toml(value), "--steps", value) for value in ("-1", "2.5", "nan", "many", "1e3", "10000001", HUGE, "true", "0x10x",
    "1979-05-27")),
    *((in_toml(value), "--seed", value) for value in (
        "2.5", "nan", "many", "1e3", "true", "", "100000000001", "-100000000001", HUGE, "[1]", "0 0", "'0'")),
    *((in_toml(value), "--guidance", value) for value in ("0.5", "-1", "nan", "inf", "many", "true", "[1, 2]", "1e30")),
    ("--colour", "--colour", "red"), ("blue", "blue"), ("--out", "--out"), ("--set", "--set"), ("--set", "--set", "--steps=3"),
]
PRIORS = [
    *((repr(name)[:9], "--prior", name) for name in ("", " ", "a\0b", "a\nb")),
    *((name[:9], "--prior", name) for name in ("nowhere/at-all", "a/b/c", "empty", "file.txt", LONG, "Toybox", "sd-2.1-base",
    "other-prior")),
    *((name[:9], "--scene", "picture", "--prior", name) for name in (
        "nowhere/at-all", "empty", "file.txt", LONG, "Toybox", "damaged/unet", "damaged/index", "damaged/shapes",
        "damaged/weights")),
    *((repr(name)[:9], "--set", f"start.prior={name}") for name in ("", "a\0b")),
    *((name[:9], "--set", f"start.prior={name}") for name in ("nowhere", "empty", "file.txt", LONG, "damaged/words",
    "damaged/points")),
    *((f"{what}/dreamlab.json", "--prior", f"cards/{what}") for what in (
        "text", "list", "key", "nan", "type", "views", "binary", "deep", "folder")),
]
OUT = [(repr(what)[:9] if what in ("", " ", "a\0b") else what[:9], "--out", what) for what in (
    "file.txt", "file.txt/in", "/proc/nowhere", "/dev/null", LONG, f"{LONG}/{LONG}", "a\0b", "", " ")]
PROMPTS = {
    "''": "", "' '": " ", "'?!'": "?!", "'\\n'": "\n", "\\x07": "a red mug\a", "\\n": "a red\nmug", "\\x00": "a red mug\0",
    "\\ud800": "a red mug \ud800", "zebra": "a red zebra", "a mug": "a mug", "blue and red": "a red blue mug",
    "word word": 200 * "word ",
    "nothing": "a red mug and " + 97 * "nothing but " + "a handle", "\\u200b": "a red mug\u200b", "\\u202e": "a red\u202emug",
    "gggg": "a red mugmug" + 500 * "g", "赤": "赤いマグカップ", "\\x1b": "a \x1b[31mred mug"}
# What follows `dreamlab`
COMMANDS = [
    ("verb",), ("nonsense", "nonsense"), ("prompt", "dream"), ("nonsense", "methods", "nonsense"), ("''", "methods", ""),
    ("two", "methods", "ball", "two"), ("a\\nb", "methods", "a\nb"), ("what", "toybox"), ("cook", "toybox", "cook"),
    ("name", "toybox", "train"), ("all", "toybox", "train", "all"), ("table", "sweep"), ("--out", "sweep", "good.toml"),
    ("run", "export"), ("''", "export", ""), ("cook", "export", "empty", "cook"), ("--fbx", "export", "empty", "--fbx"),
    *((what[:9], "export", what, *kinds) for kinds in ((), ("--stl",)) for what in (
        "empty", "nowhere", "file.txt", "/proc/nowhere", LONG, f"{LONG}/{LONG}")),
    *((in_toml(value), "toybox", "train", name, "--steps", value) for name in ("points", "vae") for value in (
        "0", "-3", "2.5", "nan", "many", "true", "1e3", "10000001", HUGE)),
    *((what[:9], "toybox", "train", "points", "--out", what) for what in ("file.txt", "file.txt/in", "/proc/nowhere", LONG)),
    ("points.pt", "toybox", "train", "points", "--out", "trained"),
    ("views_480.safetensors", "toybox", "train", "vae", "--out", "trained"),
    *((what[:9], "sweep", what, "--out", "new.csv") for what in (
        "no.toml", "empty", "binary.toml", "deep.toml", "latin.toml", "file.txt", "file.txt/t.toml", LONG)),
    *((what[:8], "sweep", "good.toml", "--out", what) for what in ("file.txt/o.csv", "/proc/nowhere/o.csv", LONG, "empty",
    "file.txt")),
    *((repr(what), "sweep", "good.toml", "--out", "new.csv", "--scheduler", what) for what in ("", "nowhere", "nowhere://x",
    "a\nb")),
]
SHELL = [Case(f"{kind}-{i}", shows, dream(*given)) for kind, table in (
    ("names", NAMES), ("together", TOGETHER), ("written", WRITTEN), ("priors", PRIORS),
    ("out", OUT)) for i, (shows, *given) in enumerate(table)]
SHELL += [Case(f"prompt-{shows}-{len(more)}", shows, dream(*more, prompt=prompt))
          for shows, prompt in PROMPTS.items() for more in ((), ("--scene", "picture"))]
SHELL += [Case(f"command-{i}", shows, tuple(given)) for i, (shows, *given) in enumerate(COMMANDS)]


# 3. Tables: (what the line shows, what stands in the place of what)

RUNS = 'runs = [{ prompt = "a red mug", seeds = [0, 1] }]'
COMMON = "[settings]\nsteps = 1\nstart.points = 60\nresolution = 32"
METHOD = '[methods.SDS]\nrule = "SDS"'
GOOD = f"{RUNS}\n{COMMON}\n{METHOD}\n"


def replaced(old: str, *pairs: tuple[str, str]) -> list[tuple[str, str]]:
    assert GOOD.count(old) == 1
    return [(shows, GOOD.replace(old, new)) for shows, new in pairs]


TABLES = [
    *replaced(RUNS, *((in_toml(value)[:8], f"runs = {value}") for value in (
        "3", "[]", "{}", "'a red mug'", "[3]", "[[]]", "[{}]", "true", "1979-05-27", "[{ a = 1 }]"))),
    *replaced("seeds = [0, 1]", *((in_toml(value)[:8], f"seeds = {value}") for value in (
        "0", "[]", "[true]", "[0.5]", "[0.0]", "['0']", "[nan]", "[[0]]", "[1979-05-27]", "{ a = 0 }", "[0, true]", "'0'")),
        ("2 times", "seeds = [0, 0]"), ("100000000001", "seeds = [100000000001]"), ("-100000000001", "seeds = [-100000000001]"),
        (HUGE, f"seeds = [{HUGE}]"), ("seed", "seed = [0, 1]"), ("more", "seeds = [0, 1], more = 1")),
    *replaced(", seeds = [0, 1]", ("{'prompt'", "")),
    *replaced('"a red mug"', *((in_toml(value)[:8], value) for value in ("3", "['a red mug']", "true", "''", "' '", "nan",
              "{ a = 1 }")),
              ("zebra", "'a red zebra'"), ("\\n", '"a red\\nmug"'), ("\\x00", '"a red mug\\u0000"'),
              ("word", f"'{200 * 'word '}'")),
    *replaced("SDS]", ("''", '""]'), ("' '", '" "]'), ("a\\nb", '"a\\nb"]'), ("a\\x00b", '"a\\u0000b"]'), ("aaaa", f"{LONG}]"),
              ("\\u202e", '"a\\u202eb"]')),
    *replaced(METHOD, ("methods None", ""), ("methods None", "methods = 3"), ("methods None", "methods = []"),
              ("methods {}", "[methods]"),
              ("methods {'SDS': [", "[[methods.SDS]]"), ("'SDS': 3", "[methods]\nSDS = 3"),
              ("'magic'", "[methods.SDS]\nbase = 'magic'"),
              ("3", "[methods.SDS]\nbase = 3"), ("['ball']", "[methods.SDS]\nbase = ['ball']"),
              ("''", "[methods.SDS]\nbase = ''"),
              ("True", "[methods.SDS]\nbase = true"), ("guidance", "[methods.SDS]\nrule.guidance = 3\n'rule.guidance' = 4"),
              ("'rules'", "[methods.SDS]\nrules = 'SDS'"), ("'DDPM'", "[methods.SDS]\nrule = 'DDPM'"),
              ("'more'", "[methods.SDS.more]\na = 3"),
              ("'is'", "[methods.SDS]\nrule.is = 'SDS'"), ("{}", "[methods.SDS]\nrule = {}"), ("''", "[methods.SDS]\n'' = 3"),
              ("'.'", "[methods.SDS]\n'.' = 3"), ("a\\nb", '[methods.SDS]\n"a\\nb" = 3'),
              ("'many'", "[methods.SDS]\nsteps = 'many'"),
              ("nan", "[methods.SDS]\nrule.guidance = nan"), ("inf", "[methods.SDS]\nrates.means = [inf, 1]"),
              ("cutoff", "[methods.SDS]\nrule = 'SDS'\n'rule.cutoff' = 3"), ("colours", "[methods.SDS]\nrates.colours = 0.1"),
              ("every", "[methods.SDS]\ngrowth.every = 3"), ("steps", "[methods.SDS]\nsteps = 3\nshape.steps = 4")),
    *replaced(COMMON, ("settings 3", "settings = 3"), ("settings []", "settings = []"),
              ("settings [", "[[settings]]\nsteps = 1"),
              ("'many'", "[settings]\nsteps = 'many'"), ("'stepps'", "[settings]\nstepps = 1"),
              ("True", "[settings]\nsteps = true"),
              ("'prompt'", "[settings]\nprompt = 'a blue mug'"), ("'seed'", "[settings]\nseed = 3"),
              ("'base'", "[settings]\nbase = 'ball'"),
              ("''", "[settings]\nprior = ''")),
    *replaced(RUNS, *((in_toml(value)[:8], f"tier = {value}\n{RUNS}") for value in ("'gpu'", "3", "true", "['toy']", "''",
              "nan")),
              ("'setings'", f"{RUNS}\n[setings]"), ("a\\nb", f'"a\\nb" = 3\n{RUNS}'), ("no TOML", "runs"),
              ("no TOML", f"{RUNS}\n{RUNS}"),
              ("no TOML", "= 3"), ("no TOML", "runs = [\0]")),
]
HEAD, ROW = "method,prompt,seed,tag,iou\n", "SDS,a red mug,0,t,0.5\n"
CSVS = [
    *(("method", text) for text in ("", "\n", "name,age\n", 50 * "\0", "\ufeffmethod;prompt;seed;tag\n")),
    ("twice", f"method,{HEAD}SDS,{ROW}"),
    *(("line 2", HEAD + text) for text in (
        "SDS,a red mug,0\n", ROW[:-1] + ",1\n", *(ROW.replace("0,t", bad) for bad in (
            "first,t", "0.5,t", ",t", "True,t", "nan,t", "0,", f"{5000 * '1'},t")), ROW.replace("SDS", ""),
            ROW.replace("a red mug", ""))),
    *(("line 3", HEAD + ROW + text) for text in ("a,b\n", ROW)), ("other settings", HEAD + ROW), ("out.csv", f'{HEAD}"{ROW}'),
    ("out.csv", HEAD + ROW + "\0"), ("out.csv", HEAD + ROW.replace("SDS", 200_000 * "S")),
]
TABLES = [Case(f"table-{i}", shows, text) for i, (shows, text) in enumerate(TABLES)]
CSVS = [Case(f"csv-{i}", shows, text) for i, (shows, text) in enumerate(CSVS)]


# 4. Files of a run, by how they are damaged: of one that was stopped after a step, and of one whose first part is done

CHECKPOINT, START, PART = "checkpoint.safetensors", "start.safetensors", "field/scene.safetensors"
BYTES = {"empty": "b''", "text": "b'not a checkpoint'", "cut": "None", "zeros": "500 * b'\\0'", "header": "8 * b'\\xff'"}
NOTES = ["{}", "{'done': -1, 'tag': ''}", "{'done': 99, 'tag': tag}", "{'done': 1.0, 'tag': tag}", "{'done': True, 'tag': tag}",
         "{'done': '1', 'tag': tag}", "{'done': None, 'tag': tag}", "{'done': 1, 'tag': 3}", "{'done': 10**30, 'tag': tag}",
         "[]", "3", "'text'"]
TENSORS = ["{}", "{'x': torch.zeros(2)}", "t | {'scene.means': t['scene.means'] / 0}",
           "t | {'adam.0.exp_avg': t['adam.0.exp_avg'] / 0}",
           "t | {'scene.means': t['scene.means'].double()}", "t | {'adam.0.exp_avg': t['adam.0.exp_avg'].half()}",
           "t | {'scene.means': t['scene.means'][:5]}", "t | {'scene.means': t['scene.means'][:, :2].clone()}",
           *(f"t | {{'{name}': torch.ones(3)}}" for name in (
               "scene.more", "more.means", "adam.0.exp_avg", "adam.one.step", "adam.99.step", "growth.pull", "rule.more")),
           *(f"{{k: v for k, v in t.items() if not k.startswith('{name}')}}" for name in (
               "scene.means", "scene", "adam.0.exp_avg", "adam.1", "adam", "rule"))]
STARTS = ["{}", "t | {'means': t['means'] / 0}", "t | {'means': t['means'].double()}", "t | {'more': torch.ones(3)}",
          "t | {'means': t['means'][:5]}", "{k: v for k, v in t.items() if k != 'quats'}"]
FIELD = ["{}", "t | {'grid.0': t['grid.0'] / 0}", "t | {'more': torch.ones(3)}", "t | {'grid.0': t['grid.0'][:5]}"]
ABOUT = ["'scene': 'cone'", "'scene': 3", "'scene': None", "'scene': 'Gaussians'", "'scene': 'Picture'", "'config': {}",
         "'config': 3",
         *(f"'config': was['config'] | {{{more}}}" for more in (
             "'samples': 'many'", "'samples': -1", "'more': 1", "'grid': {}"))]
FILES = [Case(f"{file}-{change}", file, f"spoil({file!r}, {change})") for file, changes in (
    *((file, [f"content={content}" for content in BYTES.values()]) for file in (CHECKPOINT, START, PART)),
    (CHECKPOINT, [*(f"about={notes}" for notes in NOTES), *(f"tensors=lambda t: {change}" for change in TENSORS)]),
    (START, [f"tensors=lambda t: {change}" for change in STARTS]),
    (PART, [*(f"tensors=lambda t: {change}" for change in FIELD),
            *(f"about=lambda was: was | {{{change}}}" for change in ABOUT)]),
) for change in changes]


# 5. Python: (what the line shows, what is evaluated)

IMPORTS = """
import numpy as np
import torch
from dreamlab import runs, scenes, stage, sweep
from dreamlab.cameras import Cameras, LucidOrbit, Orbit, orbit, ring
from dreamlab.export import contact_sheet, save_turntable, save_viewer
from dreamlab.learner import Adam
from dreamlab.losses import Smooth
from dreamlab.methods import method
from dreamlab.pipeline import Method, Part, work
from dreamlab.priors.diffusion import DiffusionPrior
from dreamlab.priors.points import load_points
from dreamlab.prompts import Condition, Prompt, ViewPrompts
from dreamlab.rules import APFO, CSD, ISM, LMCSDS, NFSD, PFD, SDI, SDS, SSD, VDM, VSD, Consistent3D
from dreamlab.scenes.base import again
from dreamlab.scenes.gaussians import Gaussians, load_ply, points
from dreamlab.scenes.growth import Growth
from dreamlab.scenes.nerf import HashGrid, NeRF
from dreamlab.scenes.picture import Picture
from dreamlab.schedules import Annealed, Cosine, DreamTime, Exponential, Grid
from dreamlab.stage import Stage, run
from dreamlab.toybox.training import main as training
"""
MADE = """
g, x, p, frames = torch.Generator().manual_seed(0), torch.ones(1), torch.rand(9, 3), torch.rand(2, 4, 4, 3)
prior, shape = DiffusionPrior.load("toybox"), METHODS["dreammapping"].toy["shape"]
one, of_a, of_b = {"a": shape}, shape.set(start=partial(again, of="a")), shape.set(start=partial(again, of="b"))
ball9 = Gaussians.ball(9, generator=g)
raw, critic = ball9.state_dict(), VSD.for_prior(prior).critic
whole = vars(METHODS["ball"].toy["shape"].set({"start.points": 9, "resolution": 8, "steps": 3}).build("a red mug", prior))
tag = METHODS["ball"].ask("a red mug", changes=BALL).tag("shape")
"""
NUMBERS = {"nan": "float('nan')", "inf": "float('inf')", "'3'": "'3'", "True": "True", "[": "[]", "(1, 2, 3)": "(1, 2, 3)",
HUGE: "10**30",
           f"-{HUGE}": "-10**30", "tensor": "torch.ones(2, 2)", "array": "np.ones(3)", "{": "{}", "object": "object()",
           "a number of": "10**5000"}
FIELDS = ["Orbit.elevation_deg", "Orbit.fov_deg", "LucidOrbit.wider", "Annealed.start_max", "DreamTime.s1", "DreamTime.m1",
"Grid.points",
          "Cosine.final", "Exponential.warmup", "Growth.every", "Growth.gradient", "Smooth.tv", "Adam.betas", "Adam.eps",
          "SDS.guidance",
          "NFSD.cutoff", "CSD.negative", "ISM.interval", "SDI.inversion_guidance", "SSD.switch", "Consistent3D.seed",
          "PFD.steps"]


def calls(form: str, *cases: tuple[str, str]) -> list[tuple[str, str]]:
    return [(shows, form.format(given)) for shows, given in cases]


PYTHON = [
    *((shows, f"{field.replace('.', '(')}={value})") for field in FIELDS for shows, value in NUMBERS.items()),
    *calls("shape.set({})", ("3", "3"), ("3", "{3: 4}"), ("''", "{'': 3}"), ("'.'", "{'.': 3}"), ("'rule.'", "{'rule.': 3}"),
           ("'stepps'", "stepps=3"), ("True", "steps=True"), ("2.5", "steps=2.5"), ("-1", "steps=-1"),
           ("100000000", "steps=10**8"),
           ("a number of", "steps=10**5000"), ("'many'", "steps='many'"), ("tensor", "steps=torch.ones(2, 2)"),
           ("0", "views=0"),
           ("array", "views=np.ones((3, 3))"), ("7", "resolution=7"), ("(3", "resolution=(3, 4)"), ("[", "resolution=[]")),
    *calls("shape.set({})", ("'SDS2'", "rule='SDS2'"), ("SDS", "rule=SDS"), ("SDS", "rule=SDS()"), ("3", "rule=3"),
           ("None", "rule=None"),
           ("dict", "rule=partial(dict)"), ("3", "rule=partial(SDS.for_prior, 3)"), ("'x'", "rule=partial(SDS.for_prior, x=3)"),
           ("'3'", "rule=partial(SDS.for_prior, guidance='3')"), ("lambda", "rule=lambda prior: 3"), ("'mesh'", "start='mesh'"),
           ("3", "start=3"), ("function", "start=points"), ("len", "start=partial(len)"),
           ("-3", "start=partial(points, points=-3)"),
           ("Gaussians", "start=ball9"), ("3", "timesteps=3"), ("'Grit'", "timesteps='Grit'"),
           ("Annealed'", "timesteps=Annealed"),
           ("Cosine", "timesteps=Cosine()"), ("3", "prompts=3"), ("'a mug'", "prompts='a mug'"),
           ("3", "prompts=partial(ViewPrompts, null=3)"),
           ("'text'", "prompts=partial(ViewPrompts, text='a')")),
    *calls("shape.set({})", ("3", "prior=3"), ("None", "prior=None"), ("''", "prior=''"), ("DiffusionPrior", "prior=prior"),
           ("3", "look=3"),
           ("'rgba'", "look='rgba'"), ("3", "cameras=3"), ("'Orbits'", "cameras='Orbits'"), ("Cameras", "cameras=ring(3)"),
           ("3", "growth=3"),
           ("Growth'", "growth=Growth"), ("True", "growth=True"), ("3", "rates=3"), ("'fast'", "rates={'means': 'fast'}"),
           ("0", "rates={'means': 0}"), ("(1, 2, 3)", "rates={'means': (1, 2, 3)}"), ("colours", "rates={'colours': 0.1}"),
           ("{3", "rates={3: 0.1}"), ("nan", "rates={'means': float('nan')}"), ("3", "optimiser=3"),
           ("'SGD'", "optimiser='SGD'"),
           ("torch", "optimiser=torch.optim.Adam"), ("3", "decay=3"), ("'linear'", "decay='linear'"), ("3", "regularise=3"),
           ("'L2'", "regularise='L2'")),
    *calls("Part({})", ("3", "start=3, rule=shape.rule"), ("3", "start=shape.start, rule=3"),
           ("timesteps", "start=shape.start, rule=shape.rule"),
           ("steps", "start=shape.start, rule=shape.rule, timesteps=Annealed()")),
    *calls("Method({})", ("''", "'', 'a', one, one"), ("'A b'", "'A b', 'a', one, one"), ("3", "3, 'a', one, one"),
           ("aaaa", "'a' * 99, 'a', one, one"),
           ("'a\\n'", "'a\\n', 'a', one, one"), ("3", "'a', 3, one, one"), ("[]", "'a', 'a', {}, {}"),
           ("['a']", "'a', 'a', one, {'b': shape}"),
           ("['a', 'b']", "'a', 'a', {'a': shape, 'b': shape}, {'b': shape, 'a': shape}"), ("3", "'a', 'a', 3, one"),
           ("[", "'a', 'a', [shape], [shape]"), ("3", "'a', 'a', {'a': 3}, {'a': 3}"),
           ("'../a'", "'a', 'a', {'../a': shape}, {'../a': shape}"),
           ("'a.b'", "'a', 'a', {'a.b': shape}, {'a.b': shape}"), ("''", "'a', 'a', {'': shape}, {'': shape}"),
           ("{3", "'a', 'a', {3: shape}, {3: shape}"), ("0", "'a', 'a', one, one, 0"),
           ("'b'", "'a', 'a', {'a': of_b}, {'a': of_b}"),
           ("'a'", "'a', 'a', {'a': of_a}, {'a': of_a}"),
           ("'b'", "'a', 'a', {'a': of_b, 'b': shape}, {'a': of_b, 'b': shape}")),
    *calls("METHODS['ball'].ask({})", ("3", "3"), ("None", "None"), ("''", "''"), ("\\n", "'a\\nb'"), ("['a", "['a red mug']"),
           ("b'a", "b'a red mug'"),
           ("3", "'a red mug', 3"), ("'gpu'", "'a red mug', 'gpu'"), ("None", "'a red mug', None"),
           ("3", "'a red mug', changes=3"),
           ("[", "'a red mug', changes=['steps=3']"), ("'stepps'", "'a red mug', changes={'stepps': 3}"),
           ("{3", "'a red mug', changes={3: 3}"),
           ("steps", "'a red mug', changes={'steps': 3, 'shape.steps': 4}"), ("'shape.'", "'a red mug', changes={'shape.': 3}"),
           *((shows, f"'a red mug', seed={seed}") for shows, seed in (*NUMBERS.items(), ("None", "None"),
           ("100000000001", "10**11 + 1")))),
    *calls("method({})", ("magic", "'magic'"), ("3", "3"), ("[", "['ball']")),
           ("3", "list(work(METHODS['ball'].ask('a red mug'), until=3, prior=prior))"),
    *calls("shape.build({})", ("3", "3, prior"), ("None", "None, prior"), ("True", "'a red mug', prior, True"),
           ("0.5", "'a red mug', prior, 0.5"),
           ("100000000001", "'a red mug', prior, 10**11 + 1"), ("3", "'a red mug', 3"), ("'toybox'", "'a red mug', 'toybox'"),
           ("zebra", "'zebra zebra', prior")),
    *calls("shape.set(start={}).build('a red mug', prior)", ("''", "'again'"), ("''", "'surface'"),
           ("'b'", "partial(again, of='b')")),
    ("(3", "Orbit(radius=(3.0, 2.0))"), ("(0", "Orbit(radius=(0.0, 2.0))"), ("90", "Orbit(elevation_deg=(0.0, 90.0))"),
    ("[", "Orbit(radius=[2.0, 3.0])"),
    ("30", "Annealed(t_min=30, end_max=20)"), ("0.9", "Annealed(since=0.9)"), ("100", "DreamTime(m1=100.0)"),
    ("5000", "Grid(points=5000)"),
    ("0", "Grid(start=0, end=0)"), ("0.9", "Growth(opacity=0.9)"), ("100000", "DreamTime(100000.0, 100000.0, s2=1.0)"),
    ("3", "SDS(weight=3)"),
    ("None", "SDS(weight=None)"), ("3", "APFO(critic, grid=3)"), ("3", "VSD(3)"), ("3", "VDM(3)"),
    ("Linear", "VSD(torch.nn.Linear(2, 2))"), ("3", "LMCSDS(3)"),
    ("-1", "VDM(torch.nn.Identity(), lr=-1.0)"), ("'yes'", "VDM(torch.nn.Identity(), dca='yes')"),
    ("-1", "LMCSDS.for_prior(prior, pretrain=-1)"),
    ("'often'", "LMCSDS.for_prior(prior, pretrain='often')"), ("3", "VDM.for_prior(prior, operator=3)"),
    ("-1", "VSD.for_prior(prior, critic_rate=-1.0)"),
    ("True", "VSD.for_prior(prior, seed=True)"), ("0.5", "VDM.for_prior(prior, seed=0.5)"), ("3", "ViewPrompts(prior, 3)"),
    ("embed", "ViewPrompts(3, 'a')"),
    ("3", "ViewPrompts(prior, 'a', null=3)"), ("1", "ViewPrompts(prior, 'a', views=1)"),
    ("interpolate", "ViewPrompts(prior, 'a', views=False, interpolate=True)"),
    ("'a'", "Prompt('a', 'b')"), ("3", "Prompt(3, 3)"), ("scalar", "Prompt(torch.tensor(1.0), torch.tensor(1.0))"),
    ("3", "Condition(3)"), ("{}", "Condition({})"),
    ("[", "Condition([torch.ones(1)])"), (".a", "Condition({'a': 3})"), ("{3", "Condition({3: torch.ones(1)})"),
    *calls("Cameras({})", ("3", "3, 3, 3, 3"), ("'a'", "'a', x, x, x"), ("not finite", "x / 0, x, x, x"),
           ("not finite", "x, x / 0, x, x"), ("not finite", "x, x, x / 0, x"),
           ("0", "x, x, x * 0, x"), ("180", "x, x, x, x * 180"), ("90", "x, x * 90, x, x"),
           ("[2, 1", "torch.ones(2), x, x, x"), ("(1, 1", "x[None], x[None], x[None], x[None]"),
           ("None", "x, x, x, None"), ("(3", "x, x, x, x, torch.ones(3)"), ("not finite", "x, x, x, x, torch.ones(1, 3) / 0"),
           ("not finite", "x, x, x, x, None, x / 0")),
    *calls("Orbit().sample({}, g)", ("0", "0"), ("'a'", "'a'")), *calls("list(work({}))", ("3", "3")),
    *calls("sweep.sweep({})", ("3", "3, 'a.csv'"), ("''", "'good.toml', ''")),
    *calls("orbit({})", ("'front'", "'front'"), ("None", "None"), ("nan", "float('nan')"), ("[3, 2", "[0, 1, 2], [0, 1]"),
           ("0", "0, radius=0")),
    *calls("ring({})", ("0", "0"), ("-1", "-1"), ("2.5", "2.5"), ("'3'", "'3'"), ("True", "True"), ("0", "3, radius=0"),
           (HUGE, "10**30")),
    *calls("Gaussians.from_points({})", ("3", "p[:3], p[:3]"), ("5", "p, p[:5]"), ("(9, 2)", "p[:, :2], p"),
           ("(9, 4)", "p, torch.rand(9, 4)"), ("not finite", "p / 0, p"),
           ("not finite", "p, p / 0"), ("3", "3, 3"), ("array", "p.numpy(), p.numpy()"),
           ("[", "[[0, 0, 0]] * 9, [[0, 0, 0]] * 9"), ("int64", "p.long(), p"), ("1", "p, p, 1.0"),
           ("0", "p, p, 0.5, 0.0"), ("nan", "p, p, float('nan')"), ("'a'", "p, p, 'a'"), ("inf", "p, p, 0.5, float('inf')"),
           ("True", "p, p, 0.5, True")),
    *calls("Gaussians.ball({}, generator=g)", ("3", "3"), ("0", "0"), ("-5", "-5"), ("2.5", "2.5"), ("'9'", "'9'"),
           ("True", "True"), ("0", "9, 0.0"), ("nan", "9, float('nan')"),
           ("'big'", "9, 'big'"), ("1", "9, 0.6, 1.0"), ("0", "9, 0.6, 0.5, 0.0"), ("10000000000", "10**10"), ("None", "None")),
    *calls("Gaussians.ball(9, generator={})", ("3", "3"), ("None", "None")),
    *calls("Gaussians.from_raw({})", ("3", "3"), ("None", "{}"), ("(8, 3)", "raw | {'colors': p[:8]}"),
           ("more", "raw | {'more': p}"), ("not finite", "raw | {'means': p / 0}"),
           ("means", "{k: v for k, v in raw.items() if k != 'means'}"), ("float64", "raw | {'means': p.double()}"),
           ("int64", "raw | {'means': p.long()}"), ("3", "raw | {'means': 3}"),
           ("array", "raw | {'means': p.numpy()}")),
    ("(9, 4", "Gaussians(*[torch.rand(9, 4)] * 5)"), ("3", "Gaussians(3, 3, 3, 3, 3)"),
    ("not finite", "Gaussians(*(v / 0 for v in raw.values()))"),
    *calls("Picture({})", ("(2, 4, 4, 5)", "torch.rand(2, 4, 4, 5)"), ("(4, 4, 3)", "torch.rand(4, 4, 3)"), ("3", "3"),
           ("not finite", "frames / 0"), ("uint8", "frames.byte()"), ("3", "frames, decode=3")),
    *calls("Picture.grey({})", ("0", "0"), ("-4", "-4"), ("2.5", "2.5"), ("0", "8, 0"), (HUGE, "10**30")),
           ("7", "Picture.grey(8).render(None, 7)"), ("3", "Picture.grey(8, 2).render(ring(3))"),
    *calls("HashGrid({})", ("0", "levels=0"), ("-1", "entries=-1"), ("2.5", "levels=2.5"), ("0.5", "growth=0.5"),
           ("nan", "growth=float('nan')")),
    *calls("NeRF(HashGrid(levels=1, entries=64), {})", ("0", "hidden=0"), ("0", "radius=0.0"), ("-1", "samples=-1"),
           ("nan", "bias=float('nan')"), ("0", "width=0.0")), ("3", "NeRF(3)"),
    ("Picture", "Growth().check(Picture.grey(8))"), ("pictures", "Smooth(scale=0.0).check(Picture.grey(8))"),
    ("NeRF", "Smooth().check(NeRF(HashGrid(levels=1, entries=64)))"),
    *calls("Stage(**(whole | dict({})))", *((shows, f"{field}={value}") for field in (
        "scene", "prior", "rule", "prompts", "timesteps", "rates", "decay", "look", "growth", "background", "cameras",
        "optimiser", "steps", "views", "resolution", "seed")
        for shows, value in (("'a'", "'a'"), ("2.5", "2.5"), ("object", "object()"))), ("None", "scene=None"),
        ("[20, 2000]", "timesteps=Annealed(start_max=2000)"), ("no leaf", "rates={}"),
        ("colours", "rates={'colours': 0.1}"), ("nan", "rates={'means': float('nan')}"), ("0", "rates={'means': 0}"),
        ("(0.1", "rates={'means': (0.1, 0)}"), ("Cameras", "cameras=ring(3)"),
        ("-1", "steps=-1"), ("0", "views=0"), ("None", "views=None"), ("9999", "resolution=9999"), ("True", "seed=True"),
        ("100000000001", "seed=10**11 + 1"),
        ("Picture", "scene=Picture.grey(8), rates={'pixels': 0.1}, growth=Growth()")),
    *calls("list(run({}))", ("0", "Stage(**whole), every=0"), ("'often'", "Stage(**whole), every='often'"),
           ("2.5", "Stage(**whole), every=2.5"), ("3", "3"), ("3", "Stage(**whole), checkpoint=3")),
    *((shows, f"{what}({name!r})") for what in ("scenes.load", "Gaussians.load", "load_ply", "stage.read") for shows, name in (
        ("nothing", "nothing"), ("empty", "empty"), ("file.txt", "file.txt"), ("binary.toml", "binary.toml"), ("aaaa", LONG),
        ("3", 3))),
    ("give the prior", "scenes.load('latents')"), ("'cone'", "scenes.load('other')"),
    *calls("save_turntable({})", ("front.png", "frames, 'front.png'"), ("front", "frames, 'front'"),
           ("0", "frames[:0], 'a.gif'"), ("0", "frames, 'a.gif', 0"), ("nan", "frames, 'a.gif', float('nan')"),
           ("'fast'", "frames, 'a.gif', 'fast'"), ("3", "3, 'a.gif'"), ("(2, 4, 4)", "frames[..., 0], 'a.gif'"),
           ("not finite", "frames / 0, 'a.gif'"), ("1e-09", "frames, 'a.gif', 1e-9"),
           ("1000000000", "frames, 'a.gif', 10**9"), ("file.txt/a.gif", "frames, 'file.txt/a.gif'"), ("3", "frames, 3")),
    *calls("save_viewer(ball9, 'a.html', **(dict(views=2, resolution=8, progress=False) | dict({})))", ("0", "views=0"),
           ("2.5", "views=2.5"), ("9000", "views=9000"), ("'x'", "views='x'"), ("0", "elevations_deg=()"),
           ("90", "elevations_deg=(90,)"), ("nan", "elevations_deg=(float('nan'),)"), ("'low'", "elevations_deg='low'"),
           ("0", "resolution=0"), ("-8", "resolution=-8"), ("0", "radius=0.0"), ("180", "fov_deg=180.0"),
           ("101", "quality=101"), ("-1", "quality=-1"), ("'best'", "quality='best'"), ("3", "title=3"), ("3", "background=3"),
           ("(2,)", "background=torch.ones(2)")),
    ("render", "save_viewer(3, 'a.html', views=2, resolution=8)"),
    ("file.txt/a.html", "save_viewer(ball9, 'file.txt/a.html', views=2, resolution=8, progress=False)"),
    *calls("contact_sheet({})", ("0", "[], []"), ("1", "[frames], []"), ("3", "3, 3"), ("3", "[3], ['a']"),
           ("3", "[frames], [3]"), ("tensor", "[frames[..., 0]], ['a']"), ("-3", "[frames], ['a'], gap=-3"),
           ("'a'", "[frames], ['a'], gap='a'")),
    *calls("DiffusionPrior.load({})", ("3", "3"), ("''", "''"), ("None", "None")), *calls("load_points({})", ("3", "3"),
           ("''", "''"), ("nowhere", "'nowhere'")),
    *calls("prior.embed({})", ("3", "3"), ("'a'", "'a'"), ("[3]", "[3]"), ("word", "['word ' * 200]")),
           ("(1, 3", "prior.eps(torch.rand(1, 3, 4, 4), torch.tensor([3]), prior.null)"),
    ("5000", "prior.add_noise(torch.rand(1, 8, 16, 16), torch.rand(1, 8, 16, 16), torch.tensor([5000]))"),
    *calls("sweep.jobs({})", ("3", "3"), ("[", "[]"), ("None", "{}")), ("3", "runs.dream(3)"),
    *calls("training({})", ("'train'", "'train'"), ("0", "'points', steps=0"), ("2.5", "'points', steps=2.5"),
           ("-1", "'points', per_kind=-1"), ("3", "'points', out=3"), ("0", "'points', batch=0"), ("3", "3")),
]
PYTHON = [Case(f"python-{i}-{code[:40]}", shows, code) for i, (shows, code) in enumerate(PYTHON)]
CASES = [*SETTINGS, *SHELL, *TABLES, *CSVS, *FILES, *PYTHON]

# What is right beside all that: it comes as far as a step, or gives something
FINE = [Case(f"fine-{i}", "", given) for i, given in enumerate((
    dream("--set", "rates.means=[0.1, 0.01]"), dream("--guidance", "1"), dream("--seed", "-5"), dream("--seed", "100000000000"),
    dream("--steps", "1_0"), dream("--rule", "SDS", "--guidance", "0"), dream("--set", "rule=SDS", "--set", "rule.weight=one"),
    dream("--set", "rule.weight=one", "--set", "rule=SDS"), dream("--set", "timesteps.m1=700", "--set", "timesteps=DreamTime"),
    dream("--set", "growth=Growth", "--set", "growth.reset=none"), dream("--method", "ball", "--set", "start.points=4"),
    dream("--set", "prompts.null="), dream("--set", "prompts.null='3'"), dream("--set", "rule.cutoff=-1"),
    dream("--rule", "APFO"),
    dream("--set", "cameras=Orbit", "--set", "cameras.fov_deg=[30, 50]"), dream("--set", "timesteps=Grid"),
    dream("--tier", "toy"),
    dream("--until", "shape"), dream("--scene", "ball", *TINY), dream("--set", " steps = 3"), dream("--set", "shape.steps=3"),
    dream("--set", "views=1"), dream(prompt="A red, blunt mug!"), dream(prompt="a red mug (toy) - n° 7"),
    *(f"spoil({file!r})" for file in (CHECKPOINT, START, PART)), "shape.set(steps=0, views=4096)", "Orbit(fov_deg=30.0)",
    "SDS(guidance=0)", "METHODS['ball'].ask('a', seed=-10**11)", "Gaussians.ball(4, generator=g)", "Gaussians.from_raw(raw)",
    "orbit([0, 90], 15, 2)", "ring(1)", "sweep.jobs(tomllib.loads(GOOD))",
    "sweep.jobs(tomllib.loads(GOOD.replace('0, 1', '-1, 0')))",
    "save_turntable(frames, 'a.webp', 0.5)", "contact_sheet([frames], ['a'], gap=0)", "Condition({'a': x})"))]


# The process in which they are tried


class Slow(Exception):
    pass


def outcome(action) -> dict:
    """How an action ends, and what it says."""
    def late(*_):
        raise Slow("it takes more than 20 s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(90)
    try:
        return action()
    except BaseException as error:
        return {"end": type(error).__name__, "said": str(error)}
    finally:
        signal.alarm(0)


def shell(*arguments: str) -> dict:
    from dreamlab.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(arguments))
        except SystemExit as error:
            status = error.code
    return {"end": status, "said": "\n".join(line for line in err.getvalue().splitlines() if line and "it/s]" not in line)}


def table(text: str) -> dict:
    Path("table.toml").write_text(text)
    return shell("sweep", "table.toml", "--out", "new.csv")


def rows(text: str) -> dict:
    Path("out.csv").write_text(text)
    return shell("sweep", "good.toml", "--out", "out.csv")


def python(code: str, world: dict) -> dict:
    result = eval(code, world)
    return result if isinstance(result, dict) and "end" in result else {"end": "nothing",
    "said": f"it gives {str(result)[:200]}"}


BALL = {"start.points": 60, "resolution": 32, "steps": 3, "growth": "Growth", "growth.most": 100}
PARTS = {"field.start.samples": 8, "field.start.levels": 2, "field.resolution": 16, "gaussians.start.points": 60}


def lay_out() -> None:
    """The files that cases name. Two runs are among them: one was stopped after a step, of the other the first part is done."""
    import torch
    from safetensors.torch import save_file

    from dreamlab import pipeline, scenes
    from dreamlab.priors import diffusion, points

    for folder in ("empty", "cards/folder/dreamlab.json", "trained/checkpoints"):
        Path(folder).mkdir(parents=True)
    Path("file.txt").write_text("not what was asked for")
    Path("binary.toml").write_bytes(bytes(range(256)))
    Path("latin.toml").write_bytes("methods = 'Käse'".encode("latin-1"))
    Path("deep.toml").write_text("runs = " + 5000 * "[")
    Path("good.toml").write_text(GOOD)
    for name, card in {"text": "no JSON", "list": "[]", "key": '{"colour": 3}', "nan": '{"guidance": NaN}',
    "type": '{"pixels": "64"}',
                       "views": '{"views": {"radius": [3, 2]}}', "binary": "\xff\0", "deep": 9000 * "["}.items():
        Path("cards", name).mkdir()
        Path("cards", name, "dreamlab.json").write_text(card, encoding="latin-1")
    for name, file, text in (("unet", "unet/config.json", "{}"), ("index", "model_index.json", "[]"),
    ("weights", "unet/diffusion_pytorch_model.safetensors", "half"),
                             ("shapes", "vae/config.json", '{"_class_name": "AutoencoderTiny", "latent_channels": 3}')):
        shutil.copytree(diffusion.BUNDLED["toybox"], f"damaged/{name}")
        Path("damaged", name, file).write_text(text)
    for name, text in (("words", "no JSON"), ("points", '["mug"]')):
        shutil.copytree(points.BUNDLED["toybox"], f"damaged/{name}")
        Path("damaged", name, "words.json").write_text(text)
    Path("trained/checkpoints/points.pt").write_text("no checkpoint")
    Path("trained/views_480.safetensors").write_text("no views")
    for name, kind in (("latents", "Picture"), ("other", "cone")):
        save_file({"latents": torch.rand(1, 8, 4, 4)}, name, {"dreamlab": f'{{"scene": "{kind}", "config": {{}}}}'})

    item = next(pipeline.work(METHODS["ball"].ask("a red mug", changes=BALL), Path("stopped")))
    for _ in item.run(every=1, progress=False):
        break
    asked = METHODS["field-to-gaussians"].ask("a red mug", changes=PARTS)
    field = asked.parts["field"].build("a red mug").scene
    field.save("parts/field/scene.safetensors", tag=asked.tag("field"), files={})
    assert scenes.load("parts/field/scene.safetensors")


def spoil(file: str, content: bytes | None = ..., about=..., tensors=None) -> dict:
    """Go on with a run of which a file holds something else: other bytes (None: half of its own), notes or tensors."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    parts = file.startswith("field")
    name = "a-red-mug-field-to-gaussians-seed0" if parts else "a-red-mug-ball-seed0"
    shutil.rmtree("spoilt", ignore_errors=True)
    shutil.copytree("parts" if parts else "stopped", f"spoilt/{name}")
    path = Path("spoilt", name, file)
    if content is not ...:
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2] if content is None else content)
    else:
        with safe_open(path, "pt") as found:
            was, held = json.loads(found.metadata()["dreamlab"]), {k: found.get_tensor(k) for k in found.keys()}
        new = was if about is ... else about(was) if callable(about) else about
        save_file(tensors(held) if tensors else held, path, {"dreamlab": json.dumps(new)})
    settings = [x for pair in (PARTS if parts else BALL).items() for x in ("--set", "{}={}".format(*pair))]
    return shell("dream", "a red mug", "--out", "spoilt", "--method", "field-to-gaussians" if parts else "ball", *settings)


def namespace() -> dict:
    """What the lines of Python may use."""
    world = dict(globals())
    exec(IMPORTS + MADE, world)
    return world


def attempt(case: Case, world: dict) -> dict:
    if isinstance(case.given, tuple):
        return shell(*case.given)
    return table(case.given) if case in TABLES else rows(case.given) if case in CSVS else python(case.given, world)


def try_all(folder: Path, results: Path) -> None:
    """What comes of every case, as JSON."""
    warnings.simplefilter("ignore")
    from dreamlab import memory, report, stage
    from dreamlab.priors.diffusion import DiffusionPrior

    load = cache(DiffusionPrior.load)
    DiffusionPrior.load = lambda name="toybox", *where, **more: load("toybox") if name == "toybox" else load.__wrapped__(name,
    *where, **more)
    os.chdir(folder)
    lay_out()
    world = namespace()

    def step(*_):
        raise AssertionError("a step is made")

    stage.advance, report.Solid.write, memory.free = step, lambda *_: ({}, ""), lambda device: 4 * 10**9
    found = {case.name: outcome(lambda: attempt(case, world)) for case in SHELL}  # noqa: B023
    memory.announce = lambda *_, **__: None  # it has been tried
    found |= {case.name: outcome(lambda: attempt(case, world)) for case in [*CASES, *FINE] if case not in SHELL}  # noqa: B023
    results.write_text(json.dumps(found))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict]:
    if not hasattr(signal, "SIGALRM"):
        pytest.skip("no alarm stops a case that hangs")
    folder = tmp_path_factory.mktemp("cases")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    subprocess.run([sys.executable, __file__, folder, results := folder / "results.json"], check=True, env=environment,
    capture_output=True)
    return json.loads(results.read_text())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_one_line_that_says_what_is_wrong_and_what_to_do(case, results):
    end, said = results[case.name]["end"], results[case.name]["said"]
    assert end in (1, 2, "ValueError", "FileNotFoundError", "OSError"), said
    assert said and "\n" not in said and "\r" not in said and "Traceback" not in said
    assert case.shows in said and MEND.search(said), said


@pytest.mark.parametrize("case", FINE, ids=[case.name for case in FINE])
def test_what_is_right_is_not_refused(case, results):
    assert results[case.name]["end"] in (0, "nothing") or results[case.name]["said"] == "a step is made", results[case.name]


def test_there_are_many_and_each_has_a_name_of_its_own():
    assert len({case.name for case in [*CASES, *FINE]}) == len(CASES) + len(FINE) > 2000


if __name__ == "__main__":
    try_all(*map(Path, sys.argv[1:]))
