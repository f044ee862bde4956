"""The summary picture of a sweep: what stands along x, and that censored runs are seen."""

import numpy as np
import pandas as pd
import pytest

from memjax.sweeps import figures


def results(factors, epochs_to_fit):
    """One row a point: the last, as `assemble` gives it."""
    table = pd.DataFrame(factors)
    return table.assign(
        point=[f"p{i}" for i in range(len(table))],
        member=0,
        run_seed=range(len(table)),
        failure="",
        best_validation_accuracy=0.5,
        train_accuracy=0.9,
        epochs_to_fit=epochs_to_fit,
        epochs_run=60.0,
    )


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Returns a function that draws, and gives the figure that was saved."""
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, path: saved.append(figure))
    monkeypatch.setattr(figures, "write_atomically", lambda path, write: write(path))

    def draw(table, factors):
        figures.draw_results(table, factors, tmp_path / "results.png")
        return saved[-1]

    return draw


def test_sizes_stand_along_x_where_there_are_as_many_levels(drawn):
    pairs = [(level, width) for level in (0.0, 0.5, 1.0) for width in (16, 64, 256)]
    table = results({"level": [p[0] for p in pairs], "width": [p[1] for p in pairs]}, 10.0)
    ax = drawn(table, ["level", "width"]).axes[0]
    assert ax.get_xlabel() == "width"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["16", "64", "256"]


def test_seeds_stand_along_x_where_no_factor_is_a_number(drawn):
    table = results({"kind": ["real", "randX"]}, 10.0)
    assert drawn(table, ["kind"]).axes[0].get_xlabel() == "run seed"


def test_runs_that_never_fit_are_hollow_at_the_epochs_that_they_ran(drawn):
    table = results({"width": [16, 64]}, [np.nan, 10.0])
    figure = drawn(table, ["width"])
    lines = figure.axes[-1].get_lines()
    hollow = [line for line in lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in hollow if len(line.get_xdata())] == [[[16, 60]]]
    assert lines[0].get_xydata().tolist() == [[16, 60], [64, 10]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["all", "half or more not fitted when stopped"]
