"""The command line: ``dreamlab dream PROMPT`` and ``dreamlab toybox train NAME``. Each verb is one call of the library."""
import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dreamlab", description="Text to 3D by score distillation.")
    verbs = top.add_subparsers(dest="verb", required=True)
    dream = verbs.add_parser("dream", help="turn a prompt into 3D Gaussians")
    dream.add_argument("prompt", help='such as "a red mug"')
    dream.add_argument("--out", type=Path, default=Path("runs"), help="where the run's folder is made (default: runs)")
    dream.add_argument("--seed", type=int, default=0)
    dream.add_argument("--steps", type=int, help="distillation steps (default: the settings')")
    dream.add_argument("--ball", action="store_true", help="start from a grey ball, without the points prior: shows Janus")
    toybox = verbs.add_parser("toybox", help="make the bundled weights again")
    what = toybox.add_subparsers(dest="what", required=True)
    train = what.add_parser("train", help="train one bundled part from nothing; run again to resume")
    train.add_argument("name", choices=["vae", "prior", "points", "judge"])
    train.add_argument("--out", type=Path, default=Path("runs/toybox"))
    train.add_argument("--steps", type=int, help="training steps (default: those of the bundled weights)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input prints its message and exits with 2, Ctrl-C keeps what there is and exits with 130."""
    args = parser().parse_args(arguments)
    steps = {} if args.steps is None else {"steps": args.steps}
    try:
        if args.verb == "toybox":
            from dreamlab.toybox import train

            train.main(args.name, args.out, **steps)
        else:
            from dreamlab.demo import dream
            from dreamlab.pipelines.dreammapping import Settings

            settings = Settings(args.prompt, seed=args.seed, ball=args.ball).toy(**steps)
            dream(settings, args.out)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"dreamlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndreamlab: stopped; what was reached is saved, and the same command goes on from it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
