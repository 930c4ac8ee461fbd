"""Subsumption: whether patterns match everything that others match; exact, with bounded effort (§9.4)."""

from __future__ import annotations

from typing import Final

from .automaton import Automaton

MOST_STATES: Final = 20_000
"""States that are visited for one lease; without a decision by then it is not covered."""
LETTERS_A_STATE: Final = 4
"""Letters of a parent that are visited at the cost of one state."""
PLACES_A_STATE: Final = 2_048
"""Bits of a set of the parent's states that cost one state more."""

_OTHER: Final = "\ue000"
"""Stands for a character that no pattern names, unless a pattern names this one."""
_SMALLEST: Final = 16
"""Sets of the parent's states that are compared with a new one, for each state of the child."""

Suffixes = dict[tuple[object, ...], int]


class Spent(Exception):
    """The effort bound is used up."""


class Budget:
    """The number of states that may still be visited."""

    __slots__ = ("left",)

    def __init__(self, left: int = MOST_STATES) -> None:
        self.left = left

    def spend(self, states: int) -> None:
        """Deduct visited states; raises Spent when fewer are left."""
        self.left -= states
        if self.left < 0:
            raise Spent


def covers(parent: Automaton, child: Automaton, budget: Budget) -> bool:
    """Return whether `parent` matches everything that `child` matches.

    Raises Spent if that takes too long. A state of the search is a place of the child, and the set of states
    of the parent that the same text leads to; the child has more when its place accepts and none of the set
    does.
    """
    return _Search(parent, child, budget).run()


class _Search:
    """One comparison, with the states visited for it."""

    def __init__(self, parent: Automaton, child: Automaton, budget: Budget) -> None:
        self._parent = parent
        self._child = child
        self._budget = budget
        self._seen: dict[tuple[int, int], None] = {}
        self._smallest: dict[int, list[int]] = {}
        self._todo: list[tuple[int, int]] = []
        self._decided = [parent.universal | same for same in _same_ends(parent, child)]
        """For each place of the child, the states of the parent that accept everything accepted from it."""
        self._other = _unnamed(parent, child)
        self._cost = 1 + len(parent.letters) // PLACES_A_STATE

    def run(self) -> bool:
        """Return the answer. The empty text is not a target, so it is not compared."""
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
        """Visit every character that the child may have at this place; return False if the child has more."""
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
        """Return the characters that these states distinguish, and one for all others.

        The characters at these places are visited and paid for, or every letter of the parent if those are
        fewer.
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
        """Note a state of the search, unless it is decided; return False if the child has more."""
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
    """Return, for each place of the child, the states of the parent with exactly the same continuation."""
    ends: Suffixes = {}
    masks: dict[int, int] = {}
    for place, end in _ends(parent, ends):
        masks[end] = masks.get(end, 0) | 1 << place
    same = [0] * len(child.letters)
    for place, end in _ends(child, ends):
        same[place] = masks.get(end, 0)
    return same


def _ends(automaton: Automaton, ends: Suffixes) -> list[tuple[int, int]]:
    """Return each place with a number for its continuation; the last place of a pattern has no letter."""
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
    """Return a character that neither automaton names."""
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
