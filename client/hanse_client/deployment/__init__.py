"""`hanse store …`: the operator's commands, and the node that takes part in a federation."""
