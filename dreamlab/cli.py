"""The command line: ``dreamlab dream``, ``export``, ``methods``, ``sweep``, ``toybox train``. Each is a call of the library."""
import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PICTURED = ("geodream", "one-2-3-45")  # methods that can begin with a picture


class Parser(argparse.ArgumentParser):
    """One whose errors are one line."""

    def error(self, message: str):
        self.exit(2, f"dreamlab: {' '.join(message.split())}: see `{self.prog} --help`\n")


def place(text: str) -> Path:
    """A file or folder."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"a file or folder has a name, got {text!r}: give it")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="dreamlab", description="Text to 3D by score distillation.")
    verbs = top.add_subparsers(dest="verb", required=True)
    dream = verbs.add_parser("dream", help="turn a prompt into 3D, or into pictures")
    dream.add_argument("prompt", help='such as "a red mug"')
    dream.add_argument("--method", help="how; `dreamlab methods` lists them (default: dreammapping)")
    dream.add_argument("--tier", help="toy or paper: the method's numbers for the toybox on a laptop, or the published ones "
                                      "(default: toy under a prior of the toybox, else paper, which needs a CUDA GPU)")
    dream.add_argument("--until", metavar="PART", help="the last part to run (default: all)")
    dream.add_argument("--set", metavar="[PART.]FIELD=VALUE", action="append", default=[], dest="changes",
                       help="any setting, such as rule.guidance=4 or start.points=1000; `dreamlab methods NAME` shows them all")
    dream.add_argument("--out", type=place, default=Path("runs"), help="where the run's folder is made (default: runs)")
    dream.add_argument("--seed", default="0", help="a whole number (default: 0)")
    short = dream.add_argument_group("short for", "the usual settings of a method with one part")
    short.add_argument("--scene", metavar="START", help="--set start=START, such as ball; or by scene gaussians, nerf, picture")
    short.add_argument("--rule", help="--set rule=RULE, such as VSD")
    short.add_argument("--guidance", metavar="S", help="--set rule.guidance=S: null + S (prompt - null), so 1 means none")
    short.add_argument("--steps", help="--set steps=STEPS")
    short.add_argument("--mesh", metavar="FILE", help="--method texture-mesh --set start.file=FILE, a .glb, .obj, .ply or .stl")
    short.add_argument("--image", metavar="FILE", help="--method geodream --set neus.start.image=FILE: a photo of the object "
                                                       "before a plain background, or cut out, as a PNG with transparency")
    short.add_argument("--prior", help="--set prior=PRIOR for all parts: toybox, sd-2.1-base, a diffusers folder, or a hub id")
    methods = verbs.add_parser("methods", help="list the methods, or all settings of one")
    methods.add_argument("name", nargs="?")
    export = verbs.add_parser("export", help="write what a run has made for other programs (without options: what suits it)")
    export.add_argument("run", type=place, help="a run's folder, the folder of one of its parts, or a scene.safetensors")
    for kind, what in (("glb", "a mesh with a texture, for Blender, three.js and game engines"), ("obj", "the same as text"),
                       ("stl", "a closed mesh for a printer, 50 mm for a unit"), ("ply", "Gaussians, for 3DGS viewers"),
                       ("page", "model.html, to turn it in a browser")):
        export.add_argument(f"--{kind}", action="append_const", dest="kinds", const=kind, help=what)
    sweep = verbs.add_parser("sweep", help="run prompts x methods x seeds from a table; run again to go on")
    sweep.add_argument("table", type=place, help="TOML; see dreamlab/sweep.py")
    sweep.add_argument("--out", type=place, required=True, help="CSV with one row a run")
    sweep.add_argument("--scheduler", metavar="ADDRESS", help="of Dask, such as tcp://host:8786, to use other machines")
    toybox = verbs.add_parser("toybox", help="make the bundled weights again")
    what = toybox.add_subparsers(dest="what", required=True)
    train = what.add_parser("train", help="train one bundled part from nothing; run again to resume")
    train.add_argument("name", choices=["vae", "prior", "points", "judge", "normals", "refiner", "multiview", "zero123",
                                         "reconstruction"])
    train.add_argument("--out", type=place, default=Path("runs/toybox"))
    train.add_argument("--steps", help="training steps (default: those of the bundled weights)")
    return top


def dream(args: argparse.Namespace) -> None:
    """Run the method that was asked for, at the size that suits its prior. ValueError for a setting that does not belong."""
    from dreamlab.checks import shown
    from dreamlab.methods import method
    from dreamlab.pipeline import made_by
    from dreamlab.priors.diffusion import card_of
    from dreamlab.runs import dream
    from dreamlab.settings import CHOICES, assignment

    pictures = args.scene == "picture"
    named = {"--scene picture": "text2image" if pictures else None, f"--method {args.method}": args.method,
             f"--mesh {args.mesh}": None if args.mesh is None else "texture-mesh",
             f"--image {args.image}": None if args.image is None or args.method in PICTURED else "geodream"}
    named = {option: name for option, name in named.items() if name is not None}
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} each say which method runs: leave one out")
    chosen = method(next(iter(named.values()), "dreammapping"))
    small = args.prior is None or card_of(args.prior).world
    tier = ("toy" if small else "paper") if args.tier is None else args.tier
    makers = {made_by(start).__name__.lower(): name for name, start in reversed(CHOICES["start"].items())}  # gaussians: points
    short = {"start": None if pictures else makers.get(args.scene, args.scene), "rule": args.rule,
             "rule.guidance": args.guidance, "steps": args.steps}
    given = [assignment(f"{path}={value}") for path, value in short.items() if value is not None]
    given += [("start.file", args.mesh)] if args.mesh is not None else []
    first = next(iter(chosen.parts(tier)))
    given += [(f"{first}.start.image", args.image)] if args.image is not None else []
    given += [(f"{part}.prior", args.prior) for part in chosen.parts(tier) if args.prior is not None]
    changes = {}
    for path, value in [*given, *map(assignment, args.changes)]:
        if path in changes:
            raise ValueError(f"{path} is set twice, to {shown(changes[path])} and {shown(value)}: leave one out")
        changes[path] = value
    changes = dict(sorted(changes.items(), key=lambda pair: pair[0].count(".")))  # an object before its options
    dream(chosen.ask(args.prompt, tier, assignment(f"seed={args.seed}")[1], changes), args.out, args.until)


def methods(name: str | None) -> None:
    """A line for each method, or for each setting of one, at both sizes."""
    from dreamlab.methods import METHODS, method
    from dreamlab.settings import describe, flat

    if name is None:
        for chosen in METHODS.values():
            print(f"{chosen.name:22s}{' > '.join(chosen.toy):38s}{chosen.about}")
        return
    chosen = method(name)
    print(f"{chosen.about}\n{'--set':40s}{'toy':36s}paper")
    for part in chosen.toy:
        toy, paper = (flat(describe(parts[part])) for parts in (chosen.toy, chosen.paper))
        groups = dict.fromkeys(path.split(".")[0] for path in describe(chosen.toy[part]) if path != "is")
        for path in (path for group in groups for path in dict.fromkeys([*toy, *paper]) if path.split(".")[0] == group):
            values = [str(x.get(path, "")).replace("None", "none")[:60] for x in (toy, paper)]
            print(f"{f'{part}.' * (len(chosen.toy) > 1) + path.removesuffix('.is'):40s}{values[0][:35]:36s}{values[1]}")


@contextmanager
def unbreakable() -> Iterator[None]:
    """Inside, a closed or broken output loses what is printed to it, and stops nothing."""
    class Quiet:
        def __init__(self, stream):
            self.stream = stream

        def write(self, text: str) -> int:
            try:
                self.stream.write(text)
                self.stream.flush()
            except (OSError, ValueError):
                self.stream = open(os.devnull, "w")
            return len(text)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Quiet(stream or open(os.devnull, "w")) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in filter(None, before):
            try:
                stream.flush()
            except (OSError, ValueError):  # nothing is left for Python's own flush at the end to fail on
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Exits with 2 after bad input or missing weights, 1 where a file could not be written, a checkpoint not be
    read, no memory is left or a run of a sweep failed, and 130 after Ctrl-C, each with one line that says so; what was reached
    is kept."""
    with unbreakable():
        return carry_out(parser().parse_args(arguments))


def carry_out(args: argparse.Namespace) -> int:
    try:
        if args.verb == "toybox":
            from dreamlab.settings import assignment
            from dreamlab.toybox.training import main as train

            train(args.name, args.out, **{} if args.steps is None else dict([assignment(f"steps={args.steps}")]))
        elif args.verb == "sweep":
            from dreamlab.sweep import sweep

            return 1 if any("error" in row for row in sweep(args.table, args.out, args.scheduler)) else 0
        elif args.verb == "methods":
            methods(args.name)
        elif args.verb == "export":
            from dreamlab.runs import export, say

            for file, what in export(args.run, args.kinds or ()).items():
                say(f"  {file}  ({what})")
        else:
            dream(args)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"dreamlab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"dreamlab: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        from dreamlab.memory import refused

        if not refused(error):
            raise
        print(f"dreamlab: {refused(error)} Whatever steps were made are saved; free memory and give the same command again, or "
              "take fewer points, pictures, views or pixels (--set)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndreamlab: stopped; what was reached is saved, and the same command goes on from it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
