"""The pictures of the passes `rewinding` and `localization`."""

import numpy as np
import pandas as pd
from etils import epath

from memjax.passes.base import Context, save_figure

_CHECKPOINTS = 6


def draw_rewinding(context: Context, table: pd.DataFrame) -> epath.Path:
    """Draws figures/rewinding.png: accuracy by the layer rewound, a line a checkpoint.

    Args:
      context: of the run.
      table: of the pass `rewinding`.

    Returns:
      The path.
    """
    from memjax.reporting.style import level_style, new_figure

    groups = list(table["group"].unique())
    steps = np.sort(table["step"].unique())
    shown = steps[np.unique(np.linspace(0, len(steps) - 1, _CHECKPOINTS).round().astype(int))]
    figure, axes = new_figure(columns=len(groups), width=3.6, height=3.2)
    for ax, group in zip(axes[0], groups, strict=True):
        for place, step in enumerate(shown):
            rows = table[(table["group"] == group) & (table["step"] == step)]
            means = rows.groupby("layer")["accuracy"].mean()
            label = f"epoch {rows['epoch'].iloc[0]:.3g}"
            ax.plot(means.index, means, label=label, **level_style(place, len(shown)))
        names = table.drop_duplicates("layer").sort_values("layer")
        ax.set_xticks(names["layer"], names["layer_name"], rotation=60, fontsize=7, ha="right")
        ax.set(title=group, ylim=(-0.03, 1.03), xlabel="layer rewound")
    axes[0, 0].set_ylabel("accuracy")
    axes[0, 0].legend(fontsize=7, title="parameters of", title_fontsize=7)
    return save_figure(context, figure, "rewinding")


def draw_units(context: Context, table: pd.DataFrame) -> epath.Path:
    """Draws figures/localization.png: how many units an example needs, and where they are.

    Args:
      context: of the run.
      table: of the pass `localization`; its last step is drawn.

    Returns:
      The path.
    """
    from memjax.reporting.style import new_figure, series_style

    table = table[(table["step"] == table["step"].max()) & (table["num_units"] > 0)]
    figure, axes = new_figure(columns=2, width=4.2, height=3.2)
    is_corrupted = table["is_corrupted"].astype(bool)
    groups = {"corrupted": table[is_corrupted], "clean": table[~is_corrupted]}
    for place, (group, rows) in enumerate(groups.items()):
        if rows.empty:
            continue
        look = series_style(place)
        units = np.sort(rows["num_units"])
        known = units[np.isfinite(units)]
        shares = np.arange(1, len(known) + 1) / len(units)
        axes[0, 0].step(known, shares, where="post", label=f"{group} ({len(units)})",
                        color=look["color"], linestyle=look["linestyle"])  # fmt: skip
        by_layer = np.stack(rows["units_by_layer"].to_list()).sum(axis=0)
        names = list(rows["layers"].iloc[0])
        axes[0, 1].plot(names, by_layer / max(by_layer.sum(), 1), **look)
    axes[0, 0].set(xlabel="units set to zero", ylabel="share of examples forgotten", ylim=(0, 1.03))
    axes[0, 0].legend(fontsize=7)
    axes[0, 1].set(ylabel="share of these units", ylim=(0, None))
    axes[0, 1].tick_params(axis="x", labelrotation=60, labelsize=7)
    return save_figure(context, figure, "localization")
