"""Whether some patterns match everything that others match: exact, and never for long (§9.4)."""

from __future__ import annotations

from typing import Final

from .automaton import Automaton

MOST_STATES: Final = 20_000
"""States that are looked at for one lease; what is not decided by then is not covered."""
LETTERS_A_STATE: Final = 4
"""Letters of a parent that are gone through at the cost of one state."""
PLACES_A_STATE: Final = 2_048
"""A set of a parent's states is a bit a place: each time it has so many more, it costs one state more."""

_OTHER: Final = "\ue000"
"""Stands for a character that no pattern names, where one does not name this one as well."""
_SMALLEST: Final = 16
"""Sets of the parent's states that are compared with a new one, for each state of the child."""

Suffixes = dict[tuple[object, ...], int]


class Spent(Exception):
    """The states that may be looked at are used up."""


class Budget:
    """How many states may still be looked at."""

    __slots__ = ("left",)

    def __init__(self, left: int = MOST_STATES) -> None:
        self.left = left

    def spend(self, states: int) -> None:
        """Raises Spent when there are not so many left."""
        self.left -= states
        if self.left < 0:
            raise Spent


def covers(parent: Automaton, child: Automaton, budget: Budget) -> bool:
    """Whether `parent` matches whatever `child` matches. Raises Spent when that takes too long.

    A state of the search is a place of the child, and the set of states of the parent that the same text
    leads to; the child has more when its place accepts and none of the set does.
    """
    return _Search(parent, child, budget).run()


class _Search:
    """One question, with what has been looked at for it."""

    def __init__(self, parent: Automaton, child: Automaton, budget: Budget) -> None:
        self._parent = parent
        self._child = child
        self._budget = budget
        self._seen: dict[tuple[int, int], None] = {}
        self._smallest: dict[int, list[int]] = {}
        self._todo: list[tuple[int, int]] = []
        self._decided = [parent.universal | same for same in _same_ends(parent, child)]
        """For each place of the child the states of the parent that accept whatever is accepted from it."""
        self._other = _unnamed(parent, child)
        self._cost = 1 + len(parent.letters) // PLACES_A_STATE

    def run(self) -> bool:
        """The answer. The empty text is no target, so it does not matter who matches it."""
        start = self._parent.start
        self._todo = [
            (place, start) for place in _places(self._child.start) if not start & self._decided[place]
        ]
        while self._todo:
            place, states = self._todo.pop()
            if not self._expand(place, states):
                return False
        return True

    def _expand(self, place: int, states: int) -> bool:
        """Go over every character that the child may have at this place; False if it has more."""
        child, step = self._child, self._parent.step
        letter, past, stops = child.letters[place], child.past[place], child.stops[place]
        if letter is not None and not self._reach(place + 1, step(states, letter)):
            return False
        if past is not None and not self._reach(place + 2, step(states, past)):
            return False
        if stops is None:
            return True
        return all(
            self._reach(place, step(states, character))
            for character in self._letters(states)
            if character not in stops
        )

    def _letters(self, states: int) -> list[str]:
        """The characters that are not all alike to these states, and one for those that are.

        What is gone through, and paid for, is what stands at these places, or every letter of the parent if
        those are fewer.
        """
        parent, count = self._parent, states.bit_count()
        self._budget.spend(self._cost * min(len(parent.moves), count) // LETTERS_A_STATE)
        if len(parent.moves) <= count:
            other = parent.other.stay & states
            return [
                character
                for character, (on, past, stay) in parent.moves.items()
                if states & (on | past) or states & stay != other
            ] + [self._other]
        letters: dict[str, None] = {}
        for place in _places(states):
            for characters in (parent.letters[place], parent.past[place], parent.stops[place]):
                if characters:
                    letters.update(dict.fromkeys(characters))
        letters[self._other] = None
        return list(letters)

    def _reach(self, place: int, states: int) -> bool:
        """Note a state of the search, unless nothing can come of it; False if the child has more."""
        self._budget.spend(self._cost)
        if not states:
            return False
        if self._child.accepting >> place & 1 and not states & self._parent.accepting:
            return False
        if states & self._decided[place] or (place, states) in self._seen:
            return True
        self._seen[place, states] = None
        smallest = self._smallest.setdefault(place, [])
        if any(fewer & states == fewer for fewer in smallest):
            return True
        if len(smallest) < _SMALLEST:
            smallest.append(states)
        self._todo.append((place, states))
        return True


def _same_ends(parent: Automaton, child: Automaton) -> list[int]:
    """For each place of the child the states of the parent after which exactly the same is matched."""
    ends: Suffixes = {}
    masks: dict[int, int] = {}
    for place, end in _ends(parent, ends):
        masks[end] = masks.get(end, 0) | 1 << place
    same = [0] * len(child.letters)
    for place, end in _ends(child, ends):
        same[place] = masks.get(end, 0)
    return same


def _ends(automaton: Automaton, ends: Suffixes) -> list[tuple[int, int]]:
    """Each place with a number for what follows it; the last of the pattern has no letter."""
    found = []
    after = after_that = -1
    for place in range(len(automaton.letters) - 1, -1, -1):
        letter, past = automaton.letters[place], automaton.past[place]
        key = (
            automaton.accepting >> place & 1,
            automaton.stops[place],
            letter,
            -1 if letter is None else after,
            past,
            -1 if past is None else after_that,
        )
        after, after_that = ends.setdefault(key, len(ends)), after
        found.append((place, after))
    return found


def _unnamed(parent: Automaton, child: Automaton) -> str:
    """A character that neither names."""
    code = ord(_OTHER)
    while chr(code) in parent.moves or chr(code) in child.moves:
        code += 1
    return chr(code)


def _places(states: int) -> list[int]:
    places = []
    while states:
        lowest = states & -states
        places.append(lowest.bit_length() - 1)
        states ^= lowest
    return places
