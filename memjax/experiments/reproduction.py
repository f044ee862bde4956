"""The reproduction of the paper: trains what figures need, draws, judges, reports; goes on."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from etils import epath

from memjax.errors import Diverged, InputError
from memjax.experiments.context import Context
from memjax.experiments.fit import fit_words
from memjax.experiments.kinds import DATASETS
from memjax.experiments.registry import EXPERIMENTS, Experiment, load_table, redraw, save_table
from memjax.experiments.scales import reductions
from memjax.experiments.studies import STUDIES, Study, make_study
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Verdict, judge_all, not_judged
from memjax.reporting.environment import describe_environment, describe_making
from memjax.reporting.figures import counted
from memjax.reporting.report import write_report
from memjax.reporting.report_parts import FigureResult, RunDescription
from memjax.runtime.tables import read_metadata
from memjax.runtime.workdir import read_json, write_json
from memjax.sweeps.plan import make_plan
from memjax.sweeps.points import Sweep
from memjax.sweeps.run import run_sweep
from memjax.training.watcher import Interrupted

WITH_CNN = ("cifar_noise", "regularizers")
Say = Callable[[str], None]


class Reproduction:
    """A folder in which the figures of one scale are made, each once.

    Args:
      workdir: the folder; made if it is not there.
      scale: one of `SCALES`.
      figures: names of experiments, in the order of the report.
      data_dir: where tfds keeps its data; None is its default.
      say: shows a line to the user.

    Raises:
      InputError: if the folder holds another scale, or studies of other sizes; nothing is written
        then.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        scale: str,
        figures: Sequence[str],
        data_dir: str | None = None,
        say: Say = print,
    ):
        self.workdir, self.scale, self.figures = epath.Path(workdir), scale, tuple(figures)
        self._data_dir, self._say = data_dir, say
        names = {study for name in figures for study in EXPERIMENTS[name].STUDIES}
        self.studies = {n: make_study(n, scale, data_dir) for n in STUDIES if n in names}
        there = self._read_state()
        if there and there["scale"] != scale:
            raise InputError(
                f"--workdir={workdir}: holds the scale {there['scale']!r}, not {scale!r}; choose "
                "another --workdir"
            )
        # Of each study: its identity.
        self._made_of = there.get("studies", {}) | {n: s.identity for n, s in self.studies.items()}
        for name, identity in there.get("studies", {}).items():
            if self._made_of[name] != identity:
                raise InputError(
                    f"--workdir={workdir}: studies/{name} was made with other sizes (by another "
                    "version of memjax?); choose another --workdir"
                )
        # Of each figure: the identity of its runs, and the seconds spent on them so far.
        self._spent: dict[str, dict[str, Any]] = there.get("spent", {})
        self._trained: dict[str, StudyRuns] = {}  # by the study's name, for all its figures

    def run(self) -> list[FigureResult]:
        """Makes every figure that is not there, then writes the report, if anything is new.

        Returns:
          What became of each figure; a failed one does not stop the others.

        Raises:
          Interrupted: at a signal, after saving; the same call goes on from there.
        """
        write_json(self.workdir / "reproduction.json", self._state())
        errors: dict[str, str] = {}
        made = [name for name in self.figures if self._make(name, errors)]
        report = self.workdir / "report" / "report.html"
        if not made and not errors and report.exists():
            self._say(f"nothing to do; the report: {report}")
        return self._report(errors)

    def redraw(self) -> list[FigureResult]:
        """Draws every figure again from its table, and writes the report again."""
        for name in self.figures:
            if self._table(name).exists():
                redraw(self._table(name))
        return self._report({})

    def _make(self, name: str, errors: dict[str, str]) -> bool:
        """Makes one figure; returns whether there was anything to do."""
        experiment = EXPERIMENTS[name]
        identity = "+".join(self.studies[study].identity for study in experiment.STUDIES)
        if _identity_of(self._table(name)) == identity:
            return False
        self._say(f"{name}: {experiment.TITLE.partition(': ')[2] or experiment.TITLE}")
        began, spent = time.monotonic(), self._spent.get(name, {})
        before: float = spent["seconds"] if spent.get("identity") == identity else 0.0
        try:
            studies = {study: self._train(self.studies[study]) for study in experiment.STUDIES}
            table = experiment.tabulate(studies)
            context = Context(
                self.scale,
                self._setup(experiment),
                self._reductions(experiment),
                describe_making(),
                round(before + time.monotonic() - began, 1),
            )
            save_table(self._table(name), experiment, table, context, identity)
            redraw(self._table(name))
        except Interrupted:
            raise
        except Exception as error:  # one figure must not stop the others
            if not isinstance(error, InputError | Diverged):
                import traceback

                traceback.print_exc()
            errors[name] = " ".join(str(error).split()) or type(error).__name__
            self._say(f"{name}: failed: {errors[name]}")
        finally:
            seconds = round(before + time.monotonic() - began, 1)
            self._spent[name] = {"identity": identity, "seconds": seconds}
            write_json(self.workdir / "reproduction.json", self._state())
        return True

    def _train(self, study: Study) -> StudyRuns:
        """Trains what is open of a study, once for all its figures."""
        if study.name in self._trained:
            return self._trained[study.name]
        folder = self.workdir / "studies" / study.name
        plan = make_plan(Sweep(study.points, study.configs, None))
        outcome = run_sweep(plan, folder)
        for name, reason in outcome.failures.items():
            self._say(f"{study.name}: {name} failed: {reason}")
        if outcome.elsewhere:
            raise InputError(f"{folder}: another process is at work on it")
        runs = StudyRuns(
            folder, study.points, study.configs, study.sizes, self._data_dir, self._say
        )
        self._trained[study.name] = runs
        return runs

    def _report(self, errors: dict[str, str]) -> list[FigureResult]:
        tables = {
            name: load_table(self._table(name))
            for name in self.figures
            if name not in errors and self._table(name).exists()
        }
        # All of a report are judged together, for they are corrected together.
        claims = [claim for name in tables for claim in EXPERIMENTS[name].CLAIMS]
        verdicts = judge_all(claims, {name: table for name, (_, table, _) in tables.items()})
        results = [self._result(name, tables, verdicts, errors) for name in self.figures]
        seeds = ", ".join(
            f"{study.name} {study.sizes.num_runs or study.sizes.num_seeds}"
            for study in self.studies.values()
        )
        run = RunDescription(
            title=f"A Closer Look at Memorization in Deep Networks, reproduced ({self.scale})",
            scale=self.scale,
            command=self._command(",".join(_short(name) for name in self.figures)),
            seconds=sum(self._seconds(name, tables) for name in self.figures),
            seeds=f"number of seeds per study, counted from 0: {seeds}",
            environment=describe_environment(),
        )
        write_report(self.workdir / "report", run, results)
        return results

    def _result(
        self,
        name: str,
        tables: dict[str, tuple[Experiment, pd.DataFrame, Context]],
        judged: Sequence[Verdict],
        errors: dict[str, str],
    ) -> FigureResult:
        experiment = EXPERIMENTS[name]
        common: dict[str, Any] = {
            "name": name,
            "title": experiment.TITLE,
            "command": self._command(_short(name)),
            "seconds": self._seconds(name, tables),
        }
        if name not in tables:
            error = errors.get(name, "its table is not there")
            verdicts = [
                not_judged(claim, f"the figure failed: {error}") for claim in experiment.CLAIMS
            ]
            return FigureResult(
                **common, status="failed", error=error, claims=verdicts,
                reductions=self._reductions(experiment),
            )  # fmt: skip
        _, table, context = tables[name]
        path = self._table(name)
        return FigureResult(
            **common,
            status="done",
            table_path=path,
            png_path=path.with_suffix(".png"),
            svg_path=path.with_suffix(".svg"),
            caption=f"{experiment.caption(table, context)} {fit_words(table)}",
            alt_text=experiment.alt_text(table, context),
            claims=[verdict for verdict in judged if verdict.figure == name],
            reductions=context.reductions,
            made=context.made,
        )

    def _table(self, name: str) -> epath.Path:
        return self.workdir / "figures" / f"{name}.parquet"

    def _read_state(self) -> dict[str, Any]:
        path = self.workdir / "reproduction.json"
        return read_json(path) if path.exists() else {}

    def _state(self) -> dict[str, Any]:
        return {"scale": self.scale, "studies": self._made_of, "spent": self._spent}

    def _seconds(self, name: str, tables: Mapping[str, tuple[Any, Any, Context]]) -> float:
        """Returns what a figure took, wherever its table was made."""
        if name in tables and tables[name][2].seconds:
            return tables[name][2].seconds
        return self._spent.get(name, {}).get("seconds", 0.0)

    def _command(self, figures: str) -> str:
        every = ",".join(_short(name) for name in EXPERIMENTS)
        figures = "all" if figures == every else figures
        return (
            f"python -m memjax.reproduce --scale={self.scale} --figures={figures} "
            f"--workdir={self.workdir.name}"
        )

    def _setup(self, experiment: Experiment) -> str:
        words = []
        for name in experiment.STUDIES:
            sizes = self.studies[name].sizes
            if name in WITH_CNN:
                network = f"small AlexNet, {sizes.channels:g} times the paper's channels"
            else:
                network = f"MLP of 2 layers of {sizes.width:,} units"
            if sizes.widths:
                network = "MLPs of 2 layers"
            words.append(
                f"{network} on {DATASETS[sizes.dataset]}, {sizes.num_train:,} training examples, "
                f"learning rate {sizes.learning_rate:g}, at most "
                + counted(sizes.num_epochs, "epoch")
            )
        return "; ".join(dict.fromkeys(words))

    def _reductions(self, experiment: Experiment) -> tuple[str, ...]:
        return reductions(self.scale, experiment.STUDIES)


def _short(name: str) -> str:
    return str(int(name[6:])) if name.startswith("figure") else name


def figure_names(wanted: Iterable[str]) -> list[str]:
    """Returns experiments in their order: 'all', numbers of figures, or names.

    Raises:
      InputError: for one that there is not.

    Example:
      >>> figure_names(["3", "norms", "1"])
      ['figure01', 'figure03', 'norms']
    """
    by_word = {_short(name): name for name in EXPERIMENTS} | {name: name for name in EXPERIMENTS}
    chosen = set()
    for word in wanted:
        if word == "all":
            chosen |= set(EXPERIMENTS)
        elif word in by_word:
            chosen.add(by_word[word])
        else:
            known = ", ".join(_short(name) for name in EXPERIMENTS)
            raise InputError(f"--figures={word}: must be 'all' or some of {known}")
    return [name for name in EXPERIMENTS if name in chosen]


def _identity_of(table: epath.Path) -> str:
    """Returns the identity that a figure's table was made with; empty if there is none."""
    if not table.exists() or not table.with_suffix(".svg").exists():
        return ""
    with table.open("rb") as file:
        return read_metadata(pq.read_schema(file)).get("identity", "")
