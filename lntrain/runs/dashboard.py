"""TensorBoard: one run, one folder, every figure with its reference line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lntrain.runs.events import Writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# metric -> tag; the groups are TensorBoard's sections
TAGS = {
    "distance_mean": "distance/mean",
    "distance_tail": "distance/tail",
    "distance_last": "distance/last",
    "distance_compensated": "distance/compensated",
    "distance_truth_mean": "distance/truth_mean",
    "distance_truth_last": "distance/truth_last",
    "fit_mean": "fit/mean",
    "fit_tail": "fit/tail",
    "suboptimality_mean": "lasso/suboptimality",
    "suboptimality_tail": "lasso/suboptimality_tail",
    "kkt_residual": "lasso/kkt_residual",
    "lambda_ratio": "lasso/lambda_ratio",
    "support_f1": "support/f1",
    "support_precision": "support/precision",
    "support_recall": "support/recall",
    "support_size": "support/size",
    "support_undecided": "support/undecided",
    "train_loss": "loss/train",
    "l1_norm_mean": "l1/mean",
    "l1_norm_last": "l1/last",
}

LAYOUT = {
    "Label noise meets its Lasso": {
        "log10 distance to the Lasso": [
            "Multiline",
            ["^log10/distance_mean$", "^log10/distance_tail$", "^log10/distance_compensated$", "^log10/distance_last$"],
        ],
        "log10 distance of the fit": ["Multiline", ["^log10/fit_mean$", "^log10/fit_tail$"]],
        "penalty reached / predicted": ["Multiline", ["^lasso/lambda_ratio$", "^reference/one$"]],
        "l1 norm": ["Multiline", ["^l1/mean$", "^l1/last$", "^reference/l1$"]],
        "support size": ["Multiline", ["^support/size$", "^support/undecided$", "^reference/support$"]],
        "support against the Lasso's": ["Multiline", ["^support/f1$", "^support/precision$", "^support/recall$"]],
        "log10 KKT residual and suboptimality": ["Multiline", ["^log10/kkt_residual$", "^log10/suboptimality_mean$"]],
    }
}
# TensorBoard's axes are linear and these fall by decades
LOG10 = (
    "distance_mean",
    "distance_tail",
    "distance_last",
    "distance_compensated",
    "fit_mean",
    "fit_tail",
    "kkt_residual",
    "suboptimality_mean",
    "suboptimality_tail",
)
HPARAM_METRICS = (
    "distance_mean",
    "distance_last",
    "distance_compensated",
    "lambda_ratio",
    "support_f1",
    "kkt_residual",
)
BANDS = {
    "log10 distance of the mean": "log10/distance_mean",
    "log10 distance, compensated labels": "log10/distance_compensated",
    "penalty reached / predicted": "lasso/lambda_ratio",
    "support: F1 against the Lasso's": "support/f1",
}


class Dashboard:
    """Writes a run's events into `folder`.

    `purge_step` drops what an interrupted run wrote past its checkpoint; `settled` is the step from which
    the penalty's estimate is shown.
    """

    def __init__(
        self,
        folder: Path,
        *,
        purge_step: int | None = None,
        replicas: bool = False,
        settled: int = 0,
        layout: dict[str, Any] | None = None,
    ) -> None:
        self.writer = Writer(str(folder), purge_step=purge_step)
        self.replicas, self.settled = replicas, settled
        layout = {name: dict(charts) for name, charts in LAYOUT.items()} if layout is None else layout
        if replicas:
            charts = {title: ["Margin", [tag, f"{tag}_low", f"{tag}_high"]] for title, tag in BANDS.items()}
            layout["Mean and one standard deviation, over replicas or seeds"] = charts
        if purge_step is None and layout:
            self.writer.add_custom_scalars(layout)

    def text(self, tag: str, lines: str) -> None:
        """A block of plain text, its columns kept."""
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in lines.splitlines()), 0)

    def row(self, row: Mapping[str, float], coef: Tensor | None, references: Mapping[str, float]) -> None:
        """One snapshot's metrics, the reference lines and the histogram of the time average."""
        step = int(row["step"])
        values: dict[str, float] = {}
        for name, tag in TAGS.items():
            value, sd = row.get(name, math.nan), row.get(f"{name}_sd", 0.0)
            if not math.isfinite(value) or (name == "lambda_ratio" and step < self.settled):
                continue  # the first steps are all transient and would set the chart's scale
            values |= self._banded(tag, value, sd)
            if name in LOG10 and value > 0:
                values |= self._banded(f"log10/{name}", math.log10(value), sd / value / math.log(10))
        values |= {f"reference/{name}": value for name, value in references.items()}
        write_scalars(self.writer, values, step)
        if coef is not None:
            self.writer.add_histogram("coef/mean", coef, step)

    def _banded(self, tag: str, value: float, sd: float) -> dict[str, float]:
        if not self.replicas or tag not in BANDS.values():
            return {tag: value}
        return {tag: value, f"{tag}_low": value - sd, f"{tag}_high": value + sd}

    def finish(
        self, figures: Mapping[str, Figure], hparams: Mapping[str, Any], summary: Mapping[str, Any], step: int
    ) -> None:
        """Figures, and HParams in this same run (run_name="." makes no sub-run)."""
        for name, figure in figures.items():
            self.writer.add_figure(f"figures/{name}", figure, step)
        chosen = {
            name: value
            for name, value in summary.items()
            if name in HPARAM_METRICS or name.startswith(("log10_", "final_"))
        }
        metrics = {
            f"result/{name}": value for name, value in chosen.items() if value is not None and math.isfinite(value)
        }
        write_hparams(self.writer, hparams, metrics, step)
        self.writer.flush()

    def flush(self) -> None:
        """Write what is kept: a checkpoint counts on the events before it."""
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the events."""
        self.writer.close()


def write_hparams(
    writer: SummaryWriter, values: Mapping[str, Any], metrics: Mapping[str, float], step: int = 0
) -> None:
    """HParams of the run that `writer` writes (add_hparams would open a second file, or a sub-run)."""
    for record in hparams(dict(values), dict(metrics)):  # type: ignore[no-untyped-call]
        writer._get_file_writer().add_summary(record)  # type: ignore[no-untyped-call]
    write_scalars(writer, metrics, step)


def write_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Many scalars in one record: one pass through the writer's queue, and one to read."""
    record = Summary(value=[Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()])
    writer._get_file_writer().add_summary(record, step)  # type: ignore[no-untyped-call]
