"""Starting what generates in this process: for texts, or for the requests of batch files."""

from conjoin.bulk.batch_model import BatchModel
from conjoin.bulk.local import LocalModel
from conjoin.bulk.spec import WorkerSpec


def start_model(spec: WorkerSpec) -> LocalModel | BatchModel:
    """Load the model of a worker.

    Raises:
        ConjoinError: it cannot be loaded.
        DeviceNameError: there is no such device.
    """
    return BatchModel(spec) if spec.kind == "requests" else LocalModel.start(spec)
