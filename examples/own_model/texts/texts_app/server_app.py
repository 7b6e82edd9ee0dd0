"""The coordinator: Flower's FedAvg, as in any Flower app."""

import json
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from hanse_server import SecureGrid  # hanse
from texts_app.task import Classifier, accuracy, trained

app = ServerApp()


def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate the global model on the test set."""
    model = Classifier()
    model.load_state_dict(arrays.to_torch_state_dict(), strict=False)
    return MetricRecord({"accuracy": accuracy(model)})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for the agreed rounds."""
    config = context.run_config
    grid = SecureGrid.from_federation(str(config["federation"]), grid)  # hanse
    result = FedAvg(fraction_evaluate=0.0, min_available_nodes=3).start(
        grid=grid,
        initial_arrays=ArrayRecord(trained(Classifier())),
        num_rounds=int(config["rounds"]),
        evaluate_fn=evaluate,
    )
    if config["result"]:
        table = {n: dict(m) for n, m in result.evaluate_metrics_serverapp.items()}
        Path(str(config["result"])).write_text(json.dumps(table))
