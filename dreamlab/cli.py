"""The command line: ``dreamlab dream``, ``dreamlab sweep``, ``dreamlab toybox train``. Each verb is one call of the library."""
import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dreamlab", description="Text to 3D by score distillation.")
    verbs = top.add_subparsers(dest="verb", required=True)
    dream = verbs.add_parser("dream", help="turn a prompt into 3D Gaussians, or into pictures")
    dream.add_argument("prompt", help='such as "a red mug"')
    dream.add_argument("--scene", choices=["gaussians", "picture"], default="gaussians",
                       help="3D Gaussians (default), or pictures without any 3D")
    dream.add_argument("--out", type=Path, default=Path("runs"), help="where the run's folder is made (default: runs)")
    dream.add_argument("--seed", type=int, default=0)
    dream.add_argument("--steps", type=int, help="distillation steps (default: the settings')")
    dream.add_argument("--rule", help="a distillation rule, such as VSD (default: VDM; a wrong name lists them all)")
    dream.add_argument("--guidance", type=float, metavar="S", help="null + S (prompt - null), so 1 means none")
    dream.add_argument("--prior", help="toybox (default), sd-2.1-base, a folder of diffusers, or a hub id. "
                                       "gaussians: any but toybox is DreamMapping's full run, and needs a CUDA GPU")
    dream.add_argument("--points-prior", help="gaussians: shap-e (default with another prior), toybox, or a folder of either")
    dream.add_argument("--ball", action="store_true",
                       help="gaussians: start from a grey ball, without the points prior: shows Janus")
    dream.add_argument("--pixels", action="store_true",
                       help="picture: optimise pixels through the prior's encoder, not its latents")
    sweep = verbs.add_parser("sweep", help="run prompts x methods x seeds from a table; run again to go on")
    sweep.add_argument("table", type=Path, help="TOML; see dreamlab/sweep.py")
    sweep.add_argument("--out", type=Path, required=True, help="CSV with one row a run")
    sweep.add_argument("--scheduler", metavar="ADDRESS", help="of Dask, such as tcp://host:8786, to use other machines")
    toybox = verbs.add_parser("toybox", help="make the bundled weights again")
    what = toybox.add_subparsers(dest="what", required=True)
    train = what.add_parser("train", help="train one bundled part from nothing; run again to resume")
    train.add_argument("name", choices=["vae", "prior", "points", "judge"])
    train.add_argument("--out", type=Path, default=Path("runs/toybox"))
    train.add_argument("--steps", type=int, help="training steps (default: those of the bundled weights)")
    return top


def dream(args: argparse.Namespace, **steps: int) -> None:
    """The scene that was asked for, with toy settings if the prior is bundled, and the paper's otherwise.

    ValueError for an option of the other scene, and for guidance of a rule without any.
    """
    if (args.ball or args.points_prior) and args.scene == "picture":
        raise ValueError("--ball and --points-prior: only with --scene gaussians; pictures start from noise")
    if args.pixels and args.scene == "gaussians":
        raise ValueError("--pixels: only with --scene picture; Gaussians are always seen through the prior's encoder")
    names = ("rule", "guidance", "prior", "points_prior")
    given = {name: value for name in names if (value := getattr(args, name)) is not None} | steps

    from dreamlab import demo, rules

    if args.scene == "picture":
        settings, go = demo.picture.Settings(args.prompt, seed=args.seed, latent=not args.pixels, **given), demo.dream_picture
    else:
        settings, go = demo.Settings(args.prompt, seed=args.seed, ball=args.ball, **given), demo.dream
        if "prior" not in given or settings.prior in demo.BUNDLED:
            settings = settings.toy(**given)
    guided = [name for name in rules.RULES if hasattr(getattr(rules, name), "guidance")]
    if "guidance" in given and settings.rule not in guided:
        raise ValueError(f"--guidance: {settings.rule} has none to choose; there is one in {', '.join(guided)}")
    go(settings, args.out)


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Exits with 2 after bad input or missing weights, 1 where a file could not be written, a checkpoint not be
    read or a GPU has no room left, and 130 after Ctrl-C, each with one line that says so; what was reached is kept."""
    args = parser().parse_args(arguments)
    steps = {} if getattr(args, "steps", None) is None else {"steps": args.steps}
    try:
        if args.verb == "toybox":
            from dreamlab.toybox import train

            train.main(args.name, args.out, **steps)
        elif args.verb == "sweep":
            from dreamlab.sweep import sweep

            sweep(args.table, args.out, args.scheduler)
        else:
            dream(args, **steps)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"dreamlab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"dreamlab: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        from torch.cuda import OutOfMemoryError

        if not isinstance(error, OutOfMemoryError):
            raise
        print(f"dreamlab: {str(error).splitlines()[0]} Whatever steps were made are saved; free memory on the GPU and give the "
              "same command again, or take fewer points, pictures, views or pixels (Settings in Python, or a sweep's table)",
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndreamlab: stopped; what was reached is saved, and the same command goes on from it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
