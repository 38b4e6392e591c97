#!/usr/bin/env python3
"""Filter a table by several lists at once, reading it once.

Usage: utils/filter_scps.pl [--no-warn] [-f field] JOB=first:last id-list-pattern table output-pattern

    utils/filter_scps.pl JOB=1:8 data/train/split8/JOB/utt2spk data/train/feats.scp data/train/split8/JOB/feats.scp

  -f FIELD   field of the table that holds the key, counted from 1 (default: 1)
  --no-warn  do not warn about lines that go to no output, or to several

JOB stands for the job's number in both patterns; any other name will do.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.tools import script


def main(options, jobs, lists, table, outputs):
    field = script.whole_number(options.f, "the field", least=1) - 1
    match = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", jobs)
    if not match or int(match[3] or match[2]) < int(match[2]):
        raise InputError(f"expected a job range such as JOB=1:8, got '{jobs}'")
    job, numbers = match[1], range(int(match[2]), int(match[3] or match[2]) + 1)
    for pattern in (lists, outputs):
        if job not in pattern and len(numbers) > 1:
            raise InputError(f"'{pattern}' is the same for all jobs; add {job} to it")

    jobs_of = {}
    for number in numbers:
        for line in script.read_lines(lists.replace(job, str(number))):
            for key in line.split(None, 1)[:1]:
                jobs_of.setdefault(key, {})[number] = None
    chosen = {number: [] for number in numbers}
    nowhere = repeated = 0
    for line_number, line in enumerate(script.read_lines(table), start=1):
        fields = line.split(None, field + 1)
        if len(fields) <= field:
            raise InputError(f"{table}:{line_number}: no field {field + 1}")
        owners = jobs_of.get(fields[field].strip(), ())
        nowhere += not owners
        repeated += len(owners) > 1
        for number in owners:
            chosen[number].append(line)
    for number in numbers:
        with atomic_output(outputs.replace(job, str(number))) as stream:
            stream.writelines(chosen[number])
    if nowhere and not options.no_warn:
        script.warn(f"warning: {nowhere} lines of {table} go to no output")
    if repeated and not options.no_warn:
        script.warn(f"warning: {repeated} lines of {table} go to several outputs")


script.run(main, __doc__, arguments=(4, 4), flags=["--no-warn"], values={"-f": "1"})
