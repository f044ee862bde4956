"""Scores of a run side by side: what is joined, agrees and is found; one real command line."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score

from memjax.comparing.agreement import agreement, detection, reachable
from memjax.comparing.scores import SCORES, oriented, read_scores
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.passes import PASSES
from tests import command_line

FLAGS = [
    "--config=configs/digits_randlabel.py:quick",
    "--config.dataset.source=npz",
    "--config.dataset.num_validation=40",
    "--config.corruption.fraction=0.2",
    "--config.model.widths=(16,)",
    "--config.train.num_epochs=4",
    "--config.train.batch_size=30",
    "--config.ensemble.size=4",
    "--config.ensemble.subset_fraction=0.5",
    "--config.ensemble.balanced=True",
]


def some_scores(n=200):
    rng = np.random.default_rng(0)
    first = rng.gamma(2.0, size=n)
    second = first + rng.gamma(1.0, size=n)
    third = np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n))
    return pd.DataFrame({"first": first, "second": second, "third": third})


def test_agreement_is_that_of_scipy_over_the_examples_that_have_both():
    scores = some_scores()
    for row in agreement(scores).to_dict("records"):
        both = scores[[row["first"], row["second"]]].dropna().to_numpy().T
        assert row["num_examples"] == both.shape[1]
        assert row["pearson"] == pytest.approx(scipy.stats.pearsonr(*both).statistic, abs=1e-12)
        assert row["spearman"] == pytest.approx(scipy.stats.spearmanr(*both).statistic, abs=1e-12)
        cosine = both[0] @ both[1] / np.linalg.norm(both[0]) / np.linalg.norm(both[1])
        assert row["cosine"] == pytest.approx(cosine, abs=1e-12)
        for name in ("pearson", "spearman", "cosine"):
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_the_interval_of_a_correlation_is_as_wide_as_fishers():
    rng = np.random.default_rng(1)
    values = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 800)
    [row] = agreement(pd.DataFrame(values, columns=["a", "b"])).to_dict("records")
    half = 1.96 / np.sqrt(797)
    expected = np.tanh(np.arctanh(row["pearson"]) + half * np.array([-1, 1]))
    np.testing.assert_allclose([row["pearson_low"], row["pearson_high"]], expected, atol=0.02)


def test_a_score_that_is_the_same_everywhere_agrees_with_nothing():
    [row] = agreement(pd.DataFrame({"a": np.ones(9), "b": np.arange(9.0)})).to_dict("records")
    assert np.isnan([row["pearson"], row["spearman"], row["pearson_low"]]).all()


def test_what_is_reachable_is_what_the_truth_itself_reaches():
    rng = np.random.default_rng(2)
    truth, errors = rng.normal(size=40_000), rng.uniform(0.2, 1.0, 40_000)
    estimates = truth + errors * rng.normal(size=40_000)
    found = reachable(pd.Series(estimates), pd.Series(errors))
    assert found == pytest.approx(np.corrcoef(truth, estimates)[0, 1], abs=0.01)
    assert reachable(pd.Series([1.0, 1.0]), pd.Series([0.1, 0.1])) == 0


def test_detection_is_that_of_scikit_learn():
    scores = some_scores()
    is_wrong = scores["first"].to_numpy() + np.random.default_rng(3).normal(size=200) > 3
    table = detection(scores, is_wrong).set_index("score")
    for name in scores:
        known = scores[name].notna().to_numpy()
        values, wrong = scores[name][known], is_wrong[known]
        assert table.loc[name, "auroc"] == roc_auc_score(wrong, values)
        assert table.loc[name, "average_precision"] == average_precision_score(wrong, values)
    assert detection(scores, np.zeros(200, bool)).empty


def test_every_score_has_a_pass_and_easy_ones_are_turned_around():
    assert {score.source for score in SCORES.values()} <= {"dynamics", *PASSES}
    table = pd.DataFrame({"index": [0, 1], "aum": [1.0, 3.0], "el2n": [1.0, 3.0]})
    assert oriented(table).to_dict("list") == {"aum": [2.0, 0.0], "el2n": [1.0, 3.0]}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mine": np.ones(3)}, "must have 'index'"),
        ({"index": np.arange(3)}, "nothing else"),
        ({"index": np.array([0, 1, 1]), "mine": np.ones(3)}, "more than once"),
        ({"index": np.arange(3), "mine": np.ones(4)}, r"'mine' is float64 \[4\]"),
        ({"index": np.arange(3), "mine": np.array([None] * 3)}, "allow_pickle"),
        ({"index": np.arange(3), "el2n": np.ones(3)}, "a name of memjax"),
        ({"index": np.arange(2), "mine": np.array([1.0, np.inf])}, "infinite"),
        ({"index": np.arange(0), "mine": np.ones(0)}, "must have 'index'"),
    ],
)
def test_an_import_that_is_not_right_is_one_line(tmp_path, arrays, words):
    np.savez(tmp_path / "scores.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read_scores(tmp_path / "scores.npz")


def test_one_bare_array_is_no_import(tmp_path):
    np.save(tmp_path / "scores.npy", np.ones(3))
    with pytest.raises(InputError, match="one array"):
        read_scores(tmp_path / "scores.npy")


def test_scores_of_different_examples_do_not_agree():
    scores = pd.DataFrame({"a": [1.0, np.nan, 2.0], "b": [np.nan, 1.0, np.nan]})
    [row] = agreement(scores).to_dict("records")
    assert row["num_examples"] == 0
    assert np.isnan(row["spearman"])


def test_the_command_joins_what_the_run_has_with_what_is_imported(tmp_path):
    workdir, digits = tmp_path / "run", load_digits()
    images, labels = digits.images[:148].astype(np.uint8) * 15, digits.target[:148].copy()
    images[-12:], labels[-12:] = images[:12], labels[:12]
    np.savez(tmp_path / "data.npz", images=images[..., None], labels=labels)
    flags = [*FLAGS, f"--config.dataset.path={tmp_path / 'data.npz'}"]
    trained = command_line.run("memjax.main", *flags, f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    refused = command_line.run("memjax.compare", f"--workdir={workdir}")
    assert refused.returncode == 2
    assert "1 scores (cumulative_loss), at least 2" in refused.stderr
    assert not (workdir / "compare").exists()
    passes = "--passes=gradients,difficulty,memorization"
    assert command_line.run("memjax.analyze", f"--workdir={workdir}", passes).returncode == 0
    run = load_run(workdir)
    index = run.examples.query("split == 'train'")["index"].to_numpy()
    np.savez(tmp_path / "mine.npz", index=index, mine=np.linspace(0, 1, len(index)))
    done = command_line.run(
        "memjax.compare",
        f"--workdir={workdir}",
        f"--import={tmp_path / 'mine.npz'}",
        "--duplicates",
    )
    assert done.returncode == 0, done.stderr
    assert "with memorization" in done.stdout
    assert "finding the examples that are wrong" in done.stdout
    table = pd.read_parquet(workdir / "compare" / "scores.parquet")
    assert list(table["index"]) == sorted(index)
    rows = run.dynamics.query("split == 'train'")
    expected = [
        np.mean([part["loss"].sum() for _, part in rows[rows["index"] == i].groupby("member")])
        for i in table["index"][:10]
    ]
    np.testing.assert_allclose(table["cumulative_loss"][:10], expected, rtol=1e-5)
    there = run.table("memorization")
    there = there[there["step"] == run.steps[-1]]
    memorization = there.set_index("index")["memorization"]
    np.testing.assert_allclose(table["memorization"], memorization[table["index"]])
    assert table["mine"].notna().all()
    lists = {"agreement.csv", "detection.csv", "duplicates.csv"}
    names = {path.name for path in (workdir / "compare").iterdir()}
    assert names == {"scores.parquet", "compare.png", *lists}
    # Both of a pair are found where both are training examples.
    originals = set(index[index < 12]) & set(index[index >= 136] - 136)
    alike = table["index"].isin(originals | {place + 136 for place in originals})
    assert alike.any()
    expected = detection(-oriented(table), alike.to_numpy())
    pd.testing.assert_frame_equal(pd.read_csv(workdir / "compare" / "duplicates.csv"), expected)
