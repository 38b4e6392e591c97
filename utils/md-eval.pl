#!/usr/bin/env python3
"""Compare diarizations with a reference: diarization error rate, as NIST's md-eval.pl computes and prints it.

Usage: md-eval.pl [options] -r reference.rttm -s system.rttm

    md-eval.pl -1 -c 0.25 -r data/test/ref.rttm -s exp/plda_scores/rttm

  -r FILE, -R LIST  reference in RTTM format, or a file that lists several
  -s FILE, -S LIST  output of the system, likewise; "-" means standard input
  -u FILE           regions to score, in UEM format (default: from the first to the last time of the reference)
  -c SECONDS        do not score within this time of the reference's borders (default: 0)
  -1                do not score where several speakers of the reference speak
  -a cf             also print the errors by channel (c), recording (f), or both
  -m                print which speakers were mapped to each other
  -M FILE           write that as comma-separated values
  -n                keep folders in the names of recordings in the UEM file

Recordings are matched by name and channel. Only speakers are scored. Options about words and other metadata (-w, -W,
-e, -x, …) are refused; -o, -d, -D and -v have no effect.
"""

import getopt
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError, error_context
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.backend.diarization_error import DiarizationErrors, score_recording
from sdpn_k2.kaldi.datadir import rttm
from sdpn_k2.kaldi.formats import words
from sdpn_k2.kaldi.tools import script

VERSION = 22  # of md-eval.pl whose rules these are
FLAGS, VALUES = "nhdDwWox1mve", "cRrSstTgpPaAulyYzZM"
REFUSED = "wWextTgpPAlyYzZ"
LINE = "---------------------------------------------"
# Records that extend the time to score.
TIMED = {"SEGMENT", "SPEAKER", "SU", "EDIT", "FILLER", "IP", "CB", "A/P", "LEXEME", "NON-LEX"}


def main(_, *arguments):
    options = parse(arguments)
    collar = script.number(options.get("-c", "0"), "-c")
    reference, system = (by_recording(read(options, name)) for name in "rs")
    regions = rttm.read_uem(options["-u"], "-n" in options) if "-u" in options else {}
    shown = options.get("-a", "").lower()

    now = time.strftime("%Y %b %d at %H:%M:%S")
    print(f"command line (run on {now}) Version: {VERSION}  {' '.join(sys.argv)}\n\nTime-based metadata alignment\n")
    print(
        f"Speaker Diarization evaluation parameters:\n    The no-score collar at SPEAKER boundaries is {collar:g} sec\n"
    )
    warn_of_mismatch(reference, system)
    totals, mappings = {}, []
    for key in sorted(reference):
        records = reference[key]
        if not any(record.type == "SPEAKER" for record in records):
            continue
        begin = min(record.start for record in records if record.type in TIMED)
        end = max(record.end for record in records if record.type in TIMED)
        scored = score_recording(
            speakers(records),
            speakers(system.get(key, [])),
            regions.get(key, [(begin, end)]),
            collar=collar,
            single_speaker="-1" in options,
            excluded=[(record.start, record.end) for record in records if record.type == "NOSCORE"],
        )
        mappings.append((key, scored))
        name = f"{f'c={key[1]} ' if 'c' in shown else ''}{f'f={key[0]}' if 'f' in shown else ''}".strip()
        for condition in {name, "ALL"} - {""}:
            totals[condition] = totals.get(condition, DiarizationErrors()) + scored.errors
        if "-m" in options:
            print_mapping(scored)
    if not totals:
        raise InputError("the reference has no SPEAKER records")
    if "-M" in options:
        write_mappings(options["-M"], mappings)
    for condition in [*sorted(name for name in totals if name != "ALL"), "ALL"]:
        print_errors(condition, totals[condition])


def parse(arguments):
    """Return option → value ("" for flags). As in Perl's Getopt::Std, options are letters, and flags may be joined."""
    try:
        pairs, rest = getopt.getopt(list(arguments), FLAGS + "".join(f"{letter}:" for letter in VALUES))
    except getopt.GetoptError as error:
        raise InputError(f"{error}; --help lists the options") from None
    options = dict(pairs)
    for name in options:
        if name[1] in REFUSED:
            raise InputError(f"option {name} concerns words and other metadata; only speakers are scored here")
    if rest:
        raise InputError(f"unexpected argument {rest[0]!r}; --help shows the usage")
    for one, several, what in (("-r", "-R", "reference"), ("-s", "-S", "output of the system")):
        if (one in options) == (several in options):
            raise InputError(f"expected one {what}, in RTTM format: {one} FILE or {several} LIST")
    return options


def read(options, letter):
    """Return the records that -r or -R (-s or -S) names."""
    if f"-{letter}" in options:
        return rttm.read_rttm(options[f"-{letter}"])
    files = script.read_lines(options[f"-{letter.upper()}"])
    names = [words.strip(line.decode("utf-8", "surrogateescape")) for line in files]
    return [record for name in names if name for record in rttm.read_rttm(name)]


def by_recording(records):
    """Return (recording, channel) → its records."""
    groups = {}
    for record in records:
        groups.setdefault((record.recording, record.channel), []).append(record)
    return groups


def speakers(records):
    """Return speaker → spans in which they speak."""
    spans = {}
    for record in records:
        if record.type == "SPEAKER":
            spans.setdefault(record.speaker, []).append((record.start, record.end))
    return spans


def warn_of_mismatch(reference, system):
    """Say which recordings only one side has: a wrong channel makes all of a recording missed."""
    for one, other, what in ((reference, system, "the system's output"), (system, reference, "the reference")):
        lacking = [key for key in one if key not in other]
        if lacking:
            name, channel = lacking[0]
            channels = ", ".join(sorted(key[1] for key in other if key[0] == name))
            script.warn(
                f"warning: {len(lacking)} recordings are not in {what}, such as {name}, channel {channel}"
                + (f" (there it has channel {channels})" if channels else "")
            )
    ignored = sum(record.type == "NON-LEX" for records in reference.values() for record in records)
    if ignored:
        script.warn(f"warning: {ignored} NON-LEX records: NIST's md-eval.pl does not score around them, this one does")


def print_mapping(scored):
    for ours, pairs in itertools.groupby(sorted(scored.shared.items()), key=lambda item: item[0][0]):
        print(f"'{ours}' => " + (f"'{scored.pairs[ours]}'" if ours in scored.pairs else "<nil>"))
        for (_, theirs), seconds in pairs:
            print(f"{seconds:9.2f} secs matched to '{theirs}'")


def write_mappings(path, mappings):
    with atomic_output(path, "w") as stream:
        stream.write("File,Channel,RefSpeaker,SysSpeaker,isMapped,timeOverlap\n")
        for (name, channel), scored in mappings:
            for (ours, theirs), seconds in sorted(scored.shared.items()):
                mapped = "mapped" if scored.pairs.get(ours) == theirs else "notmapped"
                stream.write(f"{name},{channel},{ours},{theirs},{mapped},{seconds:.4f}\n")


def print_errors(condition, errors):
    with error_context(condition):
        rate = errors.rate

    def line(name, seconds, whole, what):
        share = 100 * seconds / whole if whole else 0.0
        print(f"{name} ={seconds:10.2f} secs ({share:5.1f} percent of {what})")

    print(f"\n*** Performance analysis for Speaker Diarization for {condition} ***\n")
    print(f"    EVAL TIME ={errors.evaluated:10.2f} secs")
    line("  EVAL SPEECH", errors.evaluated_speech, errors.evaluated, "evaluated time")
    line("  SCORED TIME", errors.scored, errors.evaluated, "evaluated time")
    line("SCORED SPEECH", errors.scored_speech, errors.scored, "scored time")
    print(LINE)
    line("MISSED SPEECH", errors.missed_speech, errors.scored, "scored time")
    line("FALARM SPEECH", errors.false_speech, errors.scored, "scored time")
    print(LINE)
    line("SCORED SPEAKER TIME", errors.scored_speaker, errors.scored_speech, "scored speech")
    line("MISSED SPEAKER TIME", errors.missed_speaker, errors.scored_speaker, "scored speaker time")
    line("FALARM SPEAKER TIME", errors.false_speaker, errors.scored_speaker, "scored speaker time")
    line(" SPEAKER ERROR TIME", errors.confusion, errors.scored_speaker, "scored speaker time")
    print(LINE)
    print(
        f" OVERALL SPEAKER DIARIZATION ERROR = {100 * rate:.2f} percent of scored speaker time  `({condition})\n{LINE}"
    )


script.run(main, __doc__, arguments=(0, None), unparsed=True)
