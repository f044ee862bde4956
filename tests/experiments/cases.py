"""For every claim: made-up truths in which it holds, in which the opposite does, and neither.

Each entry is (holds, opposite, null): changes to the defaults of its figure's made-up table.
"""

import numpy as np

INF = np.inf
LOUD = 0.15

NOISE_LEVELS = {
    **{
        f"{name}_{kind}": case
        for kind in ("randx", "randy")
        for name, case in {
            "radius": ({"nearer": -2}, {"nearer": 2}, {"nearer": 0, "noise": LOUD}),
            "radius_training": ({"nearer": -2}, {"nearer": 2}, {"nearer": 0, "noise": LOUD}),
            "csr": ({"csr": 0.5}, {"csr": -0.3, "csr_after_peak": 0}, {"csr": 0, "noise": LOUD}),
            "csr_lass": (
                {"csr": 0.5},
                {"csr": -0.3, "csr_after_peak": 0},
                {"csr": 0, "csr_after_peak": 0, "noise": LOUD},
            ),
            "csr_monotone": (
                {"csr": 0.5},
                {"csr": -0.3, "csr_after_peak": 0.0, "noise": 0.001},
                {"csr": 0.15, "csr_after_peak": 0.0, "noise": 0.2},
            ),
            "csr_matched": (
                {"csr_matched": 0.3},
                {"csr_matched": -0.2, "csr": 0.0, "csr_after_peak": 0.0},
                {"csr_matched": 0.0, "csr": 0.0, "csr_after_peak": 0.0, "noise": LOUD},
            ),
            "fits": ({"train": 1.0}, {"train": 0.8}, {"train": 0.95, "noise": 20.0}),
            "final_accuracy": (
                {"accuracy": -0.2},
                {"accuracy": 0.1, "fall": 0.0},
                {"accuracy": 0.0, "fall": 0.0, "noise": LOUD},
            ),
            "best_accuracy": (
                {"accuracy": -0.2},
                {"accuracy": 0.1},
                {"accuracy": 0, "noise": LOUD},
            ),
        }.items()
    },
    "radius_own_noise": ({"nearer": -2}, {"nearer": 2}, {"nearer": 0, "noise": LOUD}),
    "patterns_first": (
        {"clean_first": 3},
        {"clean_first": -2.6},
        {"clean_first": 1.0, "noise": 0.1},
    ),
    "true_label_first": (
        {"true_first": 0.5},
        {"true_first": -0.5},
        {"true_first": 0, "noise": 0.5},
    ),
    "randy_takes_longer": (
        {"randy_later": 2},
        {"randy_later": -1.5},
        {"randy_later": 0.3, "noise": 0.05},
    ),
    "randy_peaks_early": (
        {"peak": 0.2, "fall": 0.3},
        {"peak": 0.9, "fall": 0.3},
        {"peak": 0.01, "fall": 0.0, "noise": LOUD},
    ),
    "randy_falls": (
        {"fall": 0.2},
        {"peak": 1.0, "fall": 0.0},
        {"peak": 0.1, "fall": 0.018, "noise": 0.02},
    ),
    "randy_csr_rises_meanwhile": (
        {"csr_after_peak": 0.3, "csr_matched": 0.0},
        {"csr_after_peak": -0.3, "csr_matched": 0.0},
        {"csr_after_peak": 0.0, "csr_matched": 0.0, "noise": LOUD},
    ),
}

FLAT = dict.fromkeys(
    ("dropout", "input dropout", "input noise", "hidden noise", "weight decay"), 0.2
)
FLAT["dropout + adversarial"] = 0.2

CASES = {
    "figure01_real_not_binomial": ({"real": 1.0}, {"real": INF}, {"real": 4.0, "n": 30}),
    "figure01_randx_binomial": ({"randX": INF}, {"randX": 4.0}, {"randX": 19.0}),
    "figure01_randx_binomial_within_classes": (
        {"randX": INF, "n": 1000},
        {"randX": 4.0},
        {"randX": 99.0},
    ),
    "figure01_real_beyond_randx": (
        {"real": 1.0, "randX": INF},
        {"real": INF, "randX": 1.0},
        {"real": 2.5, "randX": 4.5, "n": 60},
    ),
    "figure01_real_beyond_randy": (
        {"real": 1.0, "randY": 8.0},
        {"real": 8.0, "randY": 1.0},
        {"real": 2.5, "randY": 4.5, "n": 60},
    ),
    "figure01_randy_beyond_randx": (
        {"randY": 4.0, "randX": INF},
        {"randY": INF, "randX": 4.0},
        {"randY": 4.0, "randX": 4.5, "n": 60},
    ),
    "figure01_randy_not_binomial": ({"randY": 4.0}, {"randY": INF}, {"randY": 32.0}),
    "figure02_randy_useful": ({"randY": 0.8}, {"randY": -0.5}, {"randY": 0.25}),
    "figure02_randy_as_useful": (
        {"real": 0.9, "randY": 0.9},
        {"real": 0.9, "randY": 0.0},
        {"real": 0.5, "randY": 0.43, "n": 12},
    ),
    "figure05_real_near_maximum": (
        {"above": 0.0},
        {"above": 0.05},
        {"above": 0.01, "noise": 0.005},
    ),
    "figure05_noise_needs_more": (
        {"real": 5.0, "noisy": 6.5},
        {"real": 6.5, "noisy": 5.0},
        {"real": 5.5, "noisy": 6.0, "noise": 0.005},
    ),
    "capacity_cifar10_randx": (
        {"real": 5.5, "randX": 7.0},
        {"real": 7.0, "randX": 5.5},
        {"real": 5.5, "randX": 6.0, "noise": 0.005},
    ),
    "capacity_cifar10_randy": (
        {"real": 5.8, "randY": 5.8},
        {"real": 5.2, "randY": 6.8},
        {"real": 5.5, "randY": 6.0, "noise": 0.005},
    ),
    "capacity_removed": (
        {"randX": 7.0, "removed": 5.2},
        {"randX": 5.2, "removed": 7.0},
        {"randX": 6.0, "removed": 5.5, "noise": 0.005},
    ),
    "capacity_removed_beyond_real": (
        {"real": 6.5, "removed": 5.2},
        {"real": 5.2, "removed": 6.5},
        {"real": 6.0, "removed": 5.5, "noise": 0.005},
    ),
    "figure09_radius_randx": (
        {"real": 0.3, "randX": 0.7},
        {"real": 0.7, "randX": 0.3},
        {"real": 0.5, "randX": 0.625, "noise": LOUD},
    ),
    "figure09_radius_randy": (
        {"real": 0.3, "randY": 0.7},
        {"real": 0.7, "randY": 0.3},
        {"real": 0.5, "randY": 0.625, "noise": LOUD},
    ),
    "figure10_dropout_caps": (
        {"caps": {"dropout": 0.5}},
        {"caps": {"dropout": 0.5}, "cost": {"dropout": 0.1}},
        {"caps": {"dropout": 0.12}, "noise": 0.05},
    ),
    "figure10_dropout_best": (
        {"caps": {"dropout": 0.5}},
        {"caps": {"dropout": 0.1, "weight decay": 0.5}},
        {"caps": FLAT | {"dropout": 0.22}, "noise": 0.03},
    ),
    "figure10_adversarial_best": (
        {"caps": {"dropout + adversarial": 0.7}},
        {"caps": {"dropout + adversarial": 0.3}},
        {"caps": FLAT | {"dropout + adversarial": 0.22}, "noise": 0.03},
    ),
    **{
        f"figure10_flat_{name.replace(' + ', '_').replace(' ', '_')}": (
            {"caps": {name: 0.5}, "spoiled": 0.0},
            {"caps": {name: 0.3}, "cost": {name: 0.2}, "spoiled": 0.0},
            {"caps": {name: 0.3}, "cost": {name: 0.03}, "spoiled": 0.0, "noise": 0.05},
        )
        for name in FLAT
    },
    "figure11_order_differs": (
        {"real": (0, 0.5, 1, 1.5), "randY": (0, 1.5, 1, 0.5)},
        {"real": (0, 0.5, 1, 1.5), "randY": (0, 0.5, 1, 1.5)},
        {"real": (0, 0, 0, 0), "randY": (0, 0, 0, 0), "noise": 0.5},
    ),
    "figure01_always_same": ({"real": 0.2}, {"real": INF}, {"real": 1.8}),
    "figure02_real_useful": ({"real": 0.8}, {"real": -0.5}, {"real": 0.0}),
    "figure03_class_labels": (
        {"real": 0.7, "randX": 0.2},
        {"real": 0.2, "randX": 0.7},
        {"real": 0.5, "randX": 0.5, "noise": LOUD},
    ),
    "figure03_mean_over_training": (
        {"real": 0.7, "randX": 0.2},
        {"real": 0.2, "randX": 0.7},
        {"real": 0.5, "randX": 0.5, "noise": LOUD},
    ),
    "figure03_unique_labels": (
        {"unique_real": 0.7, "unique_randX": 0.2},
        {"unique_real": 0.2, "unique_randX": 0.7},
        {"unique_real": 0.5, "unique_randX": 0.5, "noise": LOUD},
    ),
    "figure03_real_high": ({"real": 0.7}, {"real": 0.2}, {"real": 0.42, "noise": 0.1}),
    "figure03_noise_low": ({"randX": 0.2}, {"randX": 0.7}, {"randX": 0.42, "noise": 0.1}),
    "norms_l2": ({"l2": (0.7, 0.2)}, {"l2": (0.2, 0.7)}, {"l2": (0.5, 0.5), "noise": LOUD}),
    "norms_linf": ({"linf": (0.7, 0.2)}, {"linf": (0.2, 0.7)}, {"linf": (0.5, 0.5), "noise": LOUD}),
    "figure04_diagonal_real": ({"real": (2, 0)}, {"real": (-2, 0)}, {"real": (0, 0), "noise": 1.0}),
    "figure04_diagonal_randx": (
        {"randX": (2, 0)},
        {"randX": (-2, 0)},
        {"randX": (0, 0), "noise": 1.0},
    ),
    "figure04_shared_patterns": (
        {"real": (0.5, 0), "randX": (2, 0)},
        {"real": (2, 0), "randX": (0.5, 0)},
        {"real": (1, 0), "randX": (1, 0), "noise": 0.7},
    ),
    "figure04_off_diagonal": (
        {"real": (1, 1), "randX": (1, -1)},
        {"real": (1, -1), "randX": (1, 1)},
        {"real": (1, 0), "randX": (1, 0), "noise": 0.7},
    ),
    "figure06_capacity_real": (
        {"capacity_real": 1.0},
        {"capacity_real": -1.0},
        {"capacity_real": 0.0, "noise": 0.5},
    ),
    "figure06_capacity_noise": (
        {"capacity_noise": 1.0},
        {"capacity_noise": -1.0},
        {"capacity_noise": 0.0, "noise": 0.5},
    ),
    "figure06_examples_real": (
        {"examples_real": 1.0},
        {"examples_real": -1.0},
        {"examples_real": 0.0, "noise": 0.5},
    ),
    "figure06_examples_noise": (
        {"examples_noise": 1.0},
        {"examples_noise": -1.0},
        {"examples_noise": 0.0, "noise": 0.5},
    ),
    "figure06_capacity_noise_more": (
        {"capacity_real": 0.5, "capacity_noise": 2.0},
        {"capacity_real": 2.0, "capacity_noise": 0.5},
        {"capacity_real": 1.0, "capacity_noise": 1.0, "noise": 0.5},
    ),
    "figure06_examples_noise_more": (
        {"examples_real": 0.5, "examples_noise": 2.0},
        {"examples_real": 2.0, "examples_noise": 0.5},
        {"examples_real": 1.0, "examples_noise": 1.0, "noise": 0.5},
    ),
    "figure06_diminishing_returns": (
        {"capacity_real": 2.0, "capacity_noise": 2.0, "early": 1.0},
        {"capacity_real": 2.0, "capacity_noise": 2.0, "early": 0.0},
        {"capacity_real": 1.0, "capacity_noise": 1.0, "early": 0.5, "noise": 0.5},
    ),
    "figure06_noise_later": (
        {"later": 1.0},
        {"later": -1.5, "capacity_noise": 0.5},
        {"later": 0.0, "capacity_real": 1.0, "capacity_noise": 1.0, "noise": 0.5},
    ),
    "figure06_noise_sooner": (
        {"later": -1.5, "capacity_noise": 0.5},
        {"later": 1.0},
        {"later": 0.0, "capacity_real": 1.0, "capacity_noise": 1.0, "noise": 0.5},
    ),
    **{f"figure07_{name}": case for name, case in NOISE_LEVELS.items()},
    **{f"figure08_{name}": case for name, case in NOISE_LEVELS.items()},
    "figure09_randx_beyond_real": (
        {"real": 0.3, "randX": 0.7},
        {"real": 0.7, "randX": 0.3},
        {"real": 0.5, "randX": 0.5, "noise": LOUD},
    ),
    "figure09_randy_beyond_real": (
        {"real": 0.3, "randY": 0.7},
        {"real": 0.7, "randY": 0.3},
        {"real": 0.5, "randY": 0.5, "noise": LOUD},
    ),
    "figure09_rises": ({"rise": 0.15}, {"rise": -0.15}, {"rise": 0.0, "noise": 0.1}),
    "figure09_levels_off": (
        {"rise": 0.2, "speed": 4.0},
        {"rise": 0.2, "speed": -4.0},
        {"rise": 0.1, "speed": 1e-6, "noise": 0.1},
    ),
    "figure09_training_rises": (
        {"train_rise": 0.2},
        {"train_rise": -0.2, "train_fall": -0.2},
        {"train_rise": 0.0, "train_fall": 0.0, "noise": 0.1},
    ),
    "figure09_training_falls": (
        {"train_rise": 0.2, "train_fall": 0.2},
        {"train_rise": 0.1, "train_fall": -0.2},
        {"train_rise": 0.0, "train_fall": 0.0, "noise": 0.1},
    ),
    "radii_randx_beyond_real": (
        {"real": 0.0, "randX": 0.3},
        {"real": 0.3, "randX": 0.0},
        {"real": 0.2, "randX": 0.2, "noise": LOUD},
    ),
    "radii_randy_beyond_real": (
        {"real": 0.0, "randY": 0.3},
        {"real": 0.3, "randY": 0.0},
        {"real": 0.2, "randY": 0.2, "noise": LOUD},
    ),
    "sharpness_randx": ({"randX": 3.0}, {"randX": -3.0}, {"randX": 0.0, "noise": 1.0}),
    "sharpness_randy": ({"randY": 3.0}, {"randY": -3.0}, {"randY": 0.0, "noise": 1.0}),
    "sharpness_randx_first_fit": ({"randX": 3.0}, {"randX": -3.0}, {"randX": 0.0, "noise": 1.0}),
    "sharpness_randy_first_fit": ({"randY": 3.0}, {"randY": -3.0}, {"randY": 0.0, "noise": 1.0}),
}

# Effects between the two margins: no difference worth the name.
SMALLER = {
    "figure01_real_not_binomial": {"real": 7.0},
    "figure02_randy_useful": {"randY": 0.26, "n": 1000},
    "figure03_class_labels": {"real": 0.5, "randX": 0.5},
    "figure04_shared_patterns": {"real": (1, 0), "randX": (1, 0), "noise": 0.01},
    "figure05_noise_needs_more": {"real": 5.5, "noisy": 5.5},
    "figure06_capacity_noise_more": {"capacity_real": 1.0, "capacity_noise": 1.0, "noise": 0.0},
    "figure07_radius_randx": {"nearer": 0.0, "noise": 0.001},
    "figure07_fits_randx": {"train": 0.95},
    "figure07_fits_randy": {"train": 0.95},
    "figure07_patterns_first": {"clean_first": 0.0},
    "figure08_radius_randy": {"nearer": 0.0, "noise": 0.001},
    "figure09_radius_randx": {"real": 0.5, "randX": 0.5, "noise": 0.001},
    "figure10_dropout_caps": {"caps": {"dropout": 0.12}},
}
