"""Tools that print or write how large features and matrices are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Optional

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.io import open_output
from sdpn_k2.kaldi.formats.tables import TableWriter, is_table, read_object, read_table
from sdpn_k2.kaldi.tools.command_line import tool


@tool(arguments=(1, 2))
def feat_to_len(options: SimpleNamespace, rspecifier: str, wspecifier: Optional[str] = None) -> None:
    """Write the number of frames of each utterance or, with one argument, print the total.

    Usage: feat-to-len [options] <in-rspecifier> [<out-wspecifier>]
     e.g.: feat-to-len scp:feats.scp ark,t:feats.lengths
       or: feat-to-len scp:feats.scp
    """
    with read_table(rspecifier, "general_matrix") as reader:
        if wspecifier is None:
            print(sum(features.shape[0] for _, features in reader))
            return
        with TableWriter(wspecifier, "int") as writer:
            for key, features in reader:
                writer.write(key, features.shape[0])


@tool()
def feat_to_dim(options: SimpleNamespace, rspecifier: str, output: str) -> None:
    """Write the dimension of the features: per utterance to a table, or of the first utterance to a file.

    Usage: feat-to-dim [options] <feat-rspecifier> (<dim-wspecifier>|<dim-wxfilename>)
     e.g.: feat-to-dim scp:feats.scp -
    """
    with read_table(rspecifier, "general_matrix") as reader:
        if is_table(output):
            with TableWriter(output, "int") as writer:
                for key, features in reader:
                    writer.write(key, features.shape[1])
            return
        first = next(iter(reader), None)
        if first is None:
            raise InputError(f"{rspecifier}: Could not read any features (empty archive?)")
        with open_output(output) as stream:
            stream.write(b"%d\n" % first[1].shape[1])


@tool(arguments=(1, 1))
def matrix_dim(options: SimpleNamespace, source: str) -> Optional[int]:
    """Print the dimensions of a matrix, 'rows<tab>columns', or of each matrix of a table, 'key<tab>rows<tab>columns'.

    Usage: matrix-dim [options] <matrix-rxfilename>|<matrix-rspecifier>
     e.g.: matrix-dim final.mat | cut -f 2
    """
    with open_output("-") as stream:
        if not is_table(source):
            stream.write(b"%d\t%d\n" % read_object(source, "general_matrix").shape)
            return None
        done = 0
        for key, matrix in read_table(source, "general_matrix"):
            stream.write(key.encode("utf-8", "surrogateescape") + b"\t%d\t%d\n" % matrix.shape)
            done += 1
        return done
