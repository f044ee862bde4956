"""Made-up tables of every figure, in which the truth is known."""

import itertools

import numpy as np
import pandas as pd

from memjax.analysis.filters import filter_quality


def table_of(figure, rng, fitted=1.0, **truth):
    """Returns a table of a figure; `truth` changes its defaults, in which the paper is right."""
    maker = {"figure07": noise_levels, "figure08": noise_levels}.get(figure)
    table = (maker or globals()[figure])(rng, **truth)
    if "final" in table:  # of one network, where the figure measures it
        fitted = fitted * table.pop("final")
    return table.assign(final_train_accuracy=fitted, num_updates=1000, distance=0.5)


def figure01(rng, real=1.0, randX=np.inf, randY=8.0, runs=40, n=400):
    """Each number is the concentration of P(correct) over examples; infinite is binomial."""
    parts = []
    for data, concentration in (("real", real), ("randX", randX), ("randY", randY)):
        easy = np.full(n, 0.6)
        if np.isfinite(concentration):
            easy = rng.beta(0.6 * concentration, 0.4 * concentration, n)
        correct = rng.random((runs, n)) < easy
        run, index = np.indices(correct.shape)
        parts.append(
            {
                "data": data,
                "run": run.ravel(),
                "index": index.ravel(),
                "label": index.ravel() % 10,
                "correct": correct.ravel(),
            }
        )
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def figure02(rng, real=0.8, randY=0.7, seeds=4, n=36):
    """Each number is how smooth the filters are: 0 is white noise, 1 constant."""
    parts = []
    for seed, (data, smooth) in itertools.product(
        range(seeds), (("real", real), ("randY", randY), ("initial", 0.0))
    ):
        wave = np.sin(np.arange(5) * 1.2)[:, None, None] * np.ones((5, 5, 3))
        phase = rng.uniform(0.5, 1.5, (n, 1, 1, 1))
        filters = rng.normal(size=(n, 5, 5, 3)) * (1 - abs(smooth)) + smooth * phase * wave
        if smooth < 0:  # a chessboard is rougher than noise
            sign = (-1.0) ** np.add.outer(np.arange(5), np.arange(5))
            filters = filters * 0.1 + sign[None, :, :, None]
        quality = filter_quality(filters.astype(np.float32))
        columns = {name: np.asarray(value) for name, value in quality._asdict().items()}
        shape = {"height": 5, "width": 5, "channels": 3}
        pixels = list(filters.reshape(n, -1).astype(np.float32))
        part = {"data": data, "seed": seed, "filter": range(n), "pixels": pixels}
        parts.append(part | shape | columns)
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def figure03(rng, real=0.68, randX=0.22, unique_real=0.6, unique_randX=0.2, noise=0.02, seeds=5):
    levels = {
        ("real", "class"): real,
        ("randX", "class"): randX,
        ("real", "unique"): unique_real,
        ("randX", "unique"): unique_randX,
    }
    steps = np.arange(20, 520, 20)
    parts = [
        {
            "data": data,
            "labels": labels,
            "seed": seed,
            "step": steps,
            "num_examples": 1000,
            "gini": np.clip(
                level * (1 - 0.5 * np.exp(-steps / 100)) / 0.9
                + rng.normal(0, noise)
                + rng.normal(0, 0.005, len(steps)),
                0,
                0.999,
            ),
        }
        for (data, labels), level in levels.items()
        for seed in range(seeds)
    ]
    table = pd.concat(map(pd.DataFrame, parts), ignore_index=True)
    return table.assign(gini_of_mean=table["gini"])


def norms(rng, l1=(0.68, 0.22), l2=(0.66, 0.2), linf=(0.6, 0.2), noise=0.02, seeds=5):
    parts = []
    for norm, (real, randx) in (("l1", l1), ("l2", l2), ("linf", linf)):
        table = figure03(rng, real=real, randX=randx, noise=noise, seeds=seeds)
        table = table[table["labels"] == "class"].drop(
            columns=["labels", "num_examples", "gini_of_mean"]
        )
        parts.append(table.assign(norm=norm))
    return pd.concat(parts, ignore_index=True)


def figure04(rng, real=(1.0, 1.2), randX=(2.0, -1.2), noise=0.1, seeds=5):
    """Each pair: doublings of the diagonal over the rest, and doublings of the rest over 0.01."""
    rows = []
    for data, (diagonal, rest) in (("real", real), ("randX", randX)):
        for seed in range(seeds):
            offsets = rng.normal(0, noise, 2)
            for label, loss in itertools.product(range(10), range(10)):
                power = rest + offsets[0] + (diagonal + offsets[1]) * (label == loss)
                power += rng.normal(0, 0.3)
                rows.append((data, seed, label, loss, 0.01 * 2**power))
    return pd.DataFrame(rows, columns=["data", "seed", "label_class", "loss_class", "sensitivity"])


def _accuracies(rng, needed, level, above, noise, seeds, reference=256):
    """Accuracy is 98 % of its plateau at 2**needed units; above the reference `above` more."""
    rows = []
    for width, seed in itertools.product(WIDTHS, range(seeds)):
        short = max(0.0, 1 + needed - np.log2(width))
        accuracy = (0.95 - 0.2 * level) * (1 - 0.02 * short) + above * (width > reference)
        rows.append((level, width, seed, accuracy + rng.normal(0, noise)))
    return pd.DataFrame(rows, columns=["level", "width", "seed", "best_validation_accuracy"])


WIDTHS = (16, 32, 64, 128, 256, 512)


def figure05(rng, real=5.0, noisy=6.5, above=0.0, noise=0.001, seeds=4):
    """log2 of the width that real data need, and of that which half noise needs."""
    parts = [
        _accuracies(rng, needed, level, above, noise, seeds)
        for level, needed in ((0.0, real), (0.4, noisy - 0.1), (0.8, noisy + 0.1))
    ]
    return pd.concat(parts, ignore_index=True).assign(reference_width=256)


def capacity(rng, real=5.8, randX=7.0, randY=5.8, removed=5.0, noise=0.001, seeds=4):
    """log2 of the width that each kind of data needs."""
    needed = {"real": real, "randX": randX, "randY": randY, "removed": removed}
    parts = [
        _accuracies(rng, width, level, 0.0, noise, seeds).assign(kind=kind, dataset=dataset)
        for dataset in ("mnist", "cifar10")
        for kind, width in needed.items()
        for level in ((0.0,) if kind == "real" else (0.4, 0.8))
    ]
    return pd.concat(parts, ignore_index=True)


def figure06(
    rng,
    later=1.5,
    capacity_real=0.8,
    capacity_noise=2.0,
    early=0.7,
    examples_real=0.8,
    examples_noise=2.0,
    noise=0.08,
    seeds=4,
    epochs_run=400,
):
    """Numbers are doublings; `early` is the share of the capacity effect in the lower half."""
    rows = []
    for level, seed in itertools.product((0.0, 0.5, 1.0), range(seeds)):
        small = capacity_real + (capacity_noise - capacity_real) * level
        large = examples_real + (examples_noise - examples_real) * level
        share = early if level == 0 else 0.5
        for place, width in enumerate((64, 128, 256, 512, 1024)):
            # From 1 at the smallest width to 1 - share in the middle to 0 at the largest.
            remaining = np.interp(place, [0, 2, 4], [1, 1 - share, 0])
            power = 4 + later * level + small * remaining
            rows.append(("capacity", level, width, 1000, seed, power))
        for place, num_examples in enumerate((250, 500, 1000)):
            power = 4 + later * level + large * place / 2
            rows.append(("examples", level, 1024, num_examples, seed, power))
    columns = ["panel", "level", "width", "num_examples", "seed", "power"]
    table = pd.DataFrame(rows, columns=columns)
    times = np.round(2 ** (table["power"] + rng.normal(0, noise, len(table))))
    table["epochs_to_fit"] = times.where(times <= epochs_run)
    table["epochs_before"] = (times - 1).clip(upper=epochs_run)
    table["epochs_run"] = times.clip(upper=epochs_run).astype(int)
    return table.drop(columns="power")


def noise_levels(
    rng,
    csr=0.5,
    nearer=-2.0,
    accuracy=-0.2,
    train=1.0,
    peak=0.2,
    fall=0.2,
    csr_after_peak=0.2,
    csr_matched=0.2,
    clean_first=2.0,
    true_first=0.5,
    randy_later=2.0,
    noise=0.01,
    seeds=4,
):
    """Rises from level 0 to 1; when randY peaks and what comes after; what is learned first."""
    epochs = np.arange(1, 41)
    parts = []
    for kind, level, seed in itertools.product(
        ("randX", "randY"), (0, 0.2, 0.5, 0.8), range(seeds)
    ):
        if level == 0 and kind == "randY":
            continue
        top = max(1, round(peak * epochs[-1]))
        after = np.clip((epochs - top) / max(1, epochs[-1] - top), 0, 1)
        before = np.clip(epochs / top, 0, 1)
        is_label, is_noise = kind == "randY", kind == "randX" and level > 0
        validation = 0.9 + accuracy * level - 0.3 * (1 - before)
        validation = validation - is_label * fall * level * after + rng.normal(0, noise)
        found = 0.2 + csr * level + is_label * csr_after_peak * level * after
        found = found + rng.normal(0, noise)
        found = found + csr_matched * (level > 0) * (epochs < 36)
        fitted = 6 * 2 ** (randy_later * level / 0.8) if is_label else 6
        fitted = fitted * 2 ** rng.normal(0, noise * 5)
        train_accuracy = np.clip(1 - 0.1 * (fitted - epochs) / 5, 0, 1)
        given = np.clip(0.5 * epochs / (4 * 2 ** (clean_first + rng.normal(0, noise * 5))), 0, 1)
        gap = np.where(epochs == top, 1.0, 0.5)  # clean and wrong told apart best at the peak
        measured = (epochs % 4 == 0) | (epochs == 1) | (epochs == top)
        lower = np.where(measured, np.clip(found + rng.normal(0, noise, 40), 0, 1), np.nan)
        nearness = 2.0 ** (-6 + nearer * level + rng.normal(0, noise * 5) + 0 * epochs)
        parts.append(
            {
                "kind": "real" if level == 0 else kind,
                "level": float(level),
                "seed": seed,
                "epoch": epochs.astype(float),
                "train_accuracy": train_accuracy,
                "validation_accuracy": validation + rng.normal(0, noise / 2, 40),
                "clean_accuracy": np.where(epochs >= 4, 1.0, 0.3),
                "corrupted_accuracy": np.where(epochs >= 4, 1.0, 0.3) - gap,
                "mislabeled_as_true": np.clip(given + true_first + rng.normal(0, noise), -1, 2),
                "mislabeled_as_label": given,
                "radius": 0.02,
                "csr_lower": lower,
                "median_radius": np.where(measured, nearness, np.nan),
                "csr_lass": np.where(epochs == epochs[-1], 0.9 * lower, np.nan),
                "train_csr": np.where(epochs == epochs[-1], lower, np.nan),
                "train_csr_lass": np.where(epochs == epochs[-1], 0.9 * lower, np.nan),
                "train_median_radius": np.where(epochs == epochs[-1], nearness, np.nan),
                "noise_csr": np.where(is_noise & (epochs == epochs[-1]), lower, np.nan),
                "noise_csr_lass": np.where(is_noise & (epochs == epochs[-1]), lower, np.nan),
                "noise_median_radius": np.where(
                    is_noise & (epochs == epochs[-1]), nearness, np.nan
                ),
                "final": train + rng.normal(0, noise / 200),
            }
        )
    table = pd.concat(map(pd.DataFrame, parts), ignore_index=True)
    return table


def figure09(
    rng,
    real=0.2,
    randX=0.6,
    randY=0.8,
    rise=0.15,
    speed=4.0,
    train_rise=0.2,
    train_fall=0.15,
    noise=0.01,
    seeds=4,
):
    """Final CSR, its rise, how much of it comes early (negative: late), training rise and fall."""
    epochs = np.arange(1, 31)
    time = (epochs - 1) / 29
    shape = (1 - np.exp(-speed * time)) / (1 - np.exp(-speed))
    shapes = {
        "validation": rise * (shape - 1),
        "train": np.interp(time, [0, 0.4, 1], [0, train_rise, train_rise - train_fall]),
    }
    parts = []
    for (data, level), (split, curve), seed in itertools.product(
        (("real", real), ("randX", randX), ("randY", randY)), shapes.items(), range(seeds)
    ):
        found = level * (1.0 if split == "validation" else 0.5) + curve
        found = found + rng.normal(0, noise) + rng.normal(0, noise, 30)
        parts.append(
            {
                "data": data,
                "seed": seed,
                "epoch": epochs,
                "split": split,
                "radius": 0.3 / 255,
                "csr_lower": np.clip(found, 0, 1),
                "median_radius": 0.01 * 2.0 ** (-4 * level + rng.normal(0, 5 * noise)) + 0 * found,
            }
        )
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def radii(rng, real=0.0, randX=0.3, randY=0.5, noise=0.02, seeds=4):
    rows = []
    for data, ease in (("real", real), ("randX", randX), ("randY", randY)):
        for seed, radius in itertools.product(range(seeds), (0.001, 0.005, 0.01, 0.03, 0.1)):
            found = np.clip(np.log10(radius / 0.001) / 3 + ease + rng.normal(0, noise), 0, 1)
            rows.append((data, seed, radius, found))
    return pd.DataFrame(rows, columns=["data", "seed", "radius", "csr_lower"])


def sharpness(rng, randX=3.0, randY=4.0, noise=0.2, seeds=4):
    """Doublings of the sharpness from level 0 to 1."""
    rows = []
    for kind, rise in (("real", 0.0), ("randX", randX), ("randY", randY)):
        for level in (0.0,) if kind == "real" else (0.4, 0.8):
            for seed, (when, epoch) in itertools.product(
                range(seeds), (("first fit", 10), ("end", 20))
            ):
                value = -(2 ** (4 + rise * level + rng.normal(0, noise)))
                rows.append((kind, level, seed, when, epoch, value))
    return pd.DataFrame(rows, columns=["kind", "level", "seed", "when", "epoch", "eigenvalue"])


def figure10(rng, caps=None, cost=None, spoiled=0.2, noise=0.005, seeds=3):
    """Per technique: training accuracy on randY taken away at no cost, at half the strength."""
    taken = {
        "dropout": 0.5,
        "input dropout": 0.2,
        "input noise": 0.1,
        "hidden noise": 0.15,
        "weight decay": 0.05,
        "dropout + adversarial": 0.7,
    } | (caps or {})
    costs = dict.fromkeys(taken, 0.0) | (cost or {})
    rows = []
    for technique, amount in [("none", 0.0), *taken.items()]:
        for strength in (0.0,) if technique == "none" else (0.25, 0.5, 0.75):
            # Past half of the strength it costs validation accuracy.
            share, worse = min(1.0, strength / 0.5), spoiled * (strength > 0.5)
            for seed, data in itertools.product(range(seeds), ("real", "randY")):
                memorized = 0.98 - amount * share - worse
                validation = 0.75 - costs.get(technique, 0.0) - worse
                train = 0.99 if data == "real" else memorized
                best = validation if data == "real" else 0.1
                weight = 0.4 if "adversarial" in technique else 0.0
                noises = rng.normal(0, noise, 2)
                rows.append(
                    (technique, strength, weight, data, seed, train + noises[0], best + noises[1])
                )
    columns = ["technique", "strength", "adversarial_weight", "data", "seed"]
    return pd.DataFrame(rows, columns=[*columns, "train_accuracy", "best_validation_accuracy"])


def figure11(rng, real=(0.0, 0.5, 1.0, 1.5), randY=(0.0, 1.5, 1.0, 0.5), noise=0.05, seeds=3):
    """Doublings of each setting's training loss above the fastest."""
    settings = (("none", 0.0), ("dropout", 0.5), ("input noise", 1.0), ("weight decay", 0.001))
    epochs = np.arange(1, 31)
    parts = [
        {
            "technique": technique,
            "strength": strength,
            "data": data,
            "seed": seed,
            "epoch": epochs,
            "train_loss": 2.0 ** (1 - epochs / 8 + above + rng.normal(0, noise)),
        }
        for data, offsets in (("real", real), ("randY", randY))
        for (technique, strength), above in zip(settings, offsets, strict=True)
        for seed in range(seeds)
    ]
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)
