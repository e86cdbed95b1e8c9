"""What a page shows, as a value that its URL writes out: a link reproduces the view."""

from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dashboards.compare import Axis
from study.errors import UsageError
from study.objective import explain

__all__ = ["View", "parse_view"]


class View(BaseModel):
    """The state of every page; each field is an argument of the URL.

    Attributes:
        study: studies compared, each `DATABASE/NAME` with the database's place on the command line.
        filter: trials that count, such as `arch.width>=16`.
        group: the column whose groups are compared; empty for none.
        column: further columns of the trial table.
        sort: the column the trial table is sorted by; empty for the value. A leading `-` turns it around.
        page: of the trial table, >= 1.
        axis: what runs along x in the history.
        of: whether error by epsilon is each group's mean or its best trial's.
        x: a parameter of the contour chart; empty for the most varied ones.
        y: another one.
        against: the column that the value is traded against; empty for the first there is.
        epsilon: budget of the heat map in 1/255 units; None for the largest.
        key: curve keys on the left axis; none for the value.
        right: curve keys on the right axis.
        along: what runs along x in curves: `step`, `seconds`, or a curve key such as `epoch`.
        smooth: weight of the past in the moving average of curves, 0..0.99.
        log: whether curves have logarithmic y axes.
        trial: trials shown, each `DATABASE/NAME:NUMBER`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    study: tuple[str, ...] = ()
    filter: tuple[str, ...] = ()
    group: str = ""
    column: tuple[str, ...] = ()
    sort: str = ""
    page: int = Field(1, ge=1)
    axis: Axis = "trials"
    of: Literal["mean", "best"] = "mean"
    x: str = ""
    y: str = ""
    against: str = ""
    epsilon: int | None = Field(None, ge=1, le=255)
    key: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    along: str = "step"
    smooth: float = Field(0.0, ge=0, le=0.99)
    log: bool = False
    trial: tuple[str, ...] = ()

    def query(self, **changes: Any) -> str:
        """Return the view as arguments of a URL, with some fields changed; defaults are left out."""
        new = self.model_copy(update=changes)
        given = new.model_dump(exclude_defaults=True, exclude_none=True)
        return urlencode({k: int(v) if v is True else v for k, v in given.items()}, doseq=True)


def parse_view(arguments: Iterable[tuple[str, str]]) -> View:
    """Read the arguments of a URL; empty ones and those that are none of a view's are left out.

    Raises:
        UsageError: a value is not allowed.
    """
    found: dict[str, Any] = {}
    for name, value in arguments:
        field = View.model_fields.get(name)
        if field is None or not value.strip():
            continue
        if isinstance(field.default, tuple):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    try:
        return View.model_validate(found)
    except ValidationError as error:
        raise UsageError(f"the address asks for what cannot be shown: {explain(error)}") from None
