"""Transition tables: in which states something may be, and what brings it from one to another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, NamedTuple, TypeVar

State = TypeVar("State", bound=str)
Event = TypeVar("Event", bound=str)


class InvalidTransition(ValueError):
    """A move that the table does not have: whoever asked for it is wrong about where something stands."""


class Move(NamedTuple, Generic[State, Event]):
    """What an event does: it brings something from each of some states to one of others.

    `after` is empty where the state stays as it is.
    """

    event: Event
    before: tuple[State, ...]
    after: tuple[State, ...] = ()


class Transitions(Generic[State, Event]):
    """A state machine as data.

    >>> table = Transitions("opened", ("new",), [Move("trained", ("new",), ("done", "failed"))])
    >>> table.allows("new", "trained", "done"), table.allows("done", "trained", "new")
    (True, False)
    >>> sorted(table.ended), sorted(table.before("trained"))
    (['done', 'failed'], ['new'])
    """

    def __init__(self, first: Event, initial: tuple[State, ...], moves: Collection[Move[State, Event]]) -> None:
        self.first = first
        self.initial = initial
        self.moves = tuple(moves)
        self._after: dict[tuple[State, Event], set[State]] = {}
        for event, before, after in moves:
            for state in before:
                self._after.setdefault((state, event), set()).update(after or (state,))

    @property
    def states(self) -> frozenset[State]:
        """All states."""
        before = (state for move in self.moves for state in (*move.before, *move.after))
        return frozenset((*self.initial, *before))

    @property
    def events(self) -> frozenset[Event]:
        """All events."""
        return frozenset((self.first, *(move.event for move in self.moves)))

    @property
    def ended(self) -> frozenset[State]:
        """The states that nothing leads out of."""
        return self.states - {state for state, _ in self._after}

    def before(self, *events: Event) -> frozenset[State]:
        """Return the states in which one of these events may happen."""
        return frozenset(state for state, event in self._after if event in events)

    def after(self, *events: Event) -> frozenset[State]:
        """Return the states to which these events lead."""
        return frozenset(state for (_, event), after in self._after.items() if event in events for state in after)

    def leading_to(self, event: Event) -> frozenset[State]:
        """Return the states from which an event may still come, however many others have to come first."""
        found = self.before(event)
        while True:
            more = {state for (state, _), after in self._after.items() if after & found}
            if more <= found:
                return found
            found |= more

    def allows(self, before: State, event: Event, after: State) -> bool:
        """Whether an event may bring something from one state to another, or leave it where it is."""
        return after in self._after.get((before, event), ())

    def check(self, before: State, event: Event, after: State) -> None:
        """Raise InvalidTransition for a move that is not allowed."""
        if not self.allows(before, event, after):
            raise InvalidTransition(f"{event} does not lead from {before} to {after}")

    def diagram(self) -> str:
        """Return the table as a Mermaid state diagram; an event that leaves a state as it is is left out.

        >>> print(Transitions("opened", ("new",), [Move("trained", ("new",), ("done",))]).diagram())
        stateDiagram-v2
            [*] --> new: opened
            new --> done: trained
            done --> [*]
        """
        lines = [f"[*] --> {state}: {self.first}" for state in self.initial]
        arrows: dict[tuple[State, State], list[Event]] = {}
        for event, before, after in self.moves:
            for start in before:
                for end in after:
                    arrows.setdefault((start, end), []).append(event)
        lines += [f"{start} --> {end}: {', '.join(events)}" for (start, end), events in arrows.items()]
        ends = dict.fromkeys(state for move in self.moves for state in move.after if state in self.ended)
        lines += [f"{state} --> [*]" for state in ends]
        return "\n    ".join(["stateDiagram-v2", *lines])
