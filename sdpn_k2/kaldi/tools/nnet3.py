"""The command lines of nnet3 networks: nnet3-copy, nnet3-info, nnet3-xvector-compute."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Iterator, Tuple

import numpy as np

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.kaldi.features.feature_table import read_features
from sdpn_k2.kaldi.formats.io import open_input
from sdpn_k2.kaldi.formats.log import log, warn
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.kaldi.formats.words import strip
from sdpn_k2.kaldi.nnet3.computation import Computer
from sdpn_k2.kaldi.nnet3.raw_network import read_network, write_network
from sdpn_k2.kaldi.nnet3.summary import describe
from sdpn_k2.kaldi.tools.command_line import Option, tool

_AT_ZERO = np.zeros(1, np.int64)


@tool(
    options=[
        Option("binary", True, "Write output in binary mode"),
        Option("edits", "", "Edits of the network, separated by semicolons, e.g. --edits=remove-orphans"),
        Option("edits-config", "", "File with an edit in each line (applied after --nnet-config)"),
        Option("learning-rate", -1.0, "If not negative, the learning rate of all components is set to this value"),
        Option("nnet-config", "", "nnet3 config file with nodes to add or replace (new components are not supported)"),
        Option("scale", 1.0, "The parameters of the components are scaled by this value"),
        Option("set-dropout-proportion", 0.0, "If above zero, the proportion of all dropout components"),
    ]
)
def nnet3_copy(options: SimpleNamespace, nnet_rxfilename: str, nnet_wxfilename: str) -> None:
    """Copy a 'raw' nnet3 neural network, and change its nodes.

    The edits are remove-orphans, remove-orphan-nodes, remove-orphan-components, remove-output-nodes name=x*,
    rename-node old-name=a new-name=b, set-learning-rate, set-learning-rate-factor and set-dropout-proportion.

    Usage:  nnet3-copy [options] <nnet-in> <nnet-out>
     e.g.: nnet3-copy --binary=false 0.raw text.raw
           nnet3-copy --nnet-config=extract.config final.raw - |
    """
    network = read_network(nnet_rxfilename)
    if options.nnet_config:
        with error_context(options.nnet_config):
            network.add_config(_lines(options.nnet_config))
    if options.learning_rate >= 0:
        network.set_field("LearningRate", options.learning_rate)
    if options.scale != 1.0:
        network.scale(options.scale)
    if options.set_dropout_proportion > 0:
        network.set_field("DropoutProportion", options.set_dropout_proportion)
    edits = list(_lines(options.edits_config)) if options.edits_config else []
    for edit in edits + options.edits.split(";"):
        command = strip(edit.partition("#")[0])
        if command:
            network.edit(command)
    write_network(nnet_wxfilename, network, options.binary)
    log(f"Copied raw neural net from {nnet_rxfilename} to {nnet_wxfilename}")


def _lines(rxfilename: str) -> Iterator[str]:
    with open_input(rxfilename) as stream:
        yield from stream.lines()


@tool(arguments=(1, 1))
def nnet3_info(_options: SimpleNamespace, nnet_rxfilename: str) -> None:
    """Print some text information about a 'raw' nnet3 neural network to standard output.

    Usage:  nnet3-info [options] <raw-nnet>
     e.g.: nnet3-info 0.raw
    """
    network = read_network(nnet_rxfilename)
    with error_context(nnet_rxfilename):
        sys.stdout.write(describe(network))


@tool(
    options=[
        Option("cache-capacity", 64, "Number of lengths of input whose computation is kept"),
        Option("chunk-size", -1, "If set, extracts xvectors from specified chunk-size, and averages"),
        Option("min-chunk-size", 100, "Minimum chunk-size allowed when extracting xvectors"),
        Option("pad-input", True, "If true, repeat the first and last frame of an input shorter than --min-chunk-size"),
        Option("use-gpu", "no", "yes|no|optional|wait, without effect: the computation runs on the processor"),
    ],
    arguments=(3, 3),
)
def nnet3_xvector_compute(
    options: SimpleNamespace, nnet_rxfilename: str, features_rspecifier: str, vector_wspecifier: str
) -> int:
    """Propagate features through an xvector neural network model and write the output vectors.

    By default, one xvector is extracted directly from the set of features for each utterance. Optionally, xvectors are
    extracted from chunks of input features and averaged, weighted by the lengths of the chunks.

    Usage: nnet3-xvector-compute [options] <raw-nnet-in> <features-rspecifier> <vector-wspecifier>
     e.g.: nnet3-xvector-compute final.raw scp:feats.scp ark:nnet_prediction.ark
    """
    if options.chunk_size < 1 and options.chunk_size != -1:
        raise InputError(f"--chunk-size={options.chunk_size}: expected a number of frames, or -1 for no chunks")
    network = read_network(nnet_rxfilename)
    with error_context(nnet_rxfilename):
        computer = Computer(network, capacity=max(1, options.cache_capacity))
    done = failed = frames = 0
    with TableWriter(vector_wspecifier, "vector") as writer:
        for key, features in read_features(features_rspecifier):
            if not len(features):
                warn(f"Zero-length utterance: {key}")
                failed += 1
                continue
            if not options.pad_input and len(features) < options.min_chunk_size:
                warn(
                    f"Minimum chunk size of {options.min_chunk_size} is greater than the number of rows in utterance: "
                    f"{key}"
                )
                failed += 1
                continue
            if len(features) < options.chunk_size:
                log(
                    f"Chunk size of {options.chunk_size} is greater than the number of rows in utterance: {key}, using "
                    f"chunk size  of {len(features)}"
                )
            total, weight = np.zeros(computer.output_dim, np.float32), 0
            with error_context(f"{features_rspecifier}: {key}"):
                for chunk, length in _chunks(features, options):
                    total += np.float32(length) * computer.compute(chunk, _AT_ZERO)[0]
                    weight += length
            if not weight:
                raise InputError(f"--chunk-size={options.chunk_size} is smaller than --min-chunk-size")
            writer.write(key, total * np.float32(1 / weight))
            done += 1
            frames += len(features)
    log(f"Computed {done} vectors from {frames} frames.")
    log(f"Done {done} utterances, failed for {failed}")
    return done


def _chunks(features: np.ndarray, options: SimpleNamespace) -> Iterator[Tuple[np.ndarray, int]]:
    """Yield the chunks of an utterance, and the number of frames in each before padding."""
    size = len(features) if options.chunk_size == -1 else options.chunk_size
    for start in range(0, len(features), size):
        chunk = features[start : start + size]
        missing = options.min_chunk_size - len(chunk)
        if missing <= 0:
            yield chunk, len(chunk)
        elif options.pad_input:
            yield np.pad(chunk, ((missing // 2, missing - missing // 2), (0, 0)), "edge"), len(chunk)
