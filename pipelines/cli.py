"""The command ``intermoe``: one verb for each arrow of the pipeline."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from intermoe.errors import UserError

# What a verb needs is imported when it runs: `--help` answers at once.

# The packages of the extra `pipelines`, which `import intermoe` does without.
_PIPELINES_EXTRA = ("mlflow", "psutil", "ray", "rich", "scipy", "tabulate")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Tell the mistake in one line."""
        raise UserError(message, where=self.prog, allowed=f"see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser(prog="intermoe", description="Text to two-person motion: train, generate and look inside.")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=_Parser)

    verb = verbs.add_parser("demo", help="the whole pipeline on the embedded data set, small, on this machine")
    verb.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything it makes (default: demo)")
    verb.set_defaults(run=_demo)

    verb = verbs.add_parser("preprocess", help="raw recordings to shards")
    verb.add_argument("format", choices=("duet", "interhuman", "bvh"), help="what the recordings are")
    verb.add_argument("--root", type=Path, help="folder of the recordings (duet: where to write them; may be left out)")
    verb.add_argument("--out", type=Path, required=True, help="folder of the shards, made by this command")
    verb.add_argument("--encoder", choices=("minilm", "clip"), default="minilm", help="text encoder (default: minilm)")
    verb.add_argument("--text-folder", type=Path, help="clip: folder of the weights, if not in the hub's cache")
    verb.add_argument(
        "--mapping", default="cmu", help="bvh: a shipped mapping of joints, or a YAML file (default: cmu)"
    )
    verb.add_argument("--scale", type=float, default=1.0, help="bvh: what makes metres of the file's unit (default: 1)")
    verb.add_argument("--count", type=int, default=600, help="duet: number of interactions (default: 600)")
    verb.add_argument("--seed", type=int, default=0, help="duet: seed (default: 0)")
    verb.set_defaults(run=_preprocess)

    verb = verbs.add_parser("import", help="weights that others have published, into our checkpoint folders")
    verb.add_argument("source", choices=("published",), help="InterMoE's released files, or InterGen's evaluator")
    _add_config(verb, default="interhuman")
    verb.add_argument("--denoiser", type=Path, help="Lightning checkpoint of the denoiser")
    verb.add_argument("--vae", type=Path, help="Lightning checkpoint of the VAE")
    verb.add_argument("--stats", type=Path, help="folder of mean.npy and std.npy (or global_mean.npy, global_std.npy)")
    verb.add_argument("--evaluator", type=Path, help="Lightning checkpoint of InterCLIP, instead of the other three")
    verb.add_argument("--out", type=Path, required=True, help="the checkpoint, made by this command")
    verb.set_defaults(run=_import)

    verb = verbs.add_parser("train", help="shards to a trained network")
    verb.add_argument("target", choices=("vae", "evaluator", "denoiser"), help="what to train")
    _add_config(verb)
    verb.add_argument("--data", type=Path, required=True, help="folder of shards")
    verb.add_argument("--vae", type=Path, help="denoiser: the run of the VAE whose latents it learns")
    verb.add_argument("--text-folder", type=Path, help="evaluator: folder of CLIP's weights, if not in the hub's cache")
    verb.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME/TARGET)")
    verb.add_argument("--resume", action="store_true", help="go on with the run in --out")
    verb.set_defaults(run=_train)

    verb = verbs.add_parser("generate", help="prompts to motion: npz, BVH, video and key frames")
    verb.add_argument("prompts", nargs="+", metavar="PROMPT", help="what the two people do")
    verb.add_argument("--model", required=True, help="run or checkpoint of a denoiser, or the id of its MLflow run")
    verb.add_argument("--out", type=Path, required=True, help="folder of the files")
    verb.add_argument("--seconds", type=float, default=4.0, help="length (default: 4)")
    verb.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    verb.add_argument("--guidance", type=float, help="scale of classifier-free guidance (default: the model's)")
    verb.add_argument("--text-folder", type=Path, help="folder of CLIP's weights, if not in the hub's cache")
    verb.add_argument("--routing-map", action="store_true", help="also draw which experts worked on which moment")
    verb.set_defaults(run=_generate)

    verb = verbs.add_parser("evaluate", help="a table of what a model is worth, with intervals")
    verb.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as evaluation.replications=5")
    verb.add_argument("--model", required=True, help="run or checkpoint of a denoiser, or the id of its MLflow run")
    verb.add_argument("--data", type=Path, help="folder of shards (default: what the model was trained on)")
    verb.add_argument("--evaluator", help="run or checkpoint of an evaluator (default: runs/NAME/evaluator)")
    verb.add_argument("--out", type=Path, required=True, help="folder of the results")
    verb.add_argument("--split", choices=("test", "val", "train"), default="test", help="recordings (default: test)")
    verb.add_argument("--no-untrained", action="store_true", help="leave out the row of the untrained model")
    verb.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default: 0)")
    verb.add_argument("--guidance", type=float, help="scale of classifier-free guidance (default: the model's)")
    verb.add_argument("--text-folder", type=Path, help="folder of CLIP's tokenizer, if not in the hub's cache")
    verb.set_defaults(run=_evaluate)

    verb = verbs.add_parser("sweep", help="many trainings and evaluations from one file")
    verb.add_argument("file", type=Path, help="a sweep file, such as sweeps/ablations.yaml")
    verb.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="profile=NAME, or settings of all points"
    )
    verb.add_argument("--out", type=Path, help="folder of the sweep (default: runs/NAME-PROFILE)")
    verb.add_argument("--resume", action="store_true", help="do what is missing of the sweep in --out")
    verb.add_argument("--dry-run", action="store_true", help="only look the file through and list its trials")
    verb.set_defaults(run=_sweep)

    verb = verbs.add_parser("report", help="the tables and plots of a sweep")
    verb.add_argument("sweep", type=Path, metavar="SWEEP", help="folder of a sweep")
    verb.add_argument("--out", type=Path, help="folder of the report (default: SWEEP/report, replaced)")
    verb.set_defaults(run=_report)

    verb = verbs.add_parser("describe", help="parameters, sizes and cost of a configuration")
    _add_config(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_describe)

    verb = verbs.add_parser("bench", help="time and memory of the MoE block against its dense equals")
    verb.add_argument("part", choices=("moe",), help="what to measure")
    _add_config(verb, default="interhuman")
    verb.add_argument("--samples", type=_count, default=64, help="motions of two persons in the batch (default: 64)")
    verb.add_argument("--repeats", type=_count, default=7, help="timed passes of each form (default: 7)")
    verb.add_argument("--threads", type=_count, default=1, help="CPU threads (default: 1)")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_bench)

    verb = verbs.add_parser("ui", help="MLflow's pages, on this machine alone")
    verb.add_argument("--port", type=_port, default=5000, help="port (default: 5000)")
    verb.set_defaults(run=_ui)
    return top


def _add_config(verb: argparse.ArgumentParser, default: str | None = None) -> None:
    note = f" (default: {default})" if default else ""
    verb.add_argument(
        "--config",
        required=default is None,
        default=default,
        metavar="PRESET|FILE",
        help=f"name of a preset, or a YAML file{note}",
    )
    # Without a default of its own, argparse would count it among what is required.
    verb.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings on top, such as moe.experts=4"
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not a count, 1 or more")
    return count


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 2**16:
        raise argparse.ArgumentTypeError(f"{port} is not a port, 1 to 65535")
    return port


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command; prompts and ``key=value`` may stand before, between and after the options.

    Example:
        >>> parse(["train", "vae", "--config", "duet", "--data", "d", "seed=1"]).overrides
        ['seed=1']
    """
    grammar = parser()
    options, rest = grammar.parse_known_args(arguments)
    # argparse ends a list of words at the first option; what follows later belongs to it too.
    many = next((words for words in ("overrides", "prompts") if hasattr(options, words)), None)
    if rest and (many is None or any(word.startswith("-") for word in rest)):
        verb = f"{grammar.prog} {options.verb}"
        raise UserError(f"unknown: {' '.join(rest)}", where=verb, allowed=f"see `{verb} --help`")
    if many:
        setattr(options, many, [*getattr(options, many), *rest])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 for a mistake of the user, 130 for Ctrl-C."""
    try:
        options = parse(arguments)
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PIPELINES_EXTRA:
            raise
        print(f"error: this command needs {package}: pip install 'intermoe[pipelines]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}" if str(error) else "interrupted", file=sys.stderr)
        return 130
    return 0


def _demo(options: argparse.Namespace) -> None:
    from pipelines.demo import demo

    demo(options.out)


def _preprocess(options: argparse.Namespace) -> None:
    from pipelines.cluster.progress import Stages
    from pipelines.cluster.session import ray_session
    from pipelines.preprocess.preprocess import preprocess
    from pipelines.preprocess.request import PreprocessRequest
    from pipelines.preprocess.sources import SourceConfig
    from pipelines.site import Site

    source = SourceConfig.parse({name: getattr(options, name) for name in SourceConfig.model_fields})
    name, site = options.out.resolve().name, Site.here(options.text_folder)
    # Mistakes are reported before Ray is started, which takes a while.
    request = PreprocessRequest(name, source, options.encoder, options.out, site).checked()
    with ray_session(), Stages() as stages:
        card = preprocess(request, stages)
    counts = ", ".join(f"{count} {split}" for split, count in card.recordings.items())
    print(f"{options.out}: {counts}; {card.frames} frames, {card.captions} captions")
    if card.quarantined:
        print(f"set aside: {card.quarantined}, each with its reason in {options.out / 'quarantine.jsonl'}")


def _import(options: argparse.Namespace) -> None:
    from pipelines import settings
    from pipelines.import_published import import_evaluator, import_generator

    # What the published network does that the paper does not; the user's own words come after.
    overrides = {"moe.timestep_in_router": True, **settings.parse_overrides(options.overrides)}
    values = settings.load(options.config, overrides)
    generator = {"--denoiser": options.denoiser, "--vae": options.vae, "--stats": options.stats}
    given = [name for name, path in generator.items() if path]
    if options.evaluator:
        if given:
            raise UserError(f"{given[0]} beside --evaluator", allowed="one checkpoint per command")
        import_evaluator(values, file=options.evaluator, out=options.out)
    elif len(given) < len(generator):
        missing = next(name for name in generator if name not in given)
        raise UserError(f"{missing} is not given", allowed="--denoiser, --vae and --stats, or --evaluator")
    else:
        import_generator(values, denoiser=options.denoiser, vae=options.vae, stats=options.stats, out=options.out)
    print(f"{options.out} holds the imported checkpoint")


def _train(options: argparse.Namespace) -> None:
    from pipelines import settings
    from pipelines.cluster.session import ray_session
    from pipelines.site import Site
    from pipelines.train.request import TrainRequest
    from pipelines.train.train import train

    values = settings.load(options.config, settings.parse_overrides(options.overrides))
    out = options.out or Path("runs") / values.name / options.target
    # Mistakes are reported before Ray is started, which takes a while.
    job = TrainRequest(
        options.target,
        values,
        dataset=options.data,
        out=out,
        site=Site.here(options.text_folder),
        vae=options.vae,
        resume=options.resume,
    ).checked()
    with ray_session(values.workers):
        run = train(job)
    print(f"{out / 'best'} holds the model; its MLflow run is {run} (`intermoe ui` shows it)")


def _generate(options: argparse.Namespace) -> None:
    from intermoe.model import InterMoE
    from pipelines.cluster.progress import Stages
    from pipelines.generate import generate
    from pipelines.site import Site
    from pipelines.tracking.queries import model_folder

    site = Site.here(options.text_folder)
    model = InterMoE.load(model_folder(options.model, site.tracking_uri), text_folder=site.text_folder)
    with Stages() as stages:
        files = generate(
            model,
            options.prompts,
            seconds=options.seconds,
            seed=options.seed,
            guidance=options.guidance,
            out=options.out,
            progress=stages,
            routing_map=options.routing_map,
        )
    for file in files:
        print(file)


def _evaluate(options: argparse.Namespace) -> None:
    from rich.console import Console

    from intermoe.evaluation.protocol import ROWS
    from pipelines.cluster.progress import Stages
    from pipelines.cluster.session import ray_session
    from pipelines.evaluate.evaluate import evaluate
    from pipelines.evaluate.request import EvaluateRequest
    from pipelines.evaluate.results import terminal_table
    from pipelines.settings import parse_overrides
    from pipelines.site import Site

    plan = EvaluateRequest(
        options.model,
        out=options.out,
        site=Site.here(options.text_folder),
        dataset=options.data,
        evaluator=options.evaluator,
        overrides=parse_overrides(options.overrides),
        split=options.split,
        rows=tuple(row for row in ROWS if not (row == "untrained" and options.no_untrained)),
        seed=options.seed,
        guidance=options.guidance,
    ).checked()
    with ray_session(plan.settings.workers), Stages() as stages:
        results = evaluate(plan, progress=stages)
    Console().print(terminal_table(results))
    print(f"{options.out / 'results.html'} has it with a plot; its MLflow run is {results.about['run']}")


def _sweep(options: argparse.Namespace) -> None:
    from rich.console import Console

    from pipelines.cluster.session import ray_session
    from pipelines.report.report import report
    from pipelines.settings import parse_overrides
    from pipelines.site import Site
    from pipelines.sweep.file import load as load_sweep
    from pipelines.sweep.request import SweepRequest, sweep_note
    from pipelines.sweep.sweep import plan_table, sweep

    plan = load_sweep(options.file, parse_overrides(options.overrides))
    out = options.out or Path("runs") / f"{plan.config.name}-{plan.config.profile}"
    if options.resume and not plan.overrides and (noted := sweep_note(out).get("overrides")):
        plan = load_sweep(options.file, noted)
    request = SweepRequest(plan, out, Site.here(), resume=options.resume)
    if not options.dry_run:
        request = request.checked()
    Console().print(plan_table(plan))
    if options.dry_run:
        return
    workers = max((trial.settings.workers for trial in plan.trials), key=lambda w: w.count * w.cpus)
    with ray_session(workers, jobs=plan.profile.concurrent):
        failed = sweep(request)
    if len(failed) < len(plan.trials):
        print(f"{report(out, out / 'report')[0]} has the tables and plots")
    if failed:
        raise UserError(f"{len(failed)} trials failed: {', '.join(failed)}", where=out, allowed="--resume tries again")


def _report(options: argparse.Namespace) -> None:
    from pipelines.report.report import report

    for file in report(options.sweep, options.out or options.sweep / "report"):
        print(file)


def _describe(options: argparse.Namespace) -> None:
    from pipelines import settings
    from pipelines.describe import as_lines, describe

    found = describe(settings.load(options.config, settings.parse_overrides(options.overrides)))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in as_lines(found):
            print(f"{name:34} {value:>20}")


def _bench(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from pipelines import settings
    from pipelines.bench import as_table, bench_moe, device_name, token_count
    from pipelines.cluster.progress import Stages

    values = settings.load(options.config, settings.parse_overrides(options.overrides))
    with Stages() as stages:
        found = bench_moe(
            values, samples=options.samples, repeats=options.repeats, threads=options.threads, progress=stages
        )
    where = {"tokens": token_count(values, options.samples), "device": device_name(options.threads)}
    if options.json:
        print(json.dumps(where | {name: asdict(one) for name, one in found.items()}, indent=2))
        return
    head, *rows = as_table(found, values)
    table = Table(*head, title=f"Forward + backward of {where['tokens']} tokens on {where['device']}")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _ui(options: argparse.Namespace) -> None:
    from pipelines.tracking.ui import ui

    ui(port=options.port)


if __name__ == "__main__":
    sys.exit(main())
