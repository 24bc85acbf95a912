"""Write scalars with descriptions to TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def add_scalar(writer: SummaryWriter, tag: str, value: float, step: int, description: str = "") -> None:
    """Write a scalar; TensorBoard shows `description`, in Markdown, at the chart's info icon.

    `SummaryWriter.add_scalar` takes no description.
    """
    # Imported here, so that other commands start faster.
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    metadata = SummaryMetadata(
        summary_description=description, plugin_data=SummaryMetadata.PluginData(plugin_name="scalars")
    )
    found = Summary.Value(tag=tag, simple_value=float(value), metadata=metadata)
    cast("Any", writer.file_writer).add_summary(Summary(value=[found]), step)
