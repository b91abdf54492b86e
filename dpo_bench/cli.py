"""The command line: parses, calls, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from dpo_bench.cache_commands import app as cache_app
from dpo_bench.errors import ConfigurationError
from dpo_bench.progress import Loudness
from dpo_bench.sweep.executors.base import ExecutorName

if TYPE_CHECKING:
    from dpo_bench.analysis.compare import Choices

app = typer.Typer(
    name="dpo-bench",
    help="Which preference loss, at which strength, on your model and your data?",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

UsageError: Any = typer.BadParameter.__base__
"""What the parser raises; typer exports only this subclass of it."""


app.add_typer(cache_app)


class Command(TyperCommand):
    """A command none of whose options is overruled in silence by a second one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option that is given twice and does not collect."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        options: list[Any] = list(given)
        for option in options:
            collects = option.param_type_name != "option" or option.multiple or option.is_flag
            if not collects and options.count(option) > 1:
                ctx.fail(f"{option.opts[0]} is given twice: only one of them can count.")
        return super().parse_args(ctx, args)


File = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="Experiment file, or the name of a shipped one."),
]
Policy = Annotated[
    str | None,
    typer.Option(help="Model to train: hub id, folder, .gguf, smollm2 or world:reviews."),
]
Reference = Annotated[str | None, typer.Option(help="Reference; default: where the policy starts.")]
Preferences = Annotated[
    str | None,
    typer.Option(help="Pairs: hub id, folder, .jsonl, .parquet, .csv or world:reviews."),
]
Reward = Annotated[
    str | None,
    typer.Option(
        help="vader, module:function, model:PATH (a reward model), sentiment:PATH (a classifier), "
        "judge:MODEL (a language model at an endpoint) or none."
    ),
]
Losses = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME,...", help="Losses, separated by commas; may be repeated."),
]
Beta = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NUMBER,...", help="Strengths for every loss, separated by commas; may be repeated."
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(metavar="NUMBER,...", help="Seeds, separated by commas; may be repeated."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key; may be repeated."),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default: runs/NAME.")]
Baseline = Annotated[
    str | None,
    typer.Option(metavar="LOSS", help="The loss that all others are compared with; default: dpo."),
]
SameWithin = Annotated[
    float | None,
    typer.Option(
        metavar="DIFFERENCE", help="Differences up to this size do not matter: losses may be same."
    ),
]
Plugins = Annotated[
    list[Path] | None, typer.Option(help="Folder with further losses; may be repeated.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say only warnings, failures and results.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more, a line at a time.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Say it as JSON lines, for programs.")]


@app.callback()
def root() -> None:
    """Exit codes: 0 all done, 1 some trials failed, 2 usage, 3 environment, 4 data, 5 locked."""


@app.command(cls=Command)
def sweep(
    *,
    file: File = None,
    policy: Policy = None,
    reference: Reference = None,
    preferences: Preferences = None,
    reward: Reward = None,
    losses: Losses = None,
    beta: Beta = None,
    seeds: Seeds = None,
    settings: Settings = None,
    out: Out = None,
    workers: Annotated[
        str,
        typer.Option(
            help="Worker processes, or auto: one per GPU, per core, or per two cores of a "
            "model of 50 MB or more."
        ),
    ] = "auto",
    executor: Annotated[
        ExecutorName,
        typer.Option(help="Where workers run: this machine, or a Ray cluster (extra ray)."),
    ] = "local",
    stall_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Give a trial up after so long without progress; default: ten minutes, or 20 "
            "times the longest silence so far.",
        ),
    ] = None,
    trial_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Give a trial up after so long; default: never."),
    ] = None,
    plugins: Plugins = None,
    baseline: Baseline = None,
    same_within: SameWithin = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and show the plan; train nothing."),
    ] = False,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=1.0,
            help="With --dry-run: plan the memory for a GPU of this size, here or not.",
        ),
    ] = None,
    detect: Annotated[
        float | None,
        typer.Option(
            metavar="DIFFERENCE",
            help="With --dry-run: prompts x responses x seeds that show such a difference in the "
            "primary measure with a chance of 80%, the cheapest first.",
        ),
    ] = None,
    pilot: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --detect: an earlier sweep whose variances and times count."
        ),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = False,
) -> None:
    """Train and compare losses x strengths x seeds; strengths are given, or searched for.

    Without FILE it runs the quickstart. The same command again resumes: nothing that is finished
    is computed twice.
    """
    loudness = _loudness(quiet=quiet, verbose=verbose, log_json=log_json)
    asked: dict[str, Any] = {
        "policy": policy,
        "reference": reference,
        "preferences": preferences,
        "reward": reward,
        "losses": tuple(losses or ()),
        "beta": tuple(beta or ()),
        "seeds": tuple(seeds or ()),
        "settings": (*(settings or ()), *_comparison_settings(baseline, same_within)),
    }
    if dry_run:
        from dpo_bench.experiment.overrides import Overrides, resolve
        from dpo_bench.sweep.power import print_mixes
        from dpo_bench.sweep.preview import print_plan

        _load_plugins(plugins)
        experiment = resolve(file, Overrides(**asked))
        seconds = print_plan(
            experiment, _worker_count(workers), _console(), loudness, gpu_memory=gpu_memory
        )
        if detect is not None:
            print_mixes(experiment, detect, pilot, seconds, _console())
        return
    if detect is not None or pilot is not None or gpu_memory is not None:
        raise ConfigurationError(
            "--detect, --pilot and --gpu-memory go with --dry-run: they plan, nothing runs."
        )
    running = {
        "workers": _worker_count(workers),
        "executor": executor,
        "stall_timeout": stall_timeout,
        "trial_timeout": trial_timeout,
    }
    _run(file, asked, out, plugins, loudness, **running)


@app.command(cls=Command)
def train(
    *,
    loss: Annotated[str, typer.Argument(help="The loss.")],
    file: Annotated[
        str | None, typer.Option("--file", help="Experiment file, or the name of a shipped one.")
    ] = None,
    policy: Policy = None,
    reference: Reference = None,
    preferences: Preferences = None,
    reward: Reward = None,
    beta: Annotated[float | None, typer.Option(help="Strength; default: the loss's own.")] = None,
    seed: Annotated[int, typer.Option(help="Sets the order of the pairs.")] = 0,
    settings: Settings = None,
    out: Out = None,
    plugins: Plugins = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = False,
) -> None:
    """Train and evaluate one trial and keep its policy."""
    from dpo_bench.contract import get_loss
    from dpo_bench.experiment.overrides import slug

    _load_plugins(plugins)
    found = get_loss(loss)
    strength = found.hyperparameters[found.strength] if found.strength and beta is None else beta
    asked: dict[str, Any] = {
        "policy": policy,
        "reference": reference,
        "preferences": preferences,
        "reward": reward,
        "losses": (loss,),
        "beta": () if strength is None else (repr(strength),),
        "search": False,
        "seeds": (str(seed),),
        "settings": ("keep_policies=true", *(settings or ())),
    }
    loudness = _loudness(quiet=quiet, verbose=verbose, log_json=log_json)
    prefix = f"train-{{}}-{slug(found.name)}"
    _run(file, asked, out, plugins, loudness, workers=1, folder_name=prefix)


@app.command(cls=Command)
def evaluate(
    *,
    policy: Annotated[str, typer.Argument(help="The policy to measure.")],
    file: Annotated[
        str | None, typer.Option("--file", help="Experiment file, or the name of a shipped one.")
    ] = None,
    reference: Reference = None,
    preferences: Preferences = None,
    reward: Reward = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the tables into this folder.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_json: LogJson = False,
) -> None:
    """Measure an existing policy against a reference; trains nothing.

    Without --file, --reference and --preferences say what it is measured against and on; without
    these it is measured in the quickstart's world.
    """
    from dpo_bench import api

    loudness = _loudness(quiet=quiet, verbose=verbose, log_json=log_json)
    found = api.evaluate(
        policy,
        experiment=file,
        reference=reference,
        preferences=preferences,
        reward=reward,
        settings=tuple(settings or ()),
        out=out,
        loudness=loudness,
    )
    _print_metrics(policy, found)


@app.command(cls=Command)
def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Sweep folders.")
    ] = None,
    *,
    across: Annotated[
        bool,
        typer.Option(
            "--across",
            help="Judge the losses over sweeps (or tables as for --from) of different worlds, data "
            "or models: one table; --out DIR also writes it.",
        ),
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Instead of sweeps: results of another program, a .parquet, .csv or .jsonl table "
            "(loss, strength, seed, prompt, kl, reward), or AlpacaEval's annotations.json.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; needed for several sweeps.")
    ] = None,
    kind: Annotated[
        Literal["html", "markdown", "latex"],
        typer.Option("--format", help="html: page, Markdown and figures; latex: for a paper."),
    ] = "html",
    baseline: Baseline = None,
    same_within: SameWithin = None,
    kl: Annotated[
        str | None, typer.Option(metavar="KL,...", help="KLs to compare at, nats: 0.5,1,2.")
    ] = None,
    measure: Annotated[
        str | None, typer.Option(help="The primary measure: reward or win_rate.")
    ] = None,
) -> None:
    """Rebuild a sweep's report, or compare several sweeps (and machines) in one.

    Of a sweep that is running or was stopped it is the report of what is done so far.
    Sweeps that differ in data, reference, reward or evaluation are refused: they do not compare.
    With --across each is compared within itself, and the losses are judged over all of them.
    """
    from dpo_bench.analysis.compare import Choices

    choices = Choices(measure, baseline, _kls(kl), _margin(same_within))
    _refresh(folders or [])
    if across:
        if source is not None or same_within is not None or kind != "html":
            raise ConfigurationError("--across takes no --from, --same-within or --format.")
        _report_across(folders or [], out, choices)
        return
    if source is not None:
        _report_elsewhere(source, folders, out, kind, choices)
        return
    from dpo_bench.report.write import report_sweeps

    if not folders:
        raise ConfigurationError("report: give a sweep's folder, or results with --from FILE.")
    for folder in folders:
        if not (folder / "experiment.json").is_file():
            raise ConfigurationError(f"{folder} is not a sweep's folder: no experiment.json in it.")
    if out is None and len(folders) > 1:
        raise ConfigurationError("Several sweeps become one report: say where with --out DIR.")
    written = report_sweeps(folders, out, kind, choices)
    _console().print(str(written), markup=False, soft_wrap=True)


def _refresh(folders: list[Path]) -> None:
    """Bring the tables of sweeps up to date: one may be running, or have been killed."""
    from dpo_bench.sweep.results import refresh_results

    for folder in folders:
        if (folder / "experiment.json").is_file():
            refresh_results(folder)


def _report_across(folders: list[Path], out: Path | None, choices: Choices) -> None:
    from dpo_bench import api
    from dpo_bench.report.across import print_across, write_across

    found = api.compare_across(
        folders, baseline=choices.baseline, kl=choices.kl, metric=choices.measure
    )
    print_across(found, _console())
    if out is not None:
        written = write_across(found, [str(folder) for folder in folders], out)
        _console().print(str(written), markup=False, soft_wrap=True)


def _margin(difference: float | None) -> float | None:
    """The margin of --same-within."""
    if difference is not None and not 0 < difference < float("inf"):
        raise ConfigurationError(f"--same-within {difference:g}: give a difference above 0.")
    return difference


def _kls(text: str | None) -> tuple[float, ...] | None:
    """KLs given as 0.5,1,2."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < one < float("inf") for one in found):
        raise ConfigurationError(f"--kl {text}: give KLs above 0 in nats, such as 0.5,1,2.")
    return found


def _comparison_settings(baseline: str | None, same_within: float | None) -> tuple[str, ...]:
    """The options on the comparison as settings of the experiment."""
    given = {"baseline": baseline and json.dumps(baseline), "same_within": same_within}
    return tuple(f"comparison.{key}={value}" for key, value in given.items() if value is not None)


def _report_elsewhere(
    source: Path, folders: list[Path] | None, out: Path | None, kind: Any, choices: Choices
) -> None:
    from dpo_bench import api
    from dpo_bench.report.write import write_results_report

    if folders:
        raise ConfigurationError("report: give sweep folders or --from FILE, not both.")
    if out is None:
        raise ConfigurationError("report --from FILE: say where the report goes with --out DIR.")
    written = write_results_report(api.load_results(source).results, out, kind, choices)
    _console().print(str(written), markup=False, soft_wrap=True)


@app.command(cls=Command)
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's folder.")],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also check every file of the sweep; 1 if one is damaged."),
    ] = False,
) -> None:
    """Show the states of a sweep's trials."""
    from dpo_bench.sweep.status import print_status

    intact = print_status(folder, verify, _console())
    if not intact:
        raise typer.Exit(1)


@app.command(cls=Command)
def losses(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Explain this loss, or plot these."),
    ] = None,
    *,
    filter_text: Annotated[
        str, typer.Option("--filter", help="Only losses that mention this text.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw value and gradient against the margin.")
    ] = False,
    beta: Annotated[float | None, typer.Option(help="Strength to plot at.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Plot into this file (.png, .svg or .pdf).")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """List the registry, explain one loss, or plot some."""
    from dpo_bench.catalogue import cards

    _load_plugins(plugins)
    if plot:
        _plot(names or [], beta, out)
    elif as_json:
        found = cards.catalogue(names) if names else cards.matching(filter_text)
        typer.echo(json.dumps(found, indent=2))
    elif names:
        for name in names:
            _console().print(cards.render_card(name))
    else:
        _console().print(cards.render_table(filter_text))


def _plot(names: list[str], beta: float | None, out: Path | None) -> None:
    from dpo_bench.catalogue.plot import curves, save_plot, terminal_plot

    if not names:
        raise ConfigurationError("losses --plot: name one or several losses.")
    drawn = curves(names, {} if beta is None else {"beta": beta})
    if out is None:
        typer.echo(terminal_plot(drawn))
    else:
        save_plot(drawn, out)
        _console().print(str(out), markup=False, soft_wrap=True)


@app.command(cls=Command)
def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="What to reproduce; without it: the list.")
    ] = None,
    *,
    exact: Annotated[
        bool, typer.Option("--exact", help="All that need no model; exit 1 if a verdict fails.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Rows for programs.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write report, figures and CSV into this folder.")
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Fill a paper's table from this sweep; repeatable."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="The authors' own file or folder, where one is read."),
    ] = None,
) -> None:
    """Published results beside what the registry's losses give."""
    from dpo_bench.reproduce.command import ReproduceRequest
    from dpo_bench.reproduce.command import reproduce as run

    command = shlex.join(["dpo-bench", *sys.argv[1:]])
    wanted = ReproduceRequest(name, exact, as_json, out, tuple(runs or ()), command, data)
    if not run(wanted, _console()):
        raise typer.Exit(1)


def _run(
    file: str | None,
    asked: dict[str, Any],
    out: Path | None,
    plugins: list[Path] | None,
    loudness: Loudness,
    **running: Any,
) -> None:
    from dpo_bench import api
    from dpo_bench.sweep.summary import print_outcome

    sweep = api.run_sweep(
        file,
        **asked,
        **running,
        out=out,
        plugins=tuple(plugins or ()),
        loudness=loudness,
        command=shlex.join(["dpo-bench", *sys.argv[1:]]),
    )
    if sweep.outcome is not None:
        print_outcome(sweep.outcome, _console())
        if sweep.outcome.failed:
            raise typer.Exit(1)


def _print_metrics(policy: str, found: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("metric", "value", "95% interval", "n", "unit", title=escape(policy))
    for row in found.itertuples():
        ends = "" if row.low != row.low else f"\\[{row.low:.3f}, {row.high:.3f}]"
        table.add_row(row.metric, f"{row.value:.3f}", ends, str(row.n), row.unit)
    _console().print(table)


def _loudness(*, quiet: bool, verbose: bool, log_json: bool) -> Loudness:
    asked: dict[Loudness, bool] = {"quiet": quiet, "verbose": verbose, "json": log_json}
    wanted = [name for name, given in asked.items() if given]
    if len(wanted) > 1:
        raise ConfigurationError("--quiet, --verbose and --log-json: give one of them.")
    return wanted[0] if wanted else "normal"


def _load_plugins(folders: list[Path] | None) -> None:
    from dpo_bench.contract import load_plugins

    for folder in folders or ():
        load_plugins(folder)


def _worker_count(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"--workers {text}: give a number from 1, or auto.")
    return int(text)


def _console(*, stderr: bool = False) -> Any:
    from dpo_bench.terminal import Terminal

    return Terminal(stderr=stderr)
