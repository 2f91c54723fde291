"""One person out of several: detections of unstable order linked by continuity, and which chain of links is followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

# The unit of distance is the person's own size (the diagonal of the box of the joints seen, about 1 to 1.2 body heights).
# A joint may be this far from where it was expected, plus what a fast mover covers meanwhile (1.5 sizes a second are
# about 3 m/s beyond the velocity that is already foreseen), and never further than the last.
_NEAR = 0.25
_NEAR_PER_S = 1.5
_NEAR_MOST = 1.0
_FORESEE_S = 0.2  # velocity is trusted this far into a gap
_FORGET_S = 1.0  # someone not detected for longer begins a new link when he comes back
_GHOST_FRAMES = 3  # links that are shorter are flickers of the detector, unless there is nothing else
_MIN_JOINTS = 3  # a detection of fewer joints has no size and no pose
_MIN_CONF = 0.05


class Switch(NamedTuple):
    """At frame `frame` another detection is taken, `sizes` body sizes away from where the person was last seen at `last`."""

    frame: int
    last: int
    sizes: float


class Track(NamedTuple):
    """keypoints (T, J, 3) of one person, 0 where he was not detected; who is followed changes at each of `switches`."""

    keypoints: NDArray[np.float64]
    switches: tuple[Switch, ...]


def track_person(frames: Sequence[NDArray[np.floating]], fps: float) -> Track:
    """The keypoints of one person, the largest in the first second, followed by continuity through all frames.

    frames: for each of T frames an array (P, J, 3) of P >= 0 people in any order, last axis (x px, y px, confidence), J
    the same in all. fps: their rate, Hz. Everybody is followed, so that in a crossing a detection goes to the person
    it continues (the best assignment of all people, each foreseen with constant velocity) and a person hidden for a
    moment is a gap and not his neighbour. Where he stays away for more than a second (`_FORGET_S`), or moves further
    than a person can, whoever is detected next is taken, of several the one nearest to where he was. That is a
    switch, unless it lies near and was not there beside him before. Frames without him are zeros, which `fill_gaps`
    takes for gaps. No frames, or nobody in them, give zeros and no switches. The rules are ours.
    """
    people = [np.asarray(frame, dtype=np.float64) for frame in frames]
    joints = next((frame.shape[1] for frame in people if frame.ndim == 3), 0)
    keypoints = np.zeros((len(people), joints, 3))
    switches: list[Switch] = []
    links = _links(people, fps)
    links = [link for link in links if len(link.found) >= _GHOST_FRAMES] or links
    last: int | None = None
    current: _Link | None = None
    while (found := _next_link(links, current, last, _FORGET_S * fps)) is not None:
        link, first = found
        if current is not None and last is not None:
            sizes = _apart(current.points[last], link.points[first]) / current.size
            if sizes > _allowed((first - last) / fps) or min(link.found) <= last:
                switches.append(Switch(first, last, round(float(sizes), 2)))
        for t, index in link.found.items():
            if t >= first:
                keypoints[t] = people[t][index]
        current, last = link, max(link.found)
    return Track(keypoints, tuple(switches))


@dataclass
class _Link:
    """One person as far as he can be followed: frame -> index of the detection, frame -> its joints (J, 2), NaN unseen."""

    pose: NDArray[np.float64]
    size: float
    last: int
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # px a frame
    found: dict[int, int] = field(default_factory=dict)
    points: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def foreseen(self, t: int, fps: float) -> NDArray[np.float64]:
        """Where his joints (J, 2) should be at frame t."""
        return self.pose + self.velocity * min(t - self.last, max(1.0, _FORESEE_S * fps))

    def add(self, t: int, index: int, points: NDArray[np.float64]) -> None:
        """Detection `index` of frame t is he; joints not seen now stay where they moved along with the others."""
        if self.found:
            moved = (points - self.pose)[_both(points, self.pose)]
            step = moved.mean(axis=0) if len(moved) else np.zeros(2)
            velocity = step / (t - self.last)
            self.velocity = velocity if len(self.found) == 1 else 0.5 * (self.velocity + velocity)
            self.pose = np.where(np.isfinite(points), points, self.pose + step)
            self.size = max(_size(points), 0.98 * self.size)
        self.found[t], self.points[t], self.last = index, points, t


def _links(people: list[NDArray[np.float64]], fps: float) -> list[_Link]:
    """Everybody's links, in order of their first frame."""
    links: list[_Link] = []
    alive: list[_Link] = []
    for t, frame in enumerate(people):
        seen = dict(_detections(frame))
        alive = [link for link in alive if t - link.last <= max(1.0, _FORGET_S * fps)]
        taken = _assign(alive, list(seen.items()), t, fps)
        for index, points in seen.items():
            link = taken.get(index)
            if link is None:
                link = _Link(points, _size(points), t)
                links.append(link)
                alive.append(link)
            link.add(t, index, points)
    return links


def _detections(frame: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Index and joints (J, 2), NaN where unseen, of each detection with enough joints."""
    for index, person in enumerate(frame):
        seen = np.isfinite(person).all(axis=1) & (person[:, 2] >= _MIN_CONF)
        points = np.where(seen[:, None], person[:, :2], np.nan)
        if seen.sum() >= _MIN_JOINTS and _size(points) > 0:
            yield index, points


def _assign(
    alive: list[_Link], seen: list[tuple[int, NDArray[np.float64]]], t: int, fps: float
) -> dict[int, _Link]:
    """Detection -> the link it continues: the assignment that leaves the fewest out, then the nearest in sum."""
    if not alive or not seen:
        return {}
    too_far = 1e3
    cost = np.full((len(alive), len(seen)), too_far)
    for row, link in enumerate(alive):
        expected, allowed = link.foreseen(t, fps), _allowed((t - link.last) / fps)
        for column, (_, points) in enumerate(seen):
            distance = _apart(expected, points) / link.size
            if distance <= allowed:
                # Of two halves of one person the one with more joints.
                cost[row, column] = distance + 0.1 * float(np.isnan(points).any(axis=1).mean())
    rows, columns = linear_sum_assignment(cost)
    return {
        seen[column][0]: alive[row]
        for row, column in zip(rows, columns, strict=True)
        if cost[row, column] < too_far
    }


def _next_link(
    links: list[_Link], current: _Link | None, last: int | None, forget_frames: float
) -> tuple[_Link, int] | None:
    """The link to follow after frame `last` (None: from the start) and its first frame there; None at the end.

    Nobody is followed who is there only for the moment in which the other might as well come back.
    """
    if current is None or last is None:
        if not links:
            return None
        # The largest may be missed by the detector in the very first frame, in which a bystander is not.
        starts = {id(link): min(link.found) for link in links}
        soon = min(starts.values()) + forget_frames
        beginning = [link for link in links if starts[id(link)] < soon]
        largest = max(beginning, key=lambda link: _size(link.points[starts[id(link)]]))
        return largest, starts[id(largest)]
    later = []
    for link in links:
        after = [t for t in link.found if t > last]
        if len(after) >= _GHOST_FRAMES and max(after) - last > forget_frames:
            later.append((min(after), link))
    if not later:
        return None
    first = min(frame for frame, _ in later)
    here = current.points[last]
    nearest = min(
        (link for frame, link in later if frame == first), key=lambda link: _apart(here, link.points[first])
    )
    return nearest, first


def _allowed(seconds: float) -> float:
    """How far, in sizes, a person may be from where he is expected after a time."""
    return min(_NEAR + _NEAR_PER_S * seconds, _NEAR_MOST)


def _apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean distance of the joints seen in both, px; of the middles where there is none."""
    between = (a - b)[_both(a, b)]
    if len(between):
        return float(np.hypot(between[:, 0], between[:, 1]).mean())
    return float(np.linalg.norm(np.nanmean(a, axis=0) - np.nanmean(b, axis=0)))


def _both(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which joints are seen in both; x is NaN where y is."""
    both: NDArray[np.bool_] = np.isfinite(a[:, 0]) & np.isfinite(b[:, 0])
    return both


def _size(points: NDArray[np.float64]) -> float:
    """Diagonal of the box around the joints seen, px."""
    seen = points[np.isfinite(points[:, 0])]
    width, height = seen.max(axis=0) - seen.min(axis=0)
    return float(np.hypot(width, height))
