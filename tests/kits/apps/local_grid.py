"""A Grid that calls `numpy_client` in this very process: no workers, for unit tests."""

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from hanse_simulations.engines.client import AnsweringClientApp
from kits.apps.numpy_client import app


class LocalGrid(Grid):
    """Nodes get odd ids and are listed in another order than their stores' names."""

    def __init__(self, stores: int, client_app: str = "kits.apps.numpy_client:app") -> None:
        self.client = AnsweringClientApp(client_app)
        self.silent: set[int] = set()
        self.broken: set[int] = set()
        self.questions = 0
        self.contexts = {
            7919 * (stores - i): Context(
                run_id=1,
                node_id=7919 * (stores - i),
                node_config={"partition-id": i, "num-partitions": stores},
                state=RecordDict(),
                run_config={},
            )
            for i in range(stores)
        }
        TaskIdentity.run_id = TaskIdentity.task_id = 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    def set_run(self, run):
        pass

    @property
    def run(self):
        return None

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_node_ids(self):
        return sorted(self.contexts)

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.questions += message.metadata.message_type == "query.describe"
            if message.metadata.message_type != "query.describe":
                if node in self.silent:
                    continue
                if node in self.broken:
                    error = Error(2, "Traceback\n  somewhere\nKeyError: 'x'")
                    replies.append(Message(error, reply_to=message))
                    continue
            # The content is shared between the messages of a stage, as a strategy sends it.
            replies.append(self.client(message, self.contexts[node]))
        return replies


__all__ = ["LocalGrid", "app"]
