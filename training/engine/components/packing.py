"""Fitting rows of different lengths into packs of one length, so that every step has about the same work."""

from bisect import bisect_left, insort


def pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """Indices of rows, grouped into packs of at most `capacity` tokens, by best fit decreasing.

    Rows are placed longest first, each into the pack with the least room that is enough. Equal lengths keep their
    order, so the same input gives the same packs. Raises ValueError for a row longer than `capacity`.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, pack), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"row {index} has {length} tokens, a pack has room for {capacity}")
        at = bisect_left(rooms, (length, -1))
        if at < len(rooms):
            room, chosen = rooms.pop(at)
            packs[chosen].append(index)
        else:
            room, chosen = capacity, len(packs)
            packs.append([index])
        insort(rooms, (room - length, chosen))
    return packs
