"""Choose from, shuffle and split lists of lines, with the same results as Kaldi's split_scp.pl and related scripts."""

from typing import Dict, Iterator, List, Mapping, Sequence, TypeVar

from sdpn_k2.errors import InputError

Item = TypeVar("Item")


def spread(items: Sequence[Item], number: int) -> List[Item]:
    """Choose ``number`` items evenly: each half of the list contributes half of them (utils/subset_scp.pl)."""

    def choose(start: int, end: int, number: int) -> Iterator[Item]:
        if number == end - start:
            yield from items[start:end]
        elif number > 0:
            middle = start + (end - start) // 2
            yield from choose(start, middle, number // 2)
            yield from choose(middle, end, number - number // 2)

    if number > len(items):
        raise InputError(f"cannot choose {number} of {len(items)} items")
    return list(choose(0, len(items), number))


def shuffle(items: Sequence[Item], seed: int = 0) -> List[Item]:
    """Shuffle into the order of utils/shuffle_list.pl, which sorts by a random number for each item.

    Perl's ``rand`` is drand48 on every platform, and shuffle_list.pl compares the numbers as Perl prints them.
    """
    state = (seed << 16) + 0x330E
    keys = []
    for _ in items:
        state = (0x5DEECE66D * state + 0xB) % 2**48
        keys.append(f"{state / 2**48:.15g}")
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def split(items: Sequence[Item], parts: int) -> List[Sequence[Item]]:
    """Split a list into ``parts`` consecutive parts whose lengths differ by at most one, longer ones first."""
    if not 1 <= parts <= len(items):
        raise InputError(f"cannot split {len(items)} lines into {parts} parts")
    size, longer = divmod(len(items), parts)
    starts = [part * size + min(part, longer) for part in range(parts + 1)]
    return [items[start:end] for start, end in zip(starts, starts[1:])]


def split_by_speaker(
    items: Sequence[Item], speakers: Sequence[str], parts: int, source: str = "the list"
) -> List[List[Item]]:
    """Split into parts of similar length, with each speaker in one part only (utils/split_scp.pl --utt2spk).

    Speakers stay in order of appearance. Each part first gets the same number of speakers. Then the first or last
    speaker of a part moves to the neighbouring part as long as this makes the two lengths more similar.

    Args:
        items: items to split.
        speakers: speaker of each item.
        parts: number of parts.
        source: name of the items for error messages.

    Raises:
        InputError: there are fewer speakers than parts.
    """
    of_speaker: Dict[str, List[Item]] = {}
    for item, speaker in zip(items, speakers):
        of_speaker.setdefault(speaker, []).append(item)
    names = list(of_speaker)
    if not 1 <= parts <= len(names):
        raise InputError(f"{source} has only {len(names)} speakers, too few for {parts} parts")

    bounds = [-(-part * len(names) // parts) for part in range(parts + 1)]
    groups = [names[start:end] for start, end in zip(bounds, bounds[1:])]
    lengths = [sum(len(of_speaker[name]) for name in group) for group in groups]

    def moves_nearer(giver: int, taker: int, size: int) -> bool:
        return abs((lengths[taker] + size) - (lengths[giver] - size)) < abs(lengths[taker] - lengths[giver])

    moved = True
    while moved:
        moved = False
        for part in range(parts):
            # Move its last speaker to the next part, then its first to the previous one.
            for taker, position in ((part + 1, -1), (part - 1, 0)):
                if not 0 <= taker < parts or not groups[part]:
                    continue
                size = len(of_speaker[groups[part][position]])
                if moves_nearer(part, taker, size):
                    name = groups[part].pop(position)
                    groups[taker].insert(0 if position else len(groups[taker]), name)
                    lengths[part] -= size
                    lengths[taker] += size
                    moved = True
    return [[item for name in group for item in of_speaker[name]] for group in groups]


def speakers_of(keys: Sequence[str], utt2spk: Mapping[str, str], source: str) -> List[str]:
    """Return the speaker of each key. Raises InputError for the first key that is not in utt2spk."""
    try:
        return [utt2spk[key] for key in keys]
    except KeyError as error:
        raise InputError(f"{source}: {error} has no speaker in utt2spk") from None
