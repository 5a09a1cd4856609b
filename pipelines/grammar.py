"""The grammar of the command line: its verbs and their options. What a verb does is in cli.py."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from intermoe.errors import UserError
from intermoe.places import as_place

_PERSONS = ("first", "second")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise the mistake as a ``UserError``: one line."""
        raise UserError(message, where=self.prog, allowed=f"see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser(
        prog="intermoe",
        description="Turn text into motion of two people or of one: preprocess, train, evaluate, generate, sweep.",
    )
    top.add_argument("--version", action="version", version=f"intermoe {_version()}")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=_Parser)

    verb = verbs.add_parser("demo", help="run the whole pipeline on the embedded data set, small, on this machine")
    verb.add_argument("--out", type=Path, default=Path("demo"), help="output folder (default: demo)")

    verb = verbs.add_parser("preprocess", help="convert raw recordings to shards")
    formats = ("duet", "interhuman", "interx", "bvh", "solo", "humanml3d")
    verb.add_argument("format", choices=formats, help="what the recordings are; solo and humanml3d show one person")
    verb.add_argument(
        "--root", type=as_place, help="folder of the recordings (duet, solo: where to write them, optional)"
    )
    verb.add_argument("--out", type=as_place, required=True, help="folder of the shards, made by this command")
    verb.add_argument("--encoder", choices=("minilm", "clip"), default="minilm", help="text encoder (default: minilm)")
    verb.add_argument("--text-folder", type=Path, help="clip: folder of the weights, if not in the hub's cache")
    verb.add_argument(
        "--statistics-of",
        type=as_place,
        metavar="DATASET",
        help="shards whose mean and standard deviation to take over, for recordings without a training split",
    )
    verb.add_argument(
        "--mapping", default="cmu", help="bvh: a shipped mapping of joints, or a YAML file (default: cmu)"
    )
    verb.add_argument(
        "--scale", type=_number, default=1.0, help="bvh: what makes metres of the file's unit (default: 1)"
    )
    verb.add_argument(
        "--fps", type=_number, help="bvh: frames per second, where the files state a wrong rate (5 to 1000)"
    )
    verb.add_argument(
        "--body-model", type=as_place, metavar="FILE", help="interx: SMPLX_NEUTRAL.npz (default: an average adult)"
    )
    verb.add_argument(
        "--follow-links", action="store_true", help="read what links in --root lead to outside of it (default: do not)"
    )
    verb.add_argument("--count", type=_integer, default=600, help="duet, solo: number of motions (default: 600)")
    verb.add_argument("--seed", type=_integer, default=0, help="duet, solo: seed (default: 0)")
    verb.add_argument(
        "--layout",
        choices=("interhuman", "interx"),
        default="interhuman",
        help="duet: whose files to write and read, 22 joints or Inter-X's 55 (default: interhuman)",
    )

    verb = verbs.add_parser("import", help="convert published weights to checkpoint folders")
    verb.add_argument("source", choices=("published",), help="released files of InterMoE, or of an evaluator")
    _add_config(verb, default="interhuman")
    verb.add_argument("--denoiser", type=Path, help="Lightning checkpoint of the denoiser")
    verb.add_argument("--vae", type=Path, help="Lightning checkpoint of the VAE")
    verb.add_argument("--stats", type=Path, help="folder of mean.npy and std.npy (or global_mean.npy, global_std.npy)")
    verb.add_argument(
        "--evaluator", type=Path, help="InterCLIP's Lightning checkpoint, or T2M's finest.tar (with --stats)"
    )
    verb.add_argument("--word-vectors", type=Path, help="T2M's evaluator: folder of our_vab_data.npy and its words")
    verb.add_argument("--out", type=as_place, required=True, help="output folder: the checkpoint")

    verb = verbs.add_parser("train", help="train a network on shards")
    verb.add_argument("target", choices=("vae", "evaluator", "denoiser"), help="network to train")
    _add_config(verb)
    verb.add_argument("--data", type=as_place, required=True, help="folder of shards")
    verb.add_argument("--vae", type=as_place, help="denoiser: run of the VAE whose latents it learns")
    verb.add_argument("--text-folder", type=Path, help="evaluator: folder of CLIP's weights, if not in the hub's cache")
    verb.add_argument("--word-vectors", type=Path, help="T2M's evaluator: folder of our_vab_data.npy and its words")
    verb.add_argument("--out", type=as_place, help="output folder: the run (default: runs/NAME/TARGET)")
    verb.add_argument("--resume", action="store_true", help="continue the run in --out")

    verb = verbs.add_parser("generate", help="prompts to motion: npz, BVH, GLB, video and key frames")
    verb.add_argument("prompts", nargs="+", metavar="PROMPT", help="what the person or the two people do")
    verb.add_argument(
        "--model",
        required=True,
        help="run or checkpoint of a denoiser, the id of its MLflow run, or models:/NAME@ALIAS",
    )
    verb.add_argument("--out", type=as_place, required=True, help="folder of the files")
    verb.add_argument("--seconds", type=_number, help="length (default: 4, or that of the given person)")
    verb.add_argument("--seed", type=_integer, default=0, help="seed of the noise (default: 0)")
    verb.add_argument("--guidance", type=_number, help="scale of classifier-free guidance (default: the model's)")
    verb.add_argument("--sampler", choices=("ddim", "dpm++", "ancestral"), help="how to sample (default: the model's)")
    verb.add_argument("--steps", type=_count, help="passes of the denoiser (default: the model's)")
    verb.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        help="of products (default: the model's); auto is bf16 on a GPU that has it",
    )
    verb.add_argument("--text-folder", type=Path, help="folder of CLIP's weights, if not in the hub's cache")
    verb.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: auto, a GPU if there is one)")
    verb.add_argument("--routing-map", action="store_true", help="also draw which experts worked on which moment")
    verb.add_argument("--clips", action="store_true", help="also write all motions as the clips of one GLB, clips.glb")
    verb.add_argument("--amass", action="store_true", help="also write each person in AMASS's form, for SMPL-X tools")
    verb.add_argument("--page", action="store_true", help="also write page.html, which shows the motions in 3D")
    verb.add_argument(
        "--in-a-row", action="store_true", help="one motion in which the prompts follow each other, --seconds each"
    )
    verb.add_argument("--after", type=as_place, metavar="FILE", help="go on from the end of this motion (npz)")
    verb.add_argument(
        "--given", type=as_place, metavar="FILE", help="generate the other person to this one (bvh, or npz of a motion)"
    )
    verb.add_argument("--given-person", choices=_PERSONS, help="npz: which of its two persons (default: first)")
    verb.add_argument(
        "--given-as",
        choices=_PERSONS,
        help="which person of the prompt the given one is (default: as in the npz; of bvh the first)",
    )
    verb.add_argument("--mapping", help="bvh: a shipped mapping of joints, or a YAML file (default: smpl)")
    verb.add_argument("--scale", type=_number, help="bvh: what makes metres of the file's unit (default: 1)")
    verb.add_argument("--fps", type=_number, help="bvh: frames per second, where the file states a wrong rate")

    verb = verbs.add_parser("figure", help="motions of several models side by side, as papers show them")
    verb.add_argument("prompts", nargs="+", metavar="PROMPT", help="what the person or the two people do; one row each")
    verb.add_argument(
        "--model",
        action="append",
        required=True,
        dest="models",
        metavar="MODEL",
        help="as for generate; one column each time it is given",
    )
    verb.add_argument("--headings", nargs="+", metavar="HEADING", help="of the columns (default: the models' names)")
    verb.add_argument("--out", type=as_place, required=True, help="output file (.png)")
    verb.add_argument("--frames", type=_count, default=4, help="key frames of a motion (default: 4)")
    verb.add_argument("--seconds", type=_number, default=4.0, help="length (default: 4)")
    verb.add_argument("--seed", type=_integer, default=0, help="seed of the noise (default: 0)")
    verb.add_argument("--guidance", type=_number, help="scale of classifier-free guidance (default: the models')")
    verb.add_argument("--text-folder", type=Path, help="folder of CLIP's weights, if not in the hub's cache")
    verb.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: auto, a GPU if there is one)")

    verb = verbs.add_parser("evaluate", help="evaluate a model: metrics with 95%% intervals")
    verb.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="overrides of settings, such as evaluation.replications=5 or diffusion.sampler=dpm++",
    )
    verb.add_argument("--model", help="run or checkpoint of a denoiser, or the id of its MLflow run")
    verb.add_argument("--data", type=as_place, help="folder of shards (default: what the model was trained on)")
    verb.add_argument("--evaluator", help="run or checkpoint of an evaluator (default: runs/NAME/evaluator)")
    verb.add_argument("--out", type=as_place, help="output folder: the results (optional with --check-recorded)")
    verb.add_argument(
        "--check-recorded",
        action="store_true",
        help="measure recorded motion alone and compare it with what --evaluator is known to give; without --model",
    )
    verb.add_argument("--split", choices=("test", "val", "train"), default="test", help="recordings (default: test)")
    verb.add_argument("--no-untrained", action="store_true", help="omit the row of the untrained model")
    verb.add_argument("--seed", type=_integer, default=0, help="seed of everything random (default: 0)")
    verb.add_argument("--guidance", type=_number, help="scale of classifier-free guidance (default: the model's)")
    verb.add_argument("--text-folder", type=Path, help="folder of CLIP's tokenizer, if not in the hub's cache")

    verb = verbs.add_parser("sweep", help="train and evaluate every point of a sweep file")
    verb.add_argument("file", type=Path, help="a sweep file, such as sweeps/ablations.yaml")
    verb.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="profile=NAME, or overrides of settings of all points",
    )
    verb.add_argument("--out", type=as_place, help="output folder: the sweep (default: runs/NAME-PROFILE)")
    verb.add_argument("--resume", action="store_true", help="do what the sweep in --out lacks")
    verb.add_argument("--dry-run", action="store_true", help="validate the file and list its trials")

    verb = verbs.add_parser("report", help="write the tables and plots of a sweep")
    verb.add_argument("sweep", type=as_place, metavar="SWEEP", help="folder of a sweep")
    verb.add_argument("--out", type=as_place, help="output folder (default: SWEEP/report, replaced)")
    verb.add_argument(
        "--gallery", action="store_true", help="also write gallery.html: motions of every point in 3D, generated here"
    )

    verb = verbs.add_parser("verify", help="compare data sets, checkpoints, runs and sweeps with their checksums")
    verb.add_argument("folders", nargs="+", type=as_place, metavar="FOLDER", help="what to check, at any depth")

    verb = verbs.add_parser("describe", help="list parameters, sizes and cost of a configuration")
    _add_config(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")

    verb = verbs.add_parser(
        "bench", help="measure speed: the MoE block, a training step, the samplers, the feed, an evaluation"
    )
    verb.add_argument(
        "part",
        choices=("moe", "step", "sampling", "feed", "evaluate"),
        help="moe: the block against dense ones, time and memory; step: a training step of the denoiser in fp32 and "
        "bf16, with its parts; sampling: samplers and their steps, time and "
        "quality; feed: samples per second that a core prepares of --data; evaluate: the parts of an evaluation",
    )
    _add_config(verb, default="interhuman")
    verb.add_argument(
        "--samples",
        type=_count,
        help="motions of two persons in the batch (default: of moe 64, of feed those of the config, else 8)",
    )
    verb.add_argument(
        "--repeats", type=_count, help="timed passes of each form (default: 7; step: 5; sampling, evaluate: 3)"
    )
    verb.add_argument(
        "--model", help="sampling: run or checkpoint of a denoiser, or the id of its MLflow run, instead of --config"
    )
    verb.add_argument("--data", type=as_place, help="folder of shards: for the feed, or for the captions of --model")
    verb.add_argument("--evaluator", help="sampling: run or checkpoint of an evaluator, for the quality")
    verb.add_argument("--threads", type=_count, default=1, help="CPU threads (default: 1)")
    verb.add_argument("--json", action="store_true", help="print JSON")

    verb = verbs.add_parser(
        "submit",
        help="run a command as a job on a Ray cluster",
        usage="intermoe submit [-h] [--address URL] [--detach] -- COMMAND",
        description="Run COMMAND, any other command of intermoe, as a job on a Ray cluster, and show its log.",
    )
    _add_address(verb)
    verb.add_argument("--detach", action="store_true", help="return when the job is sent, without its log")

    verb = verbs.add_parser("jobs", help="list the jobs of a Ray cluster")
    _add_address(verb)

    verb = verbs.add_parser("logs", help="show the log of a job on a Ray cluster")
    verb.add_argument("id", metavar="ID", help="id of the job")
    verb.add_argument("--follow", action="store_true", help="until the job ends; exit with its exit code")
    _add_address(verb)

    verb = verbs.add_parser("stop", help="stop a job on a Ray cluster")
    verb.add_argument("id", metavar="ID", help="id of the job")
    _add_address(verb)

    verb = verbs.add_parser("register", help="add a trained denoiser to MLflow's model registry")
    verb.add_argument("run", metavar="RUN", help="run or checkpoint of a denoiser, or the id of its MLflow run")
    verb.add_argument("--alias", required=True, help="what the new version is called from now on, such as best")
    verb.add_argument("--name", help="name of the registered model (default: the name in the run's settings)")

    verb = verbs.add_parser("sync", help="deliver to MLflow what runs logged while it was away")
    verb.add_argument("folders", nargs="+", type=as_place, metavar="FOLDER", help="folder of a run, or of a sweep")

    verb = verbs.add_parser("ui", help="serve MLflow on loopback")
    verb.add_argument("--port", type=_port, default=5000, help="port (default: 5000)")
    return top


def _version() -> str:
    try:
        return version("intermoe")
    except PackageNotFoundError:  # a job runs the files that it was sent with, which nobody installed
        return "(not installed)"


def _add_address(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--address",
        metavar="URL",
        help="of the cluster's job server, such as http://HOST:8265 (default: RAY_API_SERVER_ADDRESS)",
    )


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
        "overrides", nargs="*", default=[], metavar="key=value", help="overrides of settings, such as moe.experts=4"
    )


# argparse would name these functions in its message: they raise what it shows as it is, never ``ValueError``.
def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _count(text: str) -> int:
    count = _integer(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not a count, 1 or more")
    return count


def _port(text: str) -> int:
    port = _integer(text)
    if not 0 < port < 2**16:
        raise argparse.ArgumentTypeError(f"{port} is not a port, 1 to 65535")
    return port


def _check_evaluate(options: argparse.Namespace) -> None:
    """Raise where an option is missing, or has nothing to do with recorded motion."""
    where = "intermoe evaluate" + (" --check-recorded" if options.check_recorded else "")
    if options.check_recorded:
        needed = {"--evaluator": options.evaluator, "--data": options.data}
        foreign = {"--model": options.model, "--guidance": options.guidance, "--no-untrained": options.no_untrained}
        for name, value in foreign.items():
            if value is not None and value is not False:
                raise UserError(f"{name} is nothing to recorded motion", where=where, allowed="leave it out")
    else:
        needed = {"--model": options.model, "--out": options.out}
    if missing := [name for name, value in needed.items() if value is None]:
        raise UserError(
            f"the following arguments are required: {', '.join(missing)}",
            where=where,
            allowed="see `intermoe evaluate --help`",
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command; prompts and ``key=value`` may stand before, between and after the options.

    Example:
        >>> parse(["train", "vae", "--config", "duet", "--data", "d", "seed=1"]).overrides
        ['seed=1']
        >>> parse(["submit", "--detach", "--", "describe", "--config", "duet"]).command
        ['describe', '--config', 'duet']
    """
    grammar = parser()
    words, command = list(sys.argv[1:] if arguments is None else arguments), []
    if words[:1] == ["submit"] and "--" in words:
        end = words.index("--")
        words, command = words[:end], words[end + 1 :]
    options, rest = grammar.parse_known_args(words)
    if options.verb == "evaluate":
        _check_evaluate(options)
    if options.verb == "submit":
        if rest or not command:
            raise UserError(
                f"unknown: {' '.join(rest)}" if rest else "the command is not given",
                where="intermoe submit",
                allowed="options, then -- and a command: intermoe submit -- train ...",
            )
        options.command = command
    # argparse ends a list of words at the first option; what follows later belongs to it too.
    many = next((words for words in ("overrides", "prompts") if hasattr(options, words)), None)
    if rest and (many is None or any(word.startswith("-") for word in rest)):
        verb = f"{grammar.prog} {options.verb}"
        raise UserError(f"unknown: {' '.join(rest)}", where=verb, allowed=f"see `{verb} --help`")
    if many:
        setattr(options, many, [*getattr(options, many), *rest])
    return options
