"""Token buckets: arithmetic on clock readings, one number of state each, and no timer (§14)."""

from __future__ import annotations

from collections import OrderedDict

from arcp_proto.ids import SECOND, Monotonic


class Bucket:
    """A token bucket that passes `burst` at once, and then `rate` in `per` nanoseconds.

    A bucket that was charged beyond what it holds takes longer to pass anything again.
    """

    __slots__ = ("_depth", "_full_at", "_interval")

    def __init__(self, rate: int, burst: int, per: int = SECOND) -> None:
        """Take a `rate` and a `burst` of at least 1."""
        self._interval = -(-per // rate)
        self._depth = burst * self._interval
        self._full_at = 0

    def ready(self, now: Monotonic) -> bool:
        """Return whether one more may pass."""
        return self._full_at + self._interval <= now + self._depth

    def charge(self, now: Monotonic, count: int = 1) -> None:
        """Charge a count, even if it may not pass."""
        self._full_at = (self._full_at if self._full_at > now else now) + count * self._interval

    def take(self, now: Monotonic) -> bool:
        """Charge one if it may pass; return whether it may."""
        if self.ready(now):
            self.charge(now)
            return True
        return False

    def take_with(self, other: Bucket, now: Monotonic) -> bool:
        """Charge one in both buckets if it may pass both; return whether it may."""
        mine, theirs = self._full_at, other._full_at
        if mine + self._interval > now + self._depth or theirs + other._interval > now + other._depth:
            return False
        self._full_at = (mine if mine > now else now) + self._interval
        other._full_at = (theirs if theirs > now else now) + other._interval
        return True

    def wait(self, now: Monotonic) -> int:
        """Return the nanoseconds until one more may pass; 0 if it may now."""
        return max(0, self._full_at + self._interval - now - self._depth)

    def wait_for_half(self, now: Monotonic) -> int:
        """Return the nanoseconds until half of `burst` may pass at once; 0 if it may now."""
        return max(0, self._full_at - now - self._depth // 2)

    def is_full(self, now: Monotonic) -> bool:
        """Return whether the bucket is as if nothing had ever passed."""
        return self._full_at <= now


class Window:
    """A counter that begins anew a second after its first count."""

    __slots__ = ("_count", "_since")

    def __init__(self, now: Monotonic) -> None:
        self._since = now
        self._count = 0

    def count(self, now: Monotonic) -> int:
        """Count one more; return the count in this window."""
        if now - self._since >= SECOND:
            self._since, self._count = now, 0
        self._count += 1
        return self._count


class Buckets:
    """A bucket for each of at most `most` names; a full one is forgotten, then the one unused for longest."""

    __slots__ = ("_buckets", "_burst", "_most", "_per", "_rate")

    def __init__(self, rate: int, burst: int, per: int = SECOND, *, most: int) -> None:
        self._rate, self._burst, self._per, self._most = rate, burst, per, most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, name: str, now: Monotonic) -> int:
        """Return the nanoseconds until one more of this name may pass; 0 if it may now. Changes nothing."""
        bucket = self._buckets.get(name)
        return 0 if bucket is None else bucket.wait(now)

    def charge(self, name: str, now: Monotonic) -> None:
        """Charge one to a name, even if it may not pass."""
        buckets = self._buckets
        bucket = buckets.get(name)
        if bucket is None:
            bucket = buckets[name] = Bucket(self._rate, self._burst, self._per)
        bucket.charge(now)
        buckets.move_to_end(name)
        for _ in range(2):  # Two at most, so that the surplus is dropped and no call takes long.
            first = next(iter(buckets))
            if len(buckets) > self._most or buckets[first].is_full(now):
                del buckets[first]
