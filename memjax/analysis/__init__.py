"""Per-example quantities: pure functions of (logits_fn, params, images, labels).

The public functions are here by name, each imported with its module at its first use. They are for
any JAX model and know no run: gradients, jacobians, sensitivity, critical, difficulty, scores,
memorization, attribution, membership, localization, sharpness, filters, statistics. What begins
with `_` is their machinery and may change. Imports errors, keys and memory, nothing else of
memjax.

Example:
  >>> from memjax import analysis
  >>> round(float(analysis.gini([0.0, 0.0, 1.0])), 3)
  0.667
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memjax.analysis.attribution import (
        example_attribution as example_attribution,
        self_influence as self_influence,
    )
    from memjax.analysis.attribution_estimators import tracin as tracin, trak as trak
    from memjax.analysis.attribution_retrain import (
        retrain as retrain,
        retrained_measures as retrained_measures,
    )
    from memjax.analysis.critical import (
        critical_bounds as critical_bounds,
        critical_bounds_over_radii as critical_bounds_over_radii,
        critical_radius as critical_radius,
        critical_sample_ratio as critical_sample_ratio,
        lass as lass,
        pgd as pgd,
    )
    from memjax.analysis.difficulty import (
        agreement as agreement,
        aum as aum,
        first_epoch_learned as first_epoch_learned,
        forgetting_events as forgetting_events,
        loss_trajectory as loss_trajectory,
        probability_correct as probability_correct,
    )
    from memjax.analysis.filters import (
        filter_quality as filter_quality,
        first_layer as first_layer,
        first_layer_filters as first_layer_filters,
        rank_against_initial as rank_against_initial,
    )
    from memjax.analysis.gradient_variance import (
        label_logit_gradients as label_logit_gradients,
        variance_of_gradients as variance_of_gradients,
    )
    from memjax.analysis.gradients import (
        gradient_norms as gradient_norms,
        per_example_gradients as per_example_gradients,
    )
    from memjax.analysis.influence import influence_functions as influence_functions
    from memjax.analysis.input_gradients import (
        input_gradient_norms as input_gradient_norms,
        input_loss_curvature as input_loss_curvature,
    )
    from memjax.analysis.interval import interval_bounds as interval_bounds
    from memjax.analysis.jacobians import (
        empirical_ntk as empirical_ntk,
        extended_data_jacobian as extended_data_jacobian,
        extended_data_jacobian_spectra as extended_data_jacobian_spectra,
        input_jacobians as input_jacobians,
        jacobian_norms as jacobian_norms,
        jacobian_singular_values as jacobian_singular_values,
        parameter_jacobian_norms as parameter_jacobian_norms,
    )
    from memjax.analysis.localization import (
        network_layers as network_layers,
        rewound_params as rewound_params,
        units_to_forget as units_to_forget,
    )
    from memjax.analysis.losses import softmax_cross_entropy as softmax_cross_entropy
    from memjax.analysis.membership import (
        example_vulnerability as example_vulnerability,
        lira_scores as lira_scores,
        logit_confidence as logit_confidence,
        loss_scores as loss_scores,
        rmia_scores as rmia_scores,
    )
    from memjax.analysis.membership_curves import attack_auc as attack_auc, attack_tpr as attack_tpr
    from memjax.analysis.memorization import (
        cross_influence as cross_influence,
        leave_one_out_ridge as leave_one_out_ridge,
        memorization_scores as memorization_scores,
        top_influence_pairs as top_influence_pairs,
    )
    from memjax.analysis.microbatch import (
        over_devices as over_devices,
        over_microbatches as over_microbatches,
    )
    from memjax.analysis.prediction_depth import (
        depth_of as depth_of,
        layer_embeddings as layer_embeddings,
        nearest_classes as nearest_classes,
    )
    from memjax.analysis.products import (
        gradient_products as gradient_products,
        projected_gradients as projected_gradients,
    )
    from memjax.analysis.scores import (
        el2n as el2n,
        entropy as entropy,
        example_scores as example_scores,
        margin as margin,
    )
    from memjax.analysis.sensitivity import loss_sensitivity as loss_sensitivity, run_sgd as run_sgd
    from memjax.analysis.sharpness import (
        hessian_eigenvalue as hessian_eigenvalue,
        hessian_trace as hessian_trace,
    )
    from memjax.analysis.statistics import (
        binomial_null as binomial_null,
        bootstrap_interval as bootstrap_interval,
        cliffs_delta as cliffs_delta,
        gini as gini,
        mean_difference_interval as mean_difference_interval,
        overdispersion as overdispersion,
    )
    from memjax.analysis.trust import (
        attribution_trust as attribution_trust,
        linear_datamodeling_score as linear_datamodeling_score,
    )

# Module -> what it makes public.
_PUBLIC = {
    "attribution": (
        "example_attribution",
        "self_influence",
    ),
    "attribution_estimators": (
        "tracin",
        "trak",
    ),
    "attribution_retrain": (
        "retrain",
        "retrained_measures",
    ),
    "critical": (
        "critical_bounds",
        "critical_bounds_over_radii",
        "critical_radius",
        "critical_sample_ratio",
        "lass",
        "pgd",
    ),
    "difficulty": (
        "agreement",
        "aum",
        "first_epoch_learned",
        "forgetting_events",
        "loss_trajectory",
        "probability_correct",
    ),
    "filters": (
        "filter_quality",
        "first_layer",
        "first_layer_filters",
        "rank_against_initial",
    ),
    "gradient_variance": (
        "label_logit_gradients",
        "variance_of_gradients",
    ),
    "gradients": (
        "gradient_norms",
        "per_example_gradients",
    ),
    "influence": ("influence_functions",),
    "input_gradients": (
        "input_gradient_norms",
        "input_loss_curvature",
    ),
    "interval": ("interval_bounds",),
    "jacobians": (
        "empirical_ntk",
        "extended_data_jacobian",
        "extended_data_jacobian_spectra",
        "input_jacobians",
        "jacobian_norms",
        "jacobian_singular_values",
        "parameter_jacobian_norms",
    ),
    "localization": (
        "network_layers",
        "rewound_params",
        "units_to_forget",
    ),
    "losses": ("softmax_cross_entropy",),
    "membership": (
        "example_vulnerability",
        "lira_scores",
        "logit_confidence",
        "loss_scores",
        "rmia_scores",
    ),
    "membership_curves": (
        "attack_auc",
        "attack_tpr",
    ),
    "memorization": (
        "cross_influence",
        "leave_one_out_ridge",
        "memorization_scores",
        "top_influence_pairs",
    ),
    "microbatch": (
        "over_devices",
        "over_microbatches",
    ),
    "prediction_depth": (
        "depth_of",
        "layer_embeddings",
        "nearest_classes",
    ),
    "products": (
        "gradient_products",
        "projected_gradients",
    ),
    "scores": (
        "el2n",
        "entropy",
        "example_scores",
        "margin",
    ),
    "sensitivity": (
        "loss_sensitivity",
        "run_sgd",
    ),
    "sharpness": (
        "hessian_eigenvalue",
        "hessian_trace",
    ),
    "statistics": (
        "binomial_null",
        "bootstrap_interval",
        "cliffs_delta",
        "gini",
        "mean_difference_interval",
        "overdispersion",
    ),
    "trust": (
        "attribution_trust",
        "linear_datamodeling_score",
    ),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    # Lazily: `import memjax` stays quick, and training takes a step of LASS without all the rest.
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'memjax.analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(f"memjax.analysis.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
