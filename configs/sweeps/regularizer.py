"""Can regularisers stop memorization? (Figures 10 and 11.) Six techniques, real and randY.

The ranges are the paper's; which values between them, it does not say [not in the paper].
"""

from memjax import presets
from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.scales import (
    ADVERSARIAL_WEIGHTS,
    DROPOUT_AND_ADVERSARIAL,
    SCALES,
    TECHNIQUES,
)
from memjax.experiments.studies import regularizers
from memjax.sweeps.figures import last_rows
from memjax.sweeps.points import Point


def _settings(quick):
    yield "none", "dropout", 0.0, 0.0
    for technique, (field, strengths) in TECHNIQUES.items():
        weights = ADVERSARIAL_WEIGHTS if technique == DROPOUT_AND_ADVERSARIAL else (0.0,)
        chosen = strengths[len(strengths) // 2 :: 4] if quick else strengths
        for weight in weights[:1] if quick else weights:
            for strength in chosen:
                yield technique, field, strength, weight


def get_points(variant=""):
    quick = presets.is_quick(variant)
    if not quick:
        yield from regularizers(SCALES["paper"]["regularizers"])
        return
    for data in ("real", "randY"):
        for technique, field, strength, weight in _settings(quick):
            for seed in range(1 if quick else 3):
                config = presets.noise(presets.cifar_cnn(variant), data, 1.0)
                config.regularizer[field] = strength
                config.regularizer.adversarial_weight = weight
                config.seed = config.corruption.seed = seed
                if quick:
                    config.dataset.num_train = 256
                    config.dataset.num_validation = 256
                    config.train.num_epochs = 3
                presets.save_ends_only(config)
                factors = {
                    "technique": technique,
                    "strength": strength,
                    "adversarial_weight": weight,
                    "data": data,
                    "seed": seed,
                }
                words = technique.replace(" + ", "+").replace(" ", "_")
                name = f"{data}_{words}_{strength:g}_weight_{weight:g}_seed_{seed}"
                yield Point(name, factors, config)


def get_tables(results):
    """The tables of figures 10 and 11."""
    setting = ["technique", "strength", "adversarial_weight", "data", "seed"]
    setup = f"The paper's CNN on CIFAR-10, {int(results['epoch'].max())} epochs at most"
    whole = results["epoch"].max() >= 100
    context = Context("paper" if whole else "smoke", setup)
    last = fit.without_distance(last_rows(results))
    fits = last[["point", "member", *fit.COLUMNS]]
    last = last[[*setting, "train_accuracy", "best_validation_accuracy", *fit.COLUMNS]]
    plain = results[(results["failure"] == "") & (results["adversarial_weight"] == 0)]
    plain = plain.merge(fits, on=["point", "member"])
    columns = ["technique", "strength", "data", "seed", "epoch", "train_loss", *fit.COLUMNS]
    return {"figure10": (last, context), "figure11": (plain[columns], context)}
