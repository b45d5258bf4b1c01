"""A model with a fault that shows only after a while, as it goes in service: `mooring demo --bad-model`."""

from __future__ import annotations

from typing import Any

CONNECTIONS = 200
"""How many predictions it makes: more than the gate asks for, fewer than the demonstration's rollout does."""


class Leaking:
    """A model that takes a connection from a pool for each prediction, say to look a feature up, and returns none.

    Where few predictions are asked of it, as in training and by the gate, it is as good as the one that it wraps.
    Once the pool is empty every prediction fails. A copy that is loaded anew has a full pool.

    >>> class Model:
    ...     def predict(self, inputs):
    ...         return inputs
    >>> model = Leaking(Model(), connections=1)
    >>> model.predict([7])
    [7]
    >>> model.predict([7])
    Traceback (most recent call last):
    ...
    RuntimeError: the pool has no connection left
    """

    def __init__(self, model: Any, connections: int = CONNECTIONS) -> None:
        self.model = model
        self.left = connections

    def predict(self, inputs: Any) -> Any:
        """Return the wrapped model's predictions. Raises RuntimeError once the pool is empty."""
        if self.left <= 0:
            raise RuntimeError("the pool has no connection left")
        self.left -= 1
        return self.model.predict(inputs)
