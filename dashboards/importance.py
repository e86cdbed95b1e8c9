"""Which parameters matter: PED-ANOVA over the trials of a frame, of all of them or per group."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution
from optuna.importance import get_param_importances
from optuna.trial import create_trial

from dashboards.choice import finite, groups
from dashboards.look import PALETTE, blank, figure, label

__all__ = ["importance_shares", "importances"]

_MOST_PARAMETERS = 12


def importances(
    trials: pd.DataFrame,
    space: Mapping[str, BaseDistribution],
    *,
    by: str = "",
    maximize: bool = True,
) -> go.Figure:
    """Draw how much each parameter matters for reaching the best tenth of the values, of all or per group.

    PED-ANOVA (Watanabe et al., IJCAI 2023) in its conditional form, which also weighs parameters that
    only some trials have; shares add up to 1 in each group.

    Args:
        trials: rows of `dashboards.compare.trials`; only complete ones with a finite value count.
        space: what each parameter is drawn from: `study.search.records.read_distributions`.
        by: the column that groups trials; empty for one group.
        maximize: whether larger values are better.
    """
    complete = _complete(trials)
    title = f"Importance, from {len(complete)} complete trials"
    if len(complete) < 2:
        return blank(title, "Importances need at least two complete trials.")
    if not any(name in complete for name in space):
        return blank(title, "The trials have no parameters.")
    shares = {
        str(name): importance_shares(part, space, maximize=maximize)
        for name, part in complete.groupby(groups(complete, by))
    }
    table = pd.DataFrame({name: share for name, share in shares.items() if len(share)})
    if table.empty:
        return blank(title, "The trials do not differ enough to tell the parameters apart.")
    table = table.loc[table.mean(axis=1).sort_values().index[-_MOST_PARAMETERS:]]
    chart = figure(title, height=105 + (16 + 10 * len(table.columns)) * len(table))
    for i, name in enumerate(table):
        chart.add_trace(
            go.Bar(
                x=table[name],
                y=[label(parameter) for parameter in table.index],
                name=label(name),
                orientation="h",
                marker_color=PALETTE[i % len(PALETTE)],
                hovertemplate="%{y}: %{x:.1%}"
                + (f" ({label(name)})" if by else "")
                + "<extra></extra>",
            )
        )
    chart.update_xaxes(
        title_text="share of the importance (%)", tickformat=".0%", rangemode="tozero"
    )
    chart.update_layout(showlegend=bool(by), margin_b=90 if by else 50)
    return chart.update_yaxes(type="category", showgrid=False)


def importance_shares(
    trials: pd.DataFrame, space: Mapping[str, BaseDistribution], *, maximize: bool = True
) -> "pd.Series[float]":
    """Return each parameter's share of the importance; empty where the trials cannot tell.

    Args:
        trials: complete trials with finite values.
        space: what each parameter is drawn from; values outside it are left out.
        maximize: whether larger values are better.
    """
    names = [name for name in space if name in trials]
    kept = optuna.create_study(direction="maximize" if maximize else "minimize")
    for row in trials[["value", *names]].to_dict("records"):
        given = {name: row[name] for name in names if _belongs(row[name], space[name])}
        kept.add_trial(
            create_trial(
                value=row["value"], params=given, distributions={n: space[n] for n in given}
            )
        )
    if len(trials) < 2:
        return pd.Series(dtype=float)
    with warnings.catch_warnings():
        # It warns where all importances come out equal; the figure says so itself.
        warnings.simplefilter("ignore")
        shares = get_param_importances(kept)
    told = len(shares) == 1 or len(set(shares.values())) > 1
    return pd.Series(shares if told else {}, dtype=float)


def _complete(trials: pd.DataFrame) -> pd.DataFrame:
    frame = trials.assign(value=finite(trials["value"]))
    return frame[(frame["state"] == "complete") & frame["value"].notna()]


def _belongs(value: Any, domain: BaseDistribution) -> bool:
    """A trial may lack a parameter, or have it from another domain of the same name."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return False
    try:
        return bool(domain._contains(domain.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False
