"""TensorBoard's HParams page as its own plugin computes it."""

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context


def hparams_page(folder):
    """Return the settings and metrics of the HParams page of a folder, in TensorBoard's own order.

    The page shows the first five of each.
    """
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(folder))
    runs.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(folder))))
    metadata = context.hparams_metadata(RequestContext(), "")
    experiment = context.experiment_from_metadata(RequestContext(), "", True, metadata, [])
    return [info.name for info in experiment.hparam_infos], [info.name.tag for info in experiment.metric_infos]
